"""Files from strangers: damaged ones, and what a reader may make of them."""

import random

from mma_jax.types import InputError


def damaged(content: bytes, rng: random.Random, upto: int) -> bytes:
    """A file with bits flipped, digits and brackets exchanged or a piece lost in its first `upto` bytes, or cut off."""
    content, at = bytearray(content), [rng.randrange(upto) for _ in range(rng.randint(1, 3))]
    kind = rng.randrange(4)
    if kind == 0:
        for position in at:
            content[position] ^= 1 << rng.randrange(8)
    elif kind == 1:
        for position in at:
            content[position] = rng.choice(b'0129-.e"{}[],:')
    elif kind == 2:
        del content[at[0] : at[0] + rng.randint(1, 20)]
    else:
        del content[rng.randrange(len(content)) :]
    return bytes(content)


def reads_or_refuses(read, folder) -> bool:
    """Whether it was read; if not, it was refused in one line that says where."""
    try:
        read(folder)
    except InputError as error:
        assert str(folder) in str(error) or "chat template" in str(error)
        assert "\n" not in str(error) and len(str(error)) < 600
        return False
    return True
