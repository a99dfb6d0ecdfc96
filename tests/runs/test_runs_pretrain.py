"""The embedded base model is what its notes say, and the run that made it works."""

import json

import numpy as np
import pytest
from flax import nnx
from leakage import shop

from mma_jax.config import base
from mma_jax.learning import pretrain, vocabulary
from mma_jax.models.convert import L0_TINY, load_llama
from mma_jax.models.tokenizer import load_tokenizer, train_tokenizer
from mma_jax.runs import pretrain as run
from mma_jax.types import InputError


@pytest.fixture(scope="module")
def notes():
    return json.loads((L0_TINY / "notes.json").read_text())


@pytest.fixture(autouse=True)
def few_gate_rows(monkeypatch):
    """Gates over 48 documents each take a minute."""
    monkeypatch.setattr(run, "GATE_ROWS", 6)


def test_l0_tiny_can_what_its_notes_say_on_fresh_documents(notes):
    encoder = pretrain.Encoder(load_tokenizer(L0_TINY))
    graph, parameters = nnx.split(load_llama(L0_TINY))
    found = pretrain.make_gates(graph, encoder, rows=16, seed=77)(parameters)
    for name in run.GATES:
        assert notes["gates"][name] >= base().pretrain.gate, name
        assert found[name] > notes["gates"][name] - 0.04, name  # 16 rows: a standard error of about .015


def test_notes_tell_how_it_was_made(notes):
    """By a run from nothing with the defaults, and runs that went on from there."""
    runs = [notes]
    while "before" in runs[-1]:
        runs.append(runs[-1]["before"])
    for made in runs:
        assert "--config.run=pretrain" in made["command"] and "--workdir" not in made["command"]
        assert made["seconds"] > 0 and made["curve"][-1][0] == made["settings"]["steps"]
    defaults = base().pretrain.to_dict()
    assert all(defaults[name] == value for name, value in runs[-1]["settings"].items())
    for made in runs[:-1]:
        assert all(f"{name}={made['settings'][name]}" in made["command"] for name in ("begin", "steps", "seed"))
    assert notes["passed"]


def test_assets_stay_small():
    sizes = [path.stat().st_size for path in L0_TINY.parent.rglob("*") if path.is_file()]
    assert sum(sizes) <= 8 * 2**20


def test_a_few_steps_from_nothing_leave_a_checkpoint_folder_and_rest_when_rerun(tmp_path, capsys):
    config = base()
    config.pretrain.update(dict(width=16, heads=2, kv_heads=1, head_dim=8, hidden=16, steps=2, checkpoint_every=1))
    run.run(config, tmp_path, dry_run=False)
    made = json.loads((tmp_path / "l0_tiny" / "notes.json").read_text())
    assert [step for step, _ in made["curve"]] == [1, 2] and not made["passed"]
    assert load_llama(tmp_path / "l0_tiny").config.width == 16
    before = (tmp_path / "l0_tiny" / "model.safetensors").stat().st_mtime_ns
    run.run(config, tmp_path, dry_run=False)
    assert "already made" in capsys.readouterr().out
    assert (tmp_path / "l0_tiny" / "model.safetensors").stat().st_mtime_ns == before


def test_a_run_goes_on_from_another(tmp_path):
    config = base()
    config.pretrain.update(dict(start=str(L0_TINY), begin=0.9, steps=1))
    run.run(config, tmp_path, dry_run=False)
    made = json.loads((tmp_path / "l0_tiny" / "notes.json").read_text())
    assert made["before"]["gates"] and made["gates"]["match"] > 0.9
    config.pretrain.start = str(tmp_path)
    with pytest.raises(InputError, match=r"no config\.json"):
        run.run(config, tmp_path / "other", dry_run=False)


def test_a_catalogs_words_become_tokens_that_are_matched_without_training(tmp_path):
    config = shop(tmp_path, 0).config
    config.images.encoder = "none"
    config.pretrain.update(dict(start=str(L0_TINY), steps=0, words=40))
    words = run.catalog_words(config, tmp_path)
    assert {"apple", "thing3", "kind1"} <= set(words)
    run.run(config, tmp_path, dry_run=False)
    tokenizer, embedded = load_tokenizer(tmp_path / "l0_tiny"), load_tokenizer(L0_TINY)
    long = [word for word in words if len(word) > 1]
    assert all(len(tokenizer.encode(f"{blank}{word}")) == 1 for word in long for blank in ("", " "))
    assert all(len(embedded.encode(word)) > 1 for word in ("apple", "thing3", "kind1"))
    assert load_llama(tmp_path / "l0_tiny").config.vocab_size == tokenizer.vocab_size > embedded.vocab_size
    made = json.loads((tmp_path / "l0_tiny" / "notes.json").read_text())
    assert made["gates"]["match"] > 0.95 and made["curve"] == []


@pytest.mark.parametrize("words", [5, 5000])
def test_texts_of_too_few_words_are_refused(tmp_path, words):
    config = shop(tmp_path, 0).config
    config.images.encoder = "none"
    table = tmp_path / "data0" / "shop" / "shop.item"
    if words == 5000:
        header, *rows = table.read_text().splitlines()
        blank = ["\t".join([row.partition("\t")[0], "alpine", "", ""]) for row in rows]
        table.write_text("\n".join([header, *blank]))
    config.pretrain.update(dict(words=words, steps=1))
    with pytest.raises(InputError, match=f"give {5 if words == 5 else 0} words"):
        run.run(config, tmp_path, dry_run=False)


def test_words_keep_their_rows_when_the_tokenizer_changes(tmp_path):
    train_tokenizer(
        tmp_path, ["a word"], ["<new>", *vocabulary.symbols()[:50]], vocabulary.CONTROL, 400, vocabulary.TEMPLATE
    )
    tokenizer, theirs = load_tokenizer(tmp_path), load_tokenizer(L0_TINY)
    model = run.blank(base().pretrain, pretrain.Encoder(tokenizer))
    fresh = np.array(model.embed_tokens.embedding[...])
    run.take_over(model, tokenizer, L0_TINY)
    table, earlier = np.array(model.embed_tokens.embedding[...]), load_llama(L0_TINY)
    for row, piece in enumerate(tokenizer.pieces()):
        known = piece in theirs.pieces()
        assert (
            table[row] == (earlier.embed_tokens.embedding[theirs.pieces().index(piece)] if known else fresh[row])
        ).all()
    assert "<new>" not in theirs.pieces() and "Null" in theirs.pieces()
    np.testing.assert_array_equal(model.layers[3].mlp.up_proj.kernel[...], earlier.layers[3].mlp.up_proj.kernel[...])


def test_weights_of_another_shape_are_refused(tmp_path):
    config = base()
    config.pretrain.update(dict(start=str(L0_TINY), hidden=16, steps=1))
    with pytest.raises(InputError, match="other shapes"):
        run.run(config, tmp_path, dry_run=False)


def test_too_few_layers_are_refused(tmp_path):
    config = base()
    config.pretrain.layers = 3
    with pytest.raises(InputError, match="layers"):
        run.run(config, tmp_path, dry_run=False)
