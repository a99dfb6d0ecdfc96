"""The automaton over characters against the environment's own parser."""

import json

import numpy as np
import pytest

from mma_jax.envs.actions import parse
from mma_jax.envs.options import Options
from mma_jax.envs.tools import toolbox
from mma_jax.envs.tools.schema import Kind, Tool, handles
from mma_jax.sampling.automaton import DEAD, Automaton

SIZE = 12
TOOLS = toolbox(Options(interactive=True))
FULL = json.dumps({str(n + 1): 7 * n for n in range(SIZE)}, separators=(",", ":"))


def takes(automaton, text):
    return automaton.walk(automaton.start, text) == automaton.end


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        (f'{{"tool":"Score_Candidates","args":{{"scores":{FULL}}}}}', True),
        (f'Two lines,\n\n  {{"tool":"Score_Candidates","args":{{"scores":{FULL}}}}}', True),
        (f'no line break {{"tool":"Score_Candidates","args":{{"scores":{FULL}}}}}', False),
        (f'{{"tool":"Score_Candidates","args":{{"scores":{FULL.replace("77", "077")}}}}}', False),
        (f'{{"tool":"Score_Candidates","args":{{"scores":{FULL.replace("77", "101")}}}}}', False),
        (f'{{"tool":"Score_Candidates","args":{{"scores":{FULL.replace("77", "100")}}}}}', True),
        ('{"tool":"Score_Candidates","args":{"scores":{"1":7}}}', False),  # the other eleven are missing
        ('{"tool":"Analyze_Text","args":{"item_id":"12"}}', True),
        ('{"tool":"Analyze_Text","args":{"item_id":"13"}}', False),
        ('{"tool":"Analyze_Image","args":{"item_id":["12","1","7"]}}', True),
        ('{"tool":"Analyze_Image","args":{"item_id":[]}}', False),
        ('{"tool":"Analyze_Image","args":{"item_id":"all"}}', True),
        ('{"tool":"Retrieve_Graph","args":{"user_id":"u"}}', True),
        ('{"tool":"Retrieve_Graph","args":{"user_id":"u"}}\n', False),
        ('{"tool":"Ask_User","args":{"modality_type":"image","query":"Is it {red}, \u00e9?"}}', True),
        ('{"tool":"Ask_User","args":{"modality_type":"image","query":"a \\" b"}}', False),
        ('{"tool":"Ask_User","args":{"modality_type":"image","query":"a\tb"}}', False),
        ('{"tool":"Ask_User","args":{"query":"a","modality_type":"image"}}', False),
    ],
)
def test_what_is_taken(text, taken):
    assert takes(Automaton(TOOLS, SIZE), text) == taken
    assert not taken or not parse(text, TOOLS, handles(SIZE)).error


@pytest.mark.parametrize("size", [1, 2, 12])
@pytest.mark.parametrize("bound", [None, 1, 3])
def test_whatever_is_taken_is_a_valid_action(size, bound):
    """Random walks, character by character: no node is a trap, and the parser takes every text that ends."""
    tools = toolbox(Options(interactive=True, max_items=bound))
    automaton, rng, names = Automaton(tools, size), np.random.default_rng(0), set()
    for _ in range(150):
        node, text = automaton.start, ""
        while node != automaton.end:
            ways = automaton.characters(node)
            if automaton.is_free(node) and rng.random() < 0.3:
                ways = [c for c in 'xY?,. \u00e9\u2028}"{\\\n' if automaton.walk(node, c) != DEAD]
            text += ways[rng.integers(len(ways))]
            node = automaton.walk(automaton.start, text)
            assert node != DEAD
        action = parse(text, tools, handles(size))
        assert action.error == "", text
        names.add(action.tool)
    assert names == set(tools)


def test_a_list_is_as_long_as_the_tools_allow():
    automaton = Automaton(toolbox(Options(max_items=3)), SIZE)

    def listed(*names):
        return f'{{"tool":"Analyze_Text","args":{{"item_id":{json.dumps(names, separators=(",", ":"))}}}}}'

    assert takes(automaton, listed("1", "2", "3")) and not takes(automaton, listed("1", "2", "3", "4"))
    assert not takes(automaton, '{"tool":"Analyze_Text","args":{"item_id":"all"}}')
    assert not takes(Automaton(toolbox(Options(max_items=1)), SIZE), listed("1"))


def test_arguments_of_an_unknown_type_are_refused():
    tool = Tool("New", "", {"x": Kind("number", lambda values, handles: True)}, lambda *_: None)
    with pytest.raises(TypeError, match="no grammar for an argument of type number"):
        Automaton({"New": tool}, SIZE)
