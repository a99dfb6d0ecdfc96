"""Training and playing the language-model agents from a config, on a base model of random weights."""

import json
import shutil

import jax
import numpy as np
import pytest
import tiny
from flax import nnx

from mma_jax.config import base
from mma_jax.evaluation.replay import AlteredEnvironment
from mma_jax.evaluation.results import Cell
from mma_jax.learning import ppo
from mma_jax.learning.checkpoint import Checkpoints
from mma_jax.models import peft
from mma_jax.models.convert import save_llama
from mma_jax.models.llama import Llama, LlamaConfig
from mma_jax.runs import evaluate, train
from mma_jax.runs.agents import Agents
from mma_jax.runs.language import Language
from mma_jax.runs.prepare import experiment
from mma_jax.types import InputError


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tiny.base_model(folder)
    return folder


@pytest.fixture(scope="module")
def config(checkpoint):
    config = base()
    config.methods = "RuleRouter-Fuse,ReAct,MMA-SFT,MMA-Auto"
    config.update_from_flattened_dict(tiny.SETTINGS)
    config.model.path = str(checkpoint)
    config.world.images = False
    config.graph.source = "copurchases"
    config.env.count = "model"
    config.sft.steps = 4
    config.ppo.iterations, config.ppo.prompts, config.ppo.samples = 2, 2, 2
    config.ppo.value_only, config.ppo.temperature, config.ppo.validate = 0, 1.0, 1
    config.ppo.baseline, config.ppo.credit = "siblings", "candidate"
    config.eval.bootstrap, config.eval.traces, config.eval.probes = 20, 1, 2
    return config


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    train.run(config, directory, dry_run=False)
    return directory


def panel(directory, method):
    return [json.loads(line) for line in (directory / "train" / method / "0" / "panel.jsonl").open()]


def test_train_leaves_a_panel_and_checkpoints_for_every_agent(trained, config):
    assert panel(trained, "MMA-SFT")[-1]["iteration"] == config.sft.steps
    last = panel(trained, "MMA-Auto")[-1]
    assert last["iteration"] == config.ppo.iterations
    assert {"reward", "kl", "entropy", "invalid_rate", "query_reward", "dlogp_max", "alarms"} <= set(last)
    assert any(name.startswith("query_reward/") for name in last)
    assert last["dlogp_max"] < 1e-3  # sampler and trainer compute the same


def test_a_rerun_trains_nothing_again(trained, config):
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("panel.jsonl")}
    train.run(config, trained, dry_run=False)
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("panel.jsonl")} == before


def test_ppo_starts_from_the_imitator(trained, config):
    made = experiment(config, trained)
    trainer = train.Trainer(made, Language(config))
    imitator, agent = (trainer.adapter(name, 0) for name in ("MMA-SFT", "MMA-Auto"))
    distance = sum(float(np.abs(a - b).sum()) for a, b in zip(*map(jax.tree.leaves, (imitator, agent)), strict=True))
    scratch = trainer.language.adapter(0)
    learned = sum(float(np.abs(a - b).sum()) for a, b in zip(*map(jax.tree.leaves, (imitator, scratch)), strict=True))
    assert 0 < distance < learned


def test_the_checkpoint_that_validates_best_is_the_agent(trained, config):
    trainer = train.Trainer(experiment(config, trained), Language(config))
    judged = {line["iteration"]: line["valid"] for line in panel(trained, "MMA-Auto")}
    state = ppo.init(trainer.adapter("MMA-SFT", 0), config.ppo)
    checkpoints = Checkpoints(trained / "train" / "MMA-Auto" / "0" / "checkpoints", 2)
    step, best, _ = checkpoints.best(state)
    checkpoints.close()
    assert judged[step] == max(judged.values()) and len(judged) == config.ppo.iterations
    for ours, theirs in zip(*map(jax.tree.leaves, (trainer.adapter("MMA-Auto", 0), best.params)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    validate = trainer.validation(train.RECIPES["MMA-Auto"])
    assert validate(best.params) == pytest.approx(judged[step], abs=1e-6)


def test_an_adapter_that_lost_its_checkpoints_is_not_trained_over(trained, config, tmp_path):
    copied = shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    adapter = copied / "train" / "MMA-SFT" / "0" / "adapter" / "adapter_model.safetensors"
    before = adapter.read_bytes()
    with pytest.raises(InputError, match=r"MMA-SFT/0 has a trained adapter and no checkpoints.* put them back"):
        train.run(config, copied, dry_run=False)
    assert adapter.read_bytes() == before


def test_trained_adapters_are_there_for_peft(trained, config):
    trainer = train.Trainer(experiment(config, trained), Language(config))
    language, agent = trainer.language, trainer.adapter("MMA-Auto", 0)
    folder = trained / "train" / "MMA-Auto" / "0" / "adapter"
    plain = nnx.merge(language.graph, language.adapter(5), language.frozen).model
    peft.load_peft(plain, folder)
    tokens = np.arange(12, dtype=np.int32)[None]
    expected = nnx.merge(language.graph, agent, language.frozen).model(tokens)
    np.testing.assert_array_equal(np.asarray(plain(tokens)), np.asarray(expected))


def test_rule_14_a_grammar_leaves_no_invalid_turn(config, tmp_path):
    """DESIGN §6.14, through PPO: sampler and trainer mask alike."""
    config = config.copy_and_resolve_references()
    config.methods, config.sampler.grammar = "MMA-Auto", "on"
    config.sft.steps, config.ppo.iterations, config.ppo.validate = 1, 1, 0
    train.run(config, tmp_path, dry_run=False)
    [line] = panel(tmp_path, "MMA-Auto")
    assert line["invalid_rate"] == 0 and line["dlogp_max"] < 1e-3
    assert line["clip_fraction"] == 0 and line["ratio_max"] == pytest.approx(1, abs=1e-4)
    language, env = Language(config), experiment(config, tmp_path).environment("train", "ooma")
    assert language.grammar(env) is language.grammar(experiment(config, tmp_path).environment("test", "ooma"))
    assert language.grammar(AlteredEnvironment(env, [])) is language.grammar(env)  # counterfactual replay
    config.sampler.max_new, config.pool.size = 256, 26
    with pytest.raises(
        InputError, match=r"grammar=on scores whole pools, and config\.env\.context has room for \d+ of 26"
    ):
        language.grammar(env)


def test_what_a_grammar_cannot_write_is_told_before_any_training(config, tmp_path):
    config = config.copy_and_resolve_references()
    config.methods, config.sampler.grammar, config.sampler.max_new = "MMA-SFT", "on", 256
    config.pool.size = 26
    with pytest.raises(InputError, match=r"config\.env\.context has room for \d+ of 26"):
        train.run(config, tmp_path, dry_run=False)
    assert not (tmp_path / "train" / "MMA-SFT").exists()


@pytest.mark.parametrize("method", ["MMA-Auto", "MMA-Pooled"])
def test_more_prompts_than_a_family_has_episodes_are_refused_before_any_training(method, config, tmp_path):
    config = config.copy_and_resolve_references()
    config.methods, config.ppo.prompts = method, 61  # of 60 training targets, of which some are for queries
    with pytest.raises(InputError, match=r"ppo\.prompts=61 is more than the \d\d episodes of \w+ to train on"):
        train.run(config, tmp_path, dry_run=False)
    assert not list((tmp_path / "train").iterdir())


def test_nobody_looks_at_query_episodes_where_there_are_none(trained, config):
    blind = config.copy_and_resolve_references()
    blind.ppo.query = 0
    trainer = train.Trainer(experiment(blind, trained), Language(blind))
    _, measured = trainer.collector(train.RECIPES["MMA-Auto"], 0)(trainer.adapter("MMA-SFT", 0), 0)
    assert "invalid_rate" in measured and not any(name.startswith("query_reward") for name in measured)


def test_support_and_query_share_no_user(trained, config):
    trainer = train.Trainer(experiment(config, trained), Language(config))
    support, query = trainer.split(support=True), trainer.split(support=False)
    users = [{e.user for found in side.values() for e in found} for side in (support, query)]
    assert not users[0] & users[1]
    assert 0.6 < len(users[0]) / len(users[0] | users[1]) < 0.95
    assert set(support) == set(query)


def test_every_family_teaches(trained, config):
    trainer = train.Trainer(experiment(config, trained), Language(config))
    shown = trainer.demonstrations(interactive=False)
    assert {one.family for one in shown} == set(trainer.split(support=True)) and len(shown) <= config.sft.episodes


def test_natural_mixture_by_hand():
    shares = train.natural(["full", "no_text", "text_only"], missing=0.25)
    raw = np.array([0.75**3, 0.25 * 0.75**2, 0.75 * 0.25**2])
    np.testing.assert_allclose(shares, raw / raw.sum())


def test_a_natural_mixture_of_nothing_is_refused():
    with pytest.raises(InputError, match=r"ppo\.missing=0"):
        train.natural(["no_text", "text_only"], missing=0)


def test_evaluate_plays_agents_beside_scripts(trained, config):
    evaluate.run(config, trained, dry_run=False)
    rows = [json.loads(line) for line in (trained / "results.jsonl").open()]
    assert {row["method"] for row in rows} == {"RuleRouter-Fuse", "ReAct", "MMA-SFT", "MMA-Auto"}
    regret = [json.loads(line) for line in (trained / "regret.jsonl").open()]
    assert {row["method"] for row in regret} == {"RuleRouter-Fuse", "ReAct", "MMA-SFT", "MMA-Auto"}
    traces = [json.loads(line) for line in (trained / "traces.jsonl").open()]
    assert all("counterfactuals" in trace and "value" in trace["turns"][0] for trace in traces)


def test_scores_are_judged_on_average_where_the_config_says_so(config, tmp_path):
    config = config.copy_and_resolve_references()
    config.model.path, config.sampler.grammar, found = "", "on", {}  # L0-tiny scores before its turns are over
    for config.eval.scores in ("written", "expected"):
        made = experiment(config, tmp_path)
        found[config.eval.scores] = Agents(made).player("ReAct", 0)(
            made.environment("test", "ooma"), made.episodes("test", "ooma")
        )
    on_average = 0
    for written, expected in zip(found["written"], found["expected"], strict=True):
        assert [turn.text for turn in written.turns] == [turn.text for turn in expected.turns]
        assert (np.isnan(written.scores) == np.isnan(expected.scores)).all()
        on_average += (written.scores != expected.scores)[np.isfinite(written.scores)].any()
    assert on_average


def test_untrained_adapter_is_the_base_model(config):
    """ReAct is the base model: LoRA starts as the identity, whatever its seed."""
    language = Language(config)
    tokens = np.arange(12, dtype=np.int32)[None]
    plain = language.base(tokens)
    for seed in (0, 1):
        adapted = nnx.merge(language.graph, language.adapter(seed), language.frozen).model(tokens)
        np.testing.assert_array_equal(np.asarray(plain), np.asarray(adapted))


def test_agentcf_plays_with_its_memories(config, trained):
    config = config.copy_and_resolve_references()
    config.agentcf.interactions = 2
    made = experiment(config, trained)
    play = Agents(made).player("AgentCF", 0)
    [played] = play(made.environment("test", "ooma"), made.episodes("test", "ooma")[:1])
    assert len(played.turns) == 1
    assert Cell(made.dataset.name, "ooma", "AgentCF", 0)


def test_agentcf_tells_what_the_context_has_room_for(config, tmp_path):
    """The environment fills the context with 20 candidates; eight words of each would not fit beside them."""
    config = config.copy_and_resolve_references()
    config.agentcf.interactions, config.pool.size, config.sampler.slots = 2, 20, "512,1024"
    made = experiment(config, tmp_path)
    env, episodes = made.environment("test", "ooma"), made.episodes("test", "ooma")
    agents = Agents(made)
    play, chat = agents.player("AgentCF", 0), agents.trainer.language.chat
    for played in play(env, [episode for episode in episodes if episode.family == "text_only"][:2]):
        assert len(chat.open(played.prompt)) + env.budget(20).scores <= config.env.context
        told = [line.split(": ")[1].split() for line in played.prompt[1].content.splitlines() if " is: " in line]
        assert len(told) == 20 and max(map(len, told)) < config.agentcf.words


def test_a_tokenizer_of_another_checkpoint_is_refused(config, checkpoint, tmp_path):
    for name in ("tokenizer.model", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((checkpoint / name).read_bytes())
    save_llama(Llama(LlamaConfig(100, 32, 1, 2, 1, 16, 48, 1e4, None, 1e-5, True), rngs=nnx.Rngs(0)), tmp_path)
    other = config.copy_and_resolve_references()
    other.model.path = str(tmp_path)
    with pytest.raises(InputError, match="not of one checkpoint"):
        Language(other)
