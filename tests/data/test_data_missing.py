import pytest

from mma_jax.data.missing import realizable
from mma_jax.types import FAMILIES


@pytest.mark.parametrize(
    ("presence", "families"),
    [
        ((True, True, True), tuple(FAMILIES)),
        ((True, False, True), ("no_image", "text_only", "behavior_only")),
        ((False, True, True), ("no_text", "image_only", "behavior_only")),
        ((True, True, False), ("cold_user", "text_only", "image_only")),
        ((False, False, True), ("behavior_only",)),
        ((False, False, False), ()),
    ],
)
def test_families_that_need_no_absent_modality(presence, families):
    assert realizable(presence) == families
