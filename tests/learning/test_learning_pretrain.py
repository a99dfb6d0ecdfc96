"""Pre-training: the loss sees what it should, the optimizer gets the matrices it should, a few steps learn."""

import types

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from mma_jax.learning import curriculum, pretrain, vocabulary
from mma_jax.learning.contrastive import matrices
from mma_jax.learning.curriculum import Said, Thought
from mma_jax.learning.pretrain import Questions
from mma_jax.learning.state import create
from mma_jax.models.llama import Llama, LlamaConfig
from mma_jax.models.tokenizer import load_tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    train_tokenizer(folder, vocabulary.corpus(), vocabulary.symbols(), vocabulary.CONTROL, 2600, vocabulary.TEMPLATE)
    return pretrain.Encoder(load_tokenizer(folder))


@pytest.fixture(scope="module")
def model(encoder):
    shape = LlamaConfig(encoder.tokenizer.vocab_size, 32, 6, 2, 1, 16, 48, 1e4, None, 1e-5, True)
    return Llama(shape, rngs=nnx.Rngs(0))


def asked(encoder, document):
    """(token, what is asked at it, kind) in words."""
    found, pieces = encoder(document), encoder.tokenizer.pieces()

    def say(number, kind):
        return pieces[encoder.said[kind][number] if kind in encoder.said else number]

    return [
        (pieces[found.ids[at]], say(answer, pretrain.KINDS[kind]), pretrain.KINDS[kind])
        for at, answer, kind in zip(*found.asked, strict=True)
    ]


def test_thoughts_are_asked_at_the_token_that_holds_them(encoder):
    text = '{"profile":{"red":3},"items":{"1":["red","sky"],"2":["sky"]}}'
    red, end = text.index('red","sky') + 2, text.index('"],"2') + 1
    thoughts = (Thought(red, "word", 3), Thought(red, "sum", 4), Thought(end, "total", 3), Thought(end, "handle", 12))
    owner = Thought(text.index("3"), "owner", 0)
    assert asked(encoder, [Said("tool", text, (owner, *thoughts))]) == [
        ('":3}', "red", "owner"),
        ("red", "\u25813", "word"),
        ("red", '":4,"', "sum"),
        ('"],"', '":3,"', "total"),
        ('"],"', "12", "handle"),
    ]


def test_an_assistant_is_asked_for_every_token_and_its_end(encoder):
    found = asked(encoder, [Said("tool", "{}"), Said("assistant", curriculum.score_map([3, 0]))])
    assert [answer for _, answer, kind in found if kind == "map"] == ['":3,"', '":0}']
    assert found[0] == ("<|assistant|>", '{"tool":"', "other")
    assert found[-1][1:] == ("<|end|>", "other")
    assert [after for _, after, _ in found[:-1]] == [at for at, _, _ in found[1:]]  # each the next one's place


def test_batches_depend_on_seed_and_step_alone(encoder):
    first, again, other = (pretrain.make_batches(encoder, 0, step, 0.6) for step in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True))
    assert not np.array_equal(first[0].tokens, other[0].tokens)


@pytest.mark.parametrize("progress", [phase.start for phase in pretrain.PHASES])
def test_every_phase_fills_its_rows(encoder, progress):
    rows = next(p.rows for p in pretrain.PHASES if p.start == progress)
    shapes = [batch.tokens.shape for batch in pretrain.make_batches(encoder, 0, 1, progress)]
    assert shapes == [(n, length) for n, length in zip(rows, pretrain.LENGTHS, strict=True) if n]


def test_padding_keeps_places_and_answers(encoder):
    documents = [encoder(curriculum.scoring(np.random.default_rng(n), curriculum.EASY, 5)) for n in range(3)]
    batch = pretrain.pad(documents, 352)
    found = Questions(*map(np.concatenate, zip(*batch.asked, strict=True)))
    real = found.kind >= 0
    assert real.sum() == sum(len(document.asked.where) for document in documents)
    for row, document in enumerate(documents):
        mine = real & (found.where // 352 == row)
        got = sorted(zip(found.where[mine] % 352, found.target[mine], found.kind[mine], strict=True))
        assert got == sorted(zip(*document.asked, strict=True))


def test_readers_have_room(encoder):
    """Hardly a question is dropped, whatever the phase."""
    for progress in [phase.start for phase in pretrain.PHASES]:
        for batch in pretrain.make_batches(encoder, 0, 3, progress):
            for reader, questions in zip(pretrain.READERS, batch.asked, strict=True):
                assert (questions.kind < 0).any(), reader.kinds


def test_answers_are_read_from_the_blocks_that_the_readers_name(encoder, model):
    """Against the whole head's logits of models cut off behind that block."""
    batch = pretrain.make_batches(encoder, 0, 1, 0.3)[0]
    found = pretrain.answers(model, batch, encoder.said)
    for reader, questions, logits in zip(pretrain.READERS, batch.asked, found, strict=True):
        cut = nnx.clone(model)
        cut.layers = nnx.List(list(cut.layers)[: reader.block] if reader.block > 0 else list(cut.layers))
        head = np.asarray(cut.logits(cut(batch.tokens))).reshape(batch.tokens.size, -1)[questions.where]
        columns = encoder.said.get(reader.kinds[0], slice(None))
        np.testing.assert_allclose(logits, head[:, columns], atol=1e-4)


def test_muon_takes_every_matrix_of_the_blocks_and_nothing_else(model):
    numbers = matrices(nnx.state(model))
    chosen = {
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(
            numbers, is_leaf=lambda x: isinstance(x, optax.contrib.MuonDimensionNumbers)
        )
        if isinstance(leaf, optax.contrib.MuonDimensionNumbers)
    }
    assert len(chosen) == 7 * 6  # q, k, v, o, gate, up, down of six blocks
    assert all("kernel" in name for name in chosen)


def test_forms_of_a_word_start_together_and_words_apart(encoder, model):
    pretrain.tie_forms(model, encoder.tokenizer.pieces(), np.random.default_rng(0))
    table = np.asarray(model.embed_tokens.embedding[...])

    def cosine(a, b):
        x, y = (table[encoder.tokenizer.encode(text)[0]] for text in (a, b))
        return x @ y / np.linalg.norm(x) / np.linalg.norm(y)

    assert cosine("rustic", " rustic") > 0.95
    assert abs(cosine("rustic", " vase")) < 0.6
    assert 0.4 < cosine(" 3", '":3,"') < 0.95
    assert abs(cosine("3", '":3,"')) < 0.4  # a handle is no score


def test_a_few_steps_learn(encoder, model):
    settings = types.SimpleNamespace(steps=40, muon_rate=0.02, adam_rate=3e-3, weight_decay=0.0)
    graph, parameters = nnx.split(model)
    parameters = jax.tree.map(jax.numpy.copy, parameters)  # the step consumes them
    optimizer = pretrain.optimizer(settings)
    step, state, losses = pretrain.make_step(graph, optimizer, encoder.said), create(parameters, optimizer), []
    for n in range(settings.steps):
        state, figures = step(state, pretrain.make_batches(encoder, 0, n, 0.0))
        losses.append(float(figures["loss"]))
    assert losses[-1] < 0.5 * losses[0]


def test_gates_measure_what_is_right(encoder, model):
    """A model that always says one token is right exactly as often as that is asked for."""
    always = nnx.clone(model)
    silent = jax.tree_util.tree_map_with_path(
        lambda path, leaf: 0 * leaf if "kernel" in jax.tree_util.keystr(path) else leaf, nnx.state(always)
    )
    nnx.update(always, silent)
    (one,) = encoder.tokenizer.encode('":1,"')
    table = np.zeros(always.embed_tokens.embedding[...].shape, np.float32)
    table[:, 0], table[one, 0] = 1.0, 2.0  # every token is alike to it, and likest to this one
    always.embed_tokens.embedding.set_value(jax.numpy.asarray(table))
    graph, parameters = nnx.split(always)
    found = pretrain.make_gates(graph, encoder, 4, 7)(parameters)

    def share(number, skill, kind, answer):
        rng = np.random.default_rng([7, number])
        asked = [pretrain._fitting(encoder, skill, rng, curriculum.EASY).asked for _ in range(4)]
        targets = np.concatenate([one.target[one.kind == pretrain.KINDS.index(kind)] for one in asked])
        return round(float((targets == answer).mean()), 4)

    def twenty(rng, stage):
        return curriculum.scoring(rng, stage, 20)

    expected = {
        "match": share(0, curriculum.match, "word", 0),  # no word's number is that token, so all are alike: the first
        "count": share(1, curriculum.reading, "total", 1),
        "scoring": share(3, twenty, "map", one),
    }
    assert {name: found[name] for name in expected} == expected
    assert all(0 < value < 1 for value in expected.values())


def test_new_words_are_drawn_as_if_they_had_been_learned():
    rng = np.random.default_rng(0)
    plain = [topic[0] for topic in curriculum.TOPICS if len(topic) == 1]
    fresh = [f"word{n}" for n in range(4000)]
    pieces = [form for word in (*plain, *fresh) for form in (word, f"\u2581{word}")] + ["<new>", "alone"]
    scale, center, shift = np.array([0.5, 1.0, 0.1, 2.0]), np.array([1.0, -1.0, 0.0, 3.0]), np.array([0.2, 0, 0, -0.4])
    table = np.zeros((len(pieces), 4), np.float32)
    learned = np.arange(len(pieces)) < 2 * len(plain)
    centers = center + scale * rng.normal(size=(len(plain), 4))
    table[learned] = np.stack([centers - shift / 2, centers + shift / 2], 1).reshape(-1, 4)
    before = table.copy()
    pretrain.draw_alike(table, pieces, learned, np.random.default_rng(1))
    assert (table[learned] == before[learned]).all() and (table[-2:] == 0).all()
    drawn = table[2 * len(plain) : -2].reshape(-1, 2, 4)
    np.testing.assert_allclose(drawn[:, 1] - drawn[:, 0], np.tile(shift, (len(fresh), 1)), atol=1e-5)
    np.testing.assert_allclose(drawn.mean((0, 1)), centers.mean(0), atol=0.1)
    np.testing.assert_allclose(np.cov(drawn.mean(1).T), np.cov(centers.T), atol=0.25)


def test_without_learned_words_new_ones_keep_their_rows():
    table = np.ones((2, 4), np.float32)
    pretrain.draw_alike(table, ["new", "\u2581new"], np.zeros(2, bool), np.random.default_rng(0))
    assert (table == 1).all()
