r"""config.run = pretrain: makes L0-tiny, the embedded base model, from generated text (DESIGN §7).

With --config.pretrain.words=N the N commonest words of the data's catalog become tokens beside the generated
language's. No step is needed for that: what compares words holds for new ones.

    python -m mma_jax.main --config=configs/ml100k.py --config.data.root=DATA --workdir=DIR --config.run=pretrain \
        --config.pretrain.start=mma_jax/assets/l0_tiny --config.pretrain.words=7000 --config.pretrain.steps=0

Writes DIR/l0_tiny, a Hugging Face folder (config.json, model.safetensors, tokenizer.model, tokenizer_config.json) with
notes.json beside it: command, settings, time, curve, gates. `--config.model.path=DIR/l0_tiny` uses it; the one in
`mma_jax/assets` was made so.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm import tqdm

from mma_jax.data.disk import write_atomically
from mma_jax.evaluation.checks import check_settings
from mma_jax.features import text
from mma_jax.learning import curriculum, interrupts, pretrain, vocabulary
from mma_jax.learning.checkpoint import Checkpoints, room
from mma_jax.learning.panel import Panel
from mma_jax.learning.state import create, stop_if_stuck
from mma_jax.models.convert import load_llama, save_llama
from mma_jax.models.llama import Llama, LlamaConfig
from mma_jax.models.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from mma_jax.runs.prepare import experiment
from mma_jax.runs.workdir import check_room, used
from mma_jax.types import InputError

GATES = ("match", "count", "lookup", "scoring")
"""Skills that must be reached before any PPO."""

TOKENIZER = ("tokenizer.model", "tokenizer_config.json")

GATE_SEED = 1_000_000  # of the documents that gates are measured on; training counts from config.pretrain.seed
GATE_ROWS = 48
KEEP = 2  # checkpoints


def run(config, directory: Path, dry_run: bool) -> None:
    settings, folder = config.pretrain, directory / "l0_tiny"
    check_settings(config)
    if dry_run:
        print(
            f"pre-train a Llama, {settings.layers} layers of width {settings.width}, {settings.steps} steps: {folder}"
        )
        return
    if (folder / "notes.json").exists():
        print(f"{folder}: L0-tiny is already made; delete it to make it again")
        return
    started = time.time()
    before = _notes_of(settings.start)
    words = catalog_words(config, directory)
    if not (folder / "tokenizer_config.json").exists():
        train_tokenizer(
            folder,
            vocabulary.corpus(words),
            vocabulary.symbols(words),
            vocabulary.CONTROL,
            settings.vocab_size + 2 * len(words),  # alone and behind a blank
            vocabulary.TEMPLATE,
        )
    encoder = pretrain.Encoder(load_tokenizer(folder))
    model = blank(settings, encoder)
    if settings.start:
        take_over(model, encoder.tokenizer, Path(settings.start), settings.seed)
    graph, parameters = nnx.split(model)
    trained, curve = parameters, []
    if settings.steps:
        trained, curve = train(graph, parameters, encoder, config, directory / "train" / "L0-tiny", words)
    gates = pretrain.make_gates(graph, encoder, GATE_ROWS, GATE_SEED, words)(trained)
    save_llama(nnx.merge(graph, trained), folder)
    notes = {
        "command": " ".join(["python -m mma_jax.main", *(a for a in sys.argv[1:] if not a.startswith("--workdir"))]),
        "settings": settings.to_dict(),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(trained)),
        "seconds": round(time.time() - started),
        "gates": gates,
        "passed": all(gates[name] >= settings.gate for name in GATES),
        "curve": curve,
        **({"before": before} if before else {}),
    }
    write_atomically(folder / "notes.json", json.dumps(notes, indent=1))
    print(f"L0-tiny in {folder}: {gates}")
    if not notes["passed"]:
        print(
            f"  note: {', '.join(n for n in GATES if gates[n] < settings.gate)} below the gate of {settings.gate:.0%}"
        )


def catalog_words(config, directory: Path) -> tuple[str, ...]:
    """The data's commonest words, at most `config.pretrain.words`, that mean nothing else to the curriculum.

    Raises:
        InputError: there are too few to fill a document.
    """
    if not config.pretrain.words:
        return ()
    catalog = experiment(config, directory).dataset.catalog
    store = text.build(catalog, np.ones(len(catalog), bool))
    found = vocabulary.known(store.common(), config.pretrain.words)
    if len(found) < curriculum.EACH:
        raise InputError(
            f"config.pretrain.words={config.pretrain.words}: the data's texts give {len(found)} words, and a document "
            f"needs {curriculum.EACH}; raise it, or set it to 0 to learn none"
        )
    return found


def _notes_of(start: str) -> dict:
    """What `config.pretrain.start` says of itself; {} if training begins from nothing."""
    if not start:
        return {}
    if missing := [name for name in ("config.json", "notes.json", *TOKENIZER) if not (Path(start) / name).is_file()]:
        raise InputError(f"config.pretrain.start={start}: no {missing[0]} there; give an l0_tiny that was finished")
    return json.loads((Path(start) / "notes.json").read_text())


def blank(settings, encoder: pretrain.Encoder) -> Llama:
    """The model before training."""
    if settings.layers <= (needed := max(reader.block for reader in pretrain.READERS)):
        raise InputError(f"config.pretrain.layers is {settings.layers}: sums are read after {needed}, give more")
    tokenizer = encoder.tokenizer
    shape = LlamaConfig(
        vocab_size=tokenizer.vocab_size,
        width=settings.width,
        layers=settings.layers,
        heads=settings.heads,
        kv_heads=settings.kv_heads,
        head_dim=settings.head_dim,
        hidden=settings.hidden,
        rope_theta=settings.rope_theta,
        tied=True,
    )
    model = Llama(shape, rngs=nnx.Rngs(settings.seed))
    rng = np.random.default_rng(settings.seed)
    pretrain.tie_forms(model, tokenizer.pieces(), rng)
    pretrain.attend_to_the_like(model, rng)
    return model


def take_over(model: Llama, tokenizer: Tokenizer, start: Path, seed: int = 0) -> None:
    """Give `model` the weights in `start`. The tokenizers may differ: a token has the row of the same piece, a new word
    one that is drawn as if it had been learned, any other keeps the row it was made with.

    Raises:
        InputError: the weights have other shapes.
    """
    earlier = load_llama(start)
    if dataclasses.replace(earlier.config, vocab_size=model.config.vocab_size) != model.config:
        raise InputError(f"config.pretrain.start={start}: its weights have other shapes; set config.pretrain alike")
    rows, pieces = {piece: row for row, piece in enumerate(load_tokenizer(start).pieces())}, tokenizer.pieces()
    theirs = np.array([rows.get(piece, -1) for piece in pieces])
    table, learned = np.array(model.embed_tokens.embedding[...]), theirs >= 0
    table[learned] = np.asarray(earlier.embed_tokens.embedding[...])[theirs[learned]]
    pretrain.draw_alike(table, pieces, learned, np.random.default_rng(seed))
    earlier.embed_tokens.embedding.set_value(jnp.asarray(table))
    nnx.update(model, nnx.state(earlier))


def train(
    graph: nnx.GraphDef,
    parameters: nnx.State,
    encoder: pretrain.Encoder,
    config,
    directory: Path,
    words: tuple[str, ...] = (),
):
    """Trained parameters, and the curve [[step, loss], ...]. Goes on from the last checkpoint if there is one.

    Raises:
        InputError: checkpoints cannot be written, or have no room.
    """
    settings = config.pretrain
    optimizer = pretrain.optimizer(settings)
    state = create(parameters, optimizer)
    check_room(directory, room(state, KEEP) - used(directory))
    step = pretrain.make_step(graph, optimizer, encoder.said)
    gates = pretrain.make_gates(graph, encoder, GATE_ROWS // 3, GATE_SEED, words)
    checkpoints, panel = Checkpoints(directory / "checkpoints", KEEP), Panel(directory, config.alarms)
    start, state, extra = checkpoints.latest(state) or (0, state, {"panel": 0, "curve": [], "recent": []})
    panel.rewind(extra["panel"], start)
    curve, recent = extra["curve"], [np.float32(loss) for loss in extra["recent"]]
    with interrupts.deferred() as stopping:
        for done in tqdm(range(start + 1, settings.steps + 1), initial=start, total=settings.steps, desc="pretrain"):
            progress = settings.begin + (1 - settings.begin) * (done - 1) / settings.steps
            batches = pretrain.make_batches(encoder, settings.seed, done - 1, progress, words)
            state, figures = step(state, batches)
            stop_if_stuck(state, settings.nonfinite_limit, _by_name(batches), directory)
            recent.append(figures["loss"])
            stop = stopping()
            due = done % settings.checkpoint_every == 0 or done == settings.steps
            if due:
                mean = round(float(np.mean(jax.device_get(recent))), 4)
                curve, recent = [*curve, [done, mean]], []
                panel.write(done, {"loss": mean, "skipped": float(state.skipped), **gates(state.params)})
            if due or stop:
                unsaid = [float(loss) for loss in jax.device_get(recent)]
                checkpoints.save(done, state, {"panel": panel.position, "curve": curve, "recent": unsaid})
            if stop:
                break
    panel.close()
    checkpoints.close()
    return state.params, curve


def _by_name(batches: list[pretrain.Batch]) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(batches)
    return {jax.tree_util.keystr(path, simple=True, separator="_"): array for path, array in leaves}
