"""What data make impossible is told in one line, and what they lack is known before any evidence is built."""

import numpy as np
import pytest
from leakage import ITEMS, shop

from mma_jax.agents.registry import chosen
from mma_jax.config import generated_world
from mma_jax.evaluation.experiment import Experiment
from mma_jax.types import InputError


def test_a_source_without_pairs_is_no_graph_of_pairs(tmp_path):
    made = shop(tmp_path, 0)
    made.check()
    made.config.graph.source = "copurchases"
    with pytest.raises(InputError, match="shop lists no pairs of items bought together"):
        made.check()


def test_text_without_a_word_is_no_text(tmp_path):
    made = shop(tmp_path, 0)
    rows = [f"i{item}\t!!! ???\tof the" for item in range(ITEMS)]
    header = "item_id:token\ttitle:token_seq\tcategories:token_seq"
    (tmp_path / "data0" / "shop" / "shop.item").write_text("\n".join([header, *rows]))
    assert made.presence == made.view("test").presence == (False, True, True)
    assert {e.family for e in made.episodes("test", "ooma")} == {"image_only", "behavior_only"}


def test_a_behavior_that_links_no_items_scores_them_alike(tmp_path):
    """Users of one item each: popularity is known, and nothing else."""
    made = shop(tmp_path, 0)
    rows = [f"u{n}\ti{n % (ITEMS - 1)}\t{n}" for n in range(200)]
    header = "user_id:token\titem_id:token\ttimestamp:float"
    (tmp_path / "data0" / "shop" / "shop.inter").write_text("\n".join([header, *rows]))
    view = made.view("test")
    assert made.presence[2] and view.presence[2] and view.graph.popularity.sum() == 160 and not view.graph.has.any()
    assert len(view.search_graph(np.arange(3), 5)) == 0
    behavior = [e for e in made.episodes("test", "ooma") if e.family == "behavior_only"]
    assert behavior and not any(e.case.scores.any() for e in behavior)


def test_no_bound_is_known_where_its_law_does_not_hold(tmp_path):
    """Bayes takes negatives for even and histories for whole."""
    config = generated_world()
    assert Experiment(config, tmp_path, None).world is not None
    for part, name, value in (
        ("pool", "negatives", "popularity"),
        ("data", "max_history", 29),
        ("data", "drop_rate", 0.1),
    ):
        changed = generated_world()
        changed[part][name] = value
        assert Experiment(changed, tmp_path, None).world is None
    with pytest.raises(InputError, match=r"'Bayes' needs the truth: .*pool\.negatives=all"):
        chosen("First-stage,Bayes", world=False)
