"""Tables of tokens against the automaton of characters, walked token by token, and the environment's parser."""

import byte_pairs
import doubles
import numpy as np
import pytest

from mma_jax.envs.actions import parse
from mma_jax.envs.options import Options
from mma_jax.envs.tools import toolbox
from mma_jax.envs.tools.schema import handles
from mma_jax.learning import vocabulary
from mma_jax.models.convert import L0_TINY
from mma_jax.models.tokenizer import load_tokenizer, train_tokenizer
from mma_jax.sampling.grammar import compile_grammar
from mma_jax.types import InputError

TOOLS = toolbox(Options(interactive=True))
SIZE = 12
MAP = '{"tool":"Score_Candidates","args":{"scores":{'


@pytest.fixture(scope="module")
def tiny():
    return load_tokenizer(L0_TINY)


@pytest.fixture(scope="module")
def folding(tmp_path_factory):
    """No names of tools among its tokens, and no upper case: it writes them in bytes alone."""
    folder = tmp_path_factory.mktemp("folding")
    train_tokenizer(folder, vocabulary.corpus(), ["\n"], vocabulary.CONTROL, 600, vocabulary.TEMPLATE)
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def bytewise(tmp_path_factory):
    """Byte pairs in the form of Llama 3's, with merges across punctuation and digits."""
    folder = tmp_path_factory.mktemp("bytewise")
    lines = [MAP + ",".join(f'"{n}":{n + 30}' for n in range(1, 70)) + "}}}", *map(str, range(101)), "Why not?\nNo.\n"]
    lines += [
        '{"tool":"Analyze_Text","args":{"item_id":"all"}}',
        '{"tool":"Analyze_Image","args":{"item_id":["3","4"]}}',
    ]
    special = {"bos_token": "<|begin|>", "eos_token": "<|eot_id|>"}
    settings = {"clean_up_tokenization_spaces": True, "chat_template": "-"}
    byte_pairs.write(folder, lines * 9, 460, special.values(), **special, **settings)
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def characters():
    return doubles.CharTokenizer()


ALL = pytest.mark.parametrize("name", ["tiny", "folding", "bytewise", "characters"])


def compiled(tokenizer, size=SIZE, tools=TOOLS, **changes):
    return compile_grammar(tokenizer, tokenizer.stop_ids[0], tools, size, **changes)


def choices(grammar, state, room):
    """Allowed tokens, by what the trainer is told of them."""
    [rule], _, _ = grammar.read(state, [0], room)
    return np.flatnonzero(grammar.allowed(np.int32(rule)))


def draw(grammar, rng, room, tokenizer, state=None):
    """A random completion that likes to begin an action."""
    state, ids = grammar.start() if state is None else state, []
    while True:
        ways = choices(grammar, state, room - len(ids))
        assert len(ways)
        assert bool(grammar.tables.forced(state, room - len(ids))) == (len(ways) == 1)
        begins = [token for token in ways if "{" in tokenizer.decode([token])]
        ids.append(int(rng.choice(begins if begins and rng.random() < 0.3 else ways)))
        _, _, state = grammar.read(state, ids[-1:], room - len(ids) + 1)
        if ids[-1] in tokenizer.stop_ids:
            return ids


@ALL
def test_every_completion_is_a_valid_action_in_time(name, request):
    tokenizer = request.getfixturevalue(name)
    grammar, rng = compiled(tokenizer), np.random.default_rng(0)
    least, names = int(grammar.least[grammar.start()]), set()
    for n in range(40):
        room = least if n < 5 else int(rng.integers(least, 8 * least))
        ids = draw(grammar, rng, room, tokenizer)
        assert len(ids) <= room and not set(ids[:-1]) & set(tokenizer.stop_ids)
        action = parse(tokenizer.decode(ids), TOOLS, handles(SIZE))
        assert action.error == "", tokenizer.decode(ids)
        names.add(action.tool)
    assert len(names) > 2
    assert len(choices(grammar, grammar.start(), least - 1)) == 0


@pytest.mark.parametrize("name", ["tiny", "bytewise", "characters"])
def test_tokens_of_actions_are_those_that_the_tokenizer_writes(name, request):
    """What the tokenizer writes is allowed, and nothing else that spells the same: in a map, after any score."""
    tokenizer = request.getfixturevalue(name)
    grammar, rng = compiled(tokenizer), np.random.default_rng(1)
    for _ in range(20):
        scores = ",".join(f'"{handle}":{rng.integers(101)}' for handle in handles(SIZE))
        ids = [*tokenizer.encode(f"Why.\n{MAP}{scores}}}}}}}"), tokenizer.stop_ids[0]]
        state, room = grammar.start(), len(ids)
        for n, token in enumerate(ids):
            assert token in choices(grammar, state, room - n)
            _, _, state = grammar.read(state, [token], room - n)
        assert grammar.least[state] == 0
    if name == "tiny":  # a score and the next handle take a token each
        assert choices(grammar, grammar.start(MAP + '"'), 99).tolist() == tokenizer.encode("1")
        assert len(choices(grammar, grammar.start(MAP + '"1'), 99)) == 101


def test_a_tokenizer_that_folds_case_spells_actions_in_any_tokens(folding):
    assert "analyze" in folding.decode(folding.encode("Analyze_Text"))
    grammar, rng = compiled(folding), np.random.default_rng(0)
    for _ in range(5):
        ids = draw(grammar, rng, 400, folding, grammar.start('{"tool":"Anal'))
        assert parse('{"tool":"Anal' + folding.decode(ids), TOOLS, handles(SIZE)).tool.startswith("Analyze_")


@ALL
def test_the_room_left_decides_what_is_allowed(name, request):
    """Against brute force: a token is allowed if some way from behind it ends in time."""
    tokenizer = request.getfixturevalue(name)
    grammar = compiled(tokenizer, size=2)
    ahead = {state: set(map(int, row[row > 0])) for state, row in enumerate(np.asarray(grammar.tables.follow))}
    over = {n for n, least in enumerate(grammar.least) if n and least == 0}
    for state in list(ahead)[1::3]:
        reached, steps = {state}, 0
        while not reached & over:
            reached, steps = set().union(*(ahead[s] for s in reached)), steps + 1
        assert steps == grammar.least[state]
        if steps:
            assert len(choices(grammar, state, steps)) and not len(choices(grammar, state, steps - 1))


def test_reasoning_ends_in_time(tiny):
    grammar = compiled(tiny)
    _, _, state = grammar.read(grammar.start(), tiny.encode("red"), 99)
    assert len(choices(grammar, state, 6)) > 1000
    assert {tiny.decode([token])[-1] for token in choices(grammar, state, 5)} == {"\n"}
    assert grammar.tables.allowed(np.int32(0), np.int32(0)).all()  # state 0 watches nothing


def test_forced_text_may_end_behind_a_brace(tiny):
    grammar = compiled(tiny)
    ids = draw(grammar, np.random.default_rng(0), 60, tiny, grammar.start(MAP))
    assert len(parse(MAP + tiny.decode(ids), TOOLS, handles(SIZE)).args["scores"]) == SIZE
    for text in ('{"tool":"Ana', "{]"):
        with pytest.raises(InputError, match=r"cannot go on from .*: end forced text behind a brace"):
            grammar.start(text)


def test_a_model_may_have_more_tokens_than_its_tokenizer(tiny):
    grammar = compiled(tiny, vocab_size=tiny.vocab_size + 5)
    assert grammar.tables.classes.shape == (tiny.vocab_size + 5,)
    assert choices(grammar, grammar.start(), 99).max() < tiny.vocab_size


def test_a_tokenizer_without_braces_is_refused(characters):
    class Braceless(doubles.CharTokenizer):
        def encode(self, text):
            return super().encode(text.replace("{", "("))

        def decode(self, ids):
            return super().decode(ids).replace("{", "(")

    with pytest.raises(InputError, match="no tokens for the actions"):
        compiled(Braceless())


def test_tables_stay_small_for_a_large_pool(tiny):
    grammar = compiled(tiny, size=100)
    states, classes = grammar.tables.need.shape
    assert states < 700 and classes < 160
    assert grammar.width == 3  # the last score, the braces behind it and the end token
