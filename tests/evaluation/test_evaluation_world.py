"""The generated world as an instrument: there is something to win, nobody wins more than Bayes, and a modality
without information gives chance (DESIGN §7)."""

import numpy as np
import pytest

from mma_jax.config import base, world_knobs
from mma_jax.evaluation.bits import bits_table
from mma_jax.evaluation.experiment import Experiment
from mma_jax.evaluation.judge import EXPECTED
from mma_jax.evaluation.results import Cell
from mma_jax.metrics.significance import compare
from mma_jax.runs.agents import Agents
from mma_jax.runs.beyond import Beyond
from mma_jax.runs.evaluate import evaluate_cell
from mma_jax.runs.images import build_image_store

CHANCE = sum(1 / np.log2(1 + rank) for rank in range(1, 11)) / 20  # constant scores, B = 20


def experiment(directory, images=True, preset="default"):
    config = base()
    config.pool.size = 20
    config.graph.source = "copurchases"
    config.graph.decay = 1.0
    config.episodes.train, config.episodes.valid, config.episodes.test = 1000, 200, 400
    config.images.vocabulary = "world"
    config.images.encoder = "tiny" if images else "none"
    config.world = world_knobs(preset)
    return Experiment(config, directory, build_image_store)


def ndcg(made, method, family=None):
    """(values, users) over OOMA test episodes."""
    _, _, rows, _ = evaluate_cell(made, Cell("generated", "ooma", method, 0), Beyond(made, Agents(made)))
    rows = [row for row in rows if family in (None, row["subset"])]
    return np.array([row["ndcg@10"] for row in rows]), np.array([row["user"] for row in rows])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return experiment(tmp_path_factory.mktemp("world"))


def test_a_learned_scorer_wins_and_stays_below_bayes(made):
    learned, users = ndcg(made, "Evidence-linear")
    router, _ = ndcg(made, "RuleRouter-Fuse")
    bayes, _ = ndcg(made, "Bayes")
    gain = compare(learned, router, users)
    assert learned.mean() >= 1.08 * router.mean(), (learned.mean(), router.mean())
    assert gain["p"] < 0.01 and gain["ci_low"] > 0
    assert bayes.mean() > learned.mean() + 2 * bayes.std() / len(bayes) ** 0.5


@pytest.mark.parametrize("protocol", ["ooma", "lomo"])
def test_expected_ndcg_has_the_mean_of_ndcg_and_little_of_its_noise(made, protocol):
    """A wrong posterior would promise what drawn targets do not keep. Nobody is expected to beat Bayes."""
    study, found = Beyond(made, Agents(made)), {}
    for method in ("First-stage", "Reverse-rank", "Evidence-linear", "Bayes"):
        _, _, rows, _ = evaluate_cell(made, Cell("generated", protocol, method, 0), study)
        achieved, found[method] = (np.array([row[name] for row in rows]) for name in ("ndcg@10", EXPECTED))
        gap = achieved - found[method]
        assert abs(gap.mean()) < 3.5 * gap.std() / len(gap) ** 0.5, (method, gap.mean())
        assert found[method].std() < achieved.std() / 2
    assert all((values <= found["Bayes"] + 1e-9).all() for values in found.values())
    _, _, rows, _ = evaluate_cell(made, Cell("generated", "full_catalog", "First-stage", 0), study)
    assert EXPECTED not in rows[0]  # the target may be outside


def test_evidence_carries_the_bits_of_the_knobs(made):
    rows = bits_table(made.world, made.dataset.catalog, made.view("test"))
    assert {row["modality"] for row in rows} == {"text", "image", "behavior"}
    for row in rows:
        assert row["recovered"] == pytest.approx(row["bits"], abs=0.2), row


def test_optimal_router_earns_more_than_any_router_and_exploiter(made):
    """Every scripted route is within the reach of the dynamic programme, so none may earn more (DESIGN §6.11)."""

    def earned(method):
        _, results, _, _ = evaluate_cell(made, Cell("generated", "ooma", method, 0), Beyond(made, Agents(made)))
        return next(r["value"] for r in results if r["metric"] == "return" and r["subset"] == "all")

    optimal, expert = earned("Optimal-router"), earned("Expert")
    assert optimal > expert
    for exploit in ("Exploit-ScoreAtOnce", "Exploit-Reverse", "Exploit-Invalid", "Exploit-RepeatNull"):
        assert earned(exploit) < expert, exploit


def test_bounds_know_the_rule_of_paper_pools(tmp_path):
    """There a target that was not recalled is always last, which the bounds may use as well as anybody."""
    made = experiment(tmp_path, images=False)
    made.config.pool.kind = "paper"
    bayes, reverse, router = (ndcg(made, name)[0].mean() for name in ("Bayes", "Reverse-rank", "Optimal-router"))
    assert bayes > reverse and bayes > router > 0


def test_a_modality_without_information_gives_chance(tmp_path):
    """Nothing about the target is in the text: neither the bound nor a learned scorer finds anything there."""
    made = experiment(tmp_path, images=False, preset="empty_text")
    for method in ("Bayes", "Evidence-linear", "First-stage"):
        values, _ = ndcg(made, method, "text_only")
        assert abs(values.mean() - CHANCE) < 3.5 * values.std() / len(values) ** 0.5, method


def test_permuted_targets_give_chance(tmp_path):
    made = experiment(tmp_path, images=False, preset="permuted")
    for family in ("text_only", "behavior_only"):
        values, _ = ndcg(made, "Evidence-linear", family)
        assert abs(values.mean() - CHANCE) < 3.5 * values.std() / len(values) ** 0.5, family
