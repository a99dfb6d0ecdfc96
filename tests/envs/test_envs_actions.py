import json
import random
from math import isfinite

import doubles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mma_jax.envs.actions import ERRORS, parse
from mma_jax.envs.environment import Environment, Options
from mma_jax.envs.tools import TERMINAL, TOOLS, toolbox
from mma_jax.envs.tools.schema import handles

BOX = toolbox(Options(interactive=True))
POOL = handles(4)
SCORE = '{"tool":"Score_Candidates","args":{"scores":{"1":93,"2":4.5,"4":-1e3}}}'
TEXT = '{"tool":"Analyze_Text","args":{"item_id":["1","4"]}}'


def kind(text, box=BOX):
    return parse(text, box, POOL).error


@pytest.mark.parametrize(
    "line",
    [
        SCORE,
        TEXT,
        '{"tool":"Analyze_Text","args":{"item_id":"3"}}',
        '{"args": {"item_id": "3"}, "tool": "Analyze_Image"}',
        '{"tool":"Retrieve_Graph","args":{"user_id":"u"}}',
        '{"tool":"Ask_User","args":{"modality_type":"image","query":"Что? \\" \\n"}}',
        '{"tool":"Score_Candidates","args":{"scores":{"1":1' + "0" * 300 + "}}}",
    ],
)
def test_valid_actions_keep_their_arguments(line):
    for text in (line, f"I think {{so}}.\n\n{line}\r\n  \n", f"  {line}  "):
        action = parse(text, BOX, POOL)
        assert (action.tool, action.args, action.error) == (*(json.loads(line)[k] for k in ("tool", "args")), "")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "invalid_json"),
        ("no action", "invalid_json"),
        (TEXT + "\nand that is why", "invalid_json"),
        (TEXT + " " + TEXT, "invalid_json"),
        ("[" + TEXT + "]", "invalid_json"),
        ("null", "invalid_json"),
        ('"Analyze_Text"', "invalid_json"),
        ('{"tool":"Analyze_Text"}', "invalid_json"),
        ('{"tool":"Analyze_Text","args":["1"]}', "invalid_json"),
        ('{"tool":["Analyze_Text"],"args":{}}', "invalid_json"),
        ('{"tool":"Analyze_Text","args":{"item_id":"1"},"why":"x"}', "invalid_json"),
        ('{"tool":"Analyze_Text","tool":"Analyze_Image","args":{"item_id":"1"}}', "invalid_json"),
        ('{"tool":"Analyze_Text","args":{"item_id":NaN}}', "invalid_json"),
        ("[" * 100_000, "invalid_json"),
        ('{"a":' * 100_000, "invalid_json"),
        ("1" * 10_000, "invalid_json"),
        ('{"tool":"analyze_text","args":{"item_id":"1"}}', "unknown_tool"),
        ('{"tool":"","args":{}}', "unknown_tool"),
        ('{"tool":"Analyze_Text","args":{}}', "bad_args"),
        ('{"tool":"Analyze_Text","args":{"item_id":1}}', "bad_args"),
        ('{"tool":"Analyze_Text","args":{"item_id":"5"}}', "bad_args"),
        ('{"tool":"Analyze_Text","args":{"item_id":"01"}}', "bad_args"),
        ('{"tool":"Analyze_Text","args":{"item_id":[]}}', "bad_args"),
        ('{"tool":"Analyze_Text","args":{"item_id":["1",["2"]]}}', "bad_args"),
        ('{"tool":"Analyze_Text","args":{"item_id":"1","n":1}}', "bad_args"),
        ('{"tool":"Retrieve_Graph","args":{"user_id":"1"}}', "bad_args"),
        ('{"tool":"Retrieve_Graph","args":{"user_id":{}}}', "bad_args"),
        ('{"tool":"Ask_User","args":{"modality_type":"audio","query":"?"}}', "bad_args"),
        ('{"tool":"Ask_User","args":{"modality_type":"text","query":"\\ud800"}}', "bad_args"),
        ('{"tool":"Score_Candidates","args":{}}', "malformed_terminal"),
        ('{"tool":"Score_Candidates","args":{"scores":[1,2]}}', "malformed_terminal"),
        ('{"tool":"Score_Candidates"}', "malformed_terminal"),
        ("Score_Candidates(1, 2)", "malformed_terminal"),
        ('{"tool":"Score_Candidates",\n"args":{"scores":{"1":1}}\n}', "malformed_terminal"),
        ('{"tool":"S', "malformed_terminal"),
        ('{"tool": "Score_Cand', "malformed_terminal"),
        ('{"tool":"Analyze_T', "invalid_json"),
        ('{"tool":"', "invalid_json"),
    ],
)
def test_errors_by_kind(text, error):
    action = parse(text, BOX, POOL)
    assert action.error == error and action.error in ERRORS and action.args == {}


@pytest.mark.parametrize(
    "scores",
    [
        "{}",
        '{"1":1,"1":2}',
        '{"1":NaN}',
        '{"1":Infinity}',
        '{"1":-Infinity}',
        '{"1":1e999}',
        '{"1":-1e999}',
        '{"1":1' + "0" * 400 + "}",
        '{"1":1' + "0" * 5000 + "}",
        '{"1":true}',
        '{"1":null}',
        '{"1":"93"}',
        '{"1":[1]}',
        '{"1":{"1":1}}',
        '{"0":1}',
        '{"5":1}',
        '{"1":1,"x":2}',
        '{"":1}',
        '{"1":' + "[" * 50_000 + "]" * 50_000 + "}",
    ],
    ids=lambda scores: scores[:20],
)
def test_malformed_scores(scores):
    assert kind('{"tool":"Score_Candidates","args":{"scores":%s}}' % scores) == "malformed_terminal"  # noqa: UP031


def test_every_way_to_cut_a_terminal_short_is_malformed_from_its_name_on():
    start = SCORE.index(TERMINAL)
    for end in range(len(SCORE)):
        assert kind("Let me see.\n" + SCORE[:end]) == ("malformed_terminal" if end > start else "invalid_json")


def test_reasoning_may_mention_the_terminal():
    assert kind(f"Later I shall use Score_Candidates.\n{TEXT}") == ""


def test_ask_user_is_unknown_to_the_automated_variant():
    ask = '{"tool":"Ask_User","args":{"modality_type":"text","query":"?"}}'
    assert kind(ask) == "" and kind(ask, toolbox(Options())) == "unknown_tool"


def test_max_items_bounds_a_list_and_one_means_no_list():
    for most, lists in ((1, {1: "bad_args"}), (2, {1: "", 2: "", 3: "bad_args"}), (None, {4: ""})):
        box = toolbox(Options(max_items=most))
        assert kind('{"tool":"Analyze_Text","args":{"item_id":"1"}}', box) == ""
        for n, error in lists.items():
            ids = json.dumps([str(j + 1) for j in range(n)])
            assert kind(f'{{"tool":"Analyze_Text","args":{{"item_id":{ids}}}}}', box) == error


def test_all_is_a_word_for_every_candidate_where_a_call_may_name_them():
    every = '{"tool":"Analyze_Image","args":{"item_id":"all"}}'
    assert kind(every) == "" and kind(every.replace("all", "most")) == "bad_args"
    for most in (1, 3):
        assert kind(every, toolbox(Options(max_items=most))) == "bad_args"
        assert '"all"' not in toolbox(Options(max_items=most))["Analyze_Image"].schema


def test_schemas_say_what_the_functions_take():
    assert BOX["Analyze_Text"].schema.startswith(
        '{"tool":"Analyze_Text","args":{"item_id":"handle" or ["handle",...] or "all"}} '
    )
    assert '"modality_type":"text"|"image"|"behavior","query":"string"' in BOX["Ask_User"].schema
    assert '{"scores":{"handle":number,...}}' in BOX[TERMINAL].schema
    assert "graph_titles" not in BOX["Retrieve_Graph"].schema
    assert list(BOX) == list(TOOLS)


def is_valid_terminal(text):
    """A second reading of the contract, by other means than the parser's: pairs instead of dicts."""
    line = text.strip().split("\n")[-1]
    constants = []
    try:
        pairs = json.loads(line, object_pairs_hook=lambda p: ("object", p), parse_constant=constants.append)
    except (ValueError, RecursionError):
        return False
    match pairs:
        case ("object", [("tool", "Score_Candidates"), ("args", ("object", [("scores", ("object", [*entries]))]))]):
            pass
        case ("object", [("args", ("object", [("scores", ("object", [*entries]))])), ("tool", "Score_Candidates")]):
            pass
        case _:
            return False
    keys = [key for key, _ in entries]
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < 1e308 for _, v in entries)
    return (
        bool(keys) and len(set(keys)) == len(keys) and set(keys) <= {"1", "2", "3", "4"} and numbers and not constants
    )


def fuzzed(n, seed):
    """Valid actions with random edits, token soups and random text."""
    rng = random.Random(seed)
    seeds = [SCORE, TEXT, "Hm.\n" + SCORE, '{"tool":"Retrieve_Graph","args":{"user_id":"u"}}']
    tokens = [
        '{"tool":',
        '"Score_Candidates"',
        '"args":',
        '{"scores":',
        '{"1":',
        "93",
        "}}}",
        "NaN",
        "1e999",
        "true",
        ",",
    ]
    tokens += ["\n", "\\", '"', "\ud800", "\u2028", "\x00", "[", "]", "-", '"2":', '"9":', "Analyze_Text", "<|eot_id|>"]
    for _ in range(n):
        way = rng.randrange(4)
        if way == 0:
            yield "".join(rng.choices(tokens, k=rng.randrange(14)))
        elif way == 1:
            yield "".join(chr(rng.randrange(0x11000)) for _ in range(rng.randrange(30)))
        else:
            text = list(rng.choice(seeds))
            for _ in range(rng.randrange(1, 4)):
                at = rng.randrange(len(text))
                text[at : at + rng.randrange(3)] = rng.choice([[], [rng.choice(tokens)], [chr(rng.randrange(32, 127))]])
                text = text or [" "]
            yield "".join(text)


def test_rule_9_ten_thousand_fuzzed_texts():
    environment = Environment(doubles.evidence(), Options())
    start, _ = environment.reset(doubles.episode())
    costs, seen = environment.options.costs, set()
    for text in fuzzed(10_000, seed=0):
        _, observation, reward, done, info = environment.step(start, text)
        scored = info["stop_reason"] == "scored"
        assert scored == is_valid_terminal(text), text
        if info["error"]:
            assert reward == costs.invalid and isfinite(reward)
            assert done == (info["error"] == "malformed_terminal")
            assert "\n" not in observation
        seen.add((info["tool"], info["error"]))
    assert {error for _, error in seen} == {"", *ERRORS} - {"repeat_null"}
    assert (TERMINAL, "") in seen


@settings(max_examples=500, deadline=None)
@given(st.text(), st.sampled_from(["", SCORE[:40], TEXT[:20], '{"tool":"Score_Candidates","args":{"scores":{"1":']))
def test_any_text_at_all(text, prefix):
    action = parse(prefix + text, BOX, POOL)
    assert (action.error == "" and action.tool == TERMINAL) == is_valid_terminal(prefix + text)
