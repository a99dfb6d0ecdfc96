"""Costs of device programs against what can be worked out by hand."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mma_jax.evaluation import cost
from mma_jax.models.llama import Llama, LlamaConfig
from mma_jax.sampling.sampler import Sampler

A, B = np.ones((64, 128), np.float32), np.ones((128, 32), np.float32)
PRODUCT = 2 * 64 * 128 * 32


def product(a, b):
    return a @ b


@functools.partial(jax.jit, static_argnums=1)
def rounds(a, width, n):
    return jax.lax.while_loop(lambda s: s[1] < n, lambda s: (s[0] @ a[:width], s[1] + 1), (a, 0))[0]


def test_a_product_costs_two_operations_a_term():
    found = cost.account(jax.jit(product), A, B)
    assert found.flops == PRODUCT and not found.loops
    assert found.bytes >= A.nbytes + B.nbytes + 64 * 32 * 4
    assert cost.account(jax.jit(product), *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (A, B))) == found


def test_a_loop_counts_once_and_is_told():
    square = np.ones((16, 16), np.float32)
    found = cost.account(rounds, square, 16, 7)
    assert found.loops and found.flops == pytest.approx(2 * 16**3, rel=0.01)


def test_a_meter_adds_up_calls_of_any_shape_and_is_gone_afterwards():
    owner = SimpleNamespace(product=jax.jit(product))
    original = owner.product
    with cost.metered(owner, "product") as meter:
        np.testing.assert_array_equal(owner.product(A, B), A @ B)
        owner.product(A, B)
        owner.product(A[:32], b=B)
        assert (meter.runs, meter.flops) == (3, 2.5 * PRODUCT)
        meter.reset()
        assert (meter.runs, meter.flops, meter.bytes) == (0, 0.0, 0)
    assert owner.product is original


def test_a_meter_goes_round_a_loop_as_often_as_it_is_told():
    owner = SimpleNamespace(rounds=rounds)
    square = np.eye(16, dtype=np.float32)
    with cost.metered(owner, "rounds", lambda arguments, outcome: arguments[2]) as meter:
        owner.rounds(square, 16, 5)
        assert meter.runs == 5 and not meter.loops
        assert meter.flops == pytest.approx(5 * 2 * 16**3, rel=0.01)
    with cost.metered(owner, "rounds") as meter:
        owner.rounds(square, 16, 5)
        assert meter.runs == 1 and meter.loops


def test_donated_arguments_are_read_before_they_are_gone():
    owner = SimpleNamespace(double=jax.jit(lambda x: 2 * x, donate_argnums=0))
    with cost.metered(owner, "double"):
        assert owner.double(jnp.ones(3)).tolist() == [2.0, 2.0, 2.0]


def test_prompts_of_a_llama_cost_twice_its_matrices_a_token():
    shape = LlamaConfig(vocab_size=31, width=64, layers=3, heads=4, kv_heads=2, head_dim=16, hidden=96)
    sampler = Sampler(Llama(shape, rngs=nnx.Rngs(0)), (0,), (64,), (32,))
    state = nnx.state(Llama(shape, rngs=nnx.Rngs(0)))
    with cost.metered(sampler, "prefill") as meter:
        session = sampler.open(state, rows=1, slots=64)
        session.extend([0], [[3] * 33])
        session.sample([0], np.zeros((1, 2), np.uint32), 2, 0.0)
        keys, layer = 64 * 2 * 32, 64 * (64 + 2 * 32 + 64 + 3 * 96)
        scores = 2 * 2 * 32 * 32 * 4 * 16  # and their sums: operations x tokens x tokens x heads x head_dim
        last = 2 * 32 * keys  # nobody reads what the last layer answers, only what its cache gets
        assert meter.runs == 1
        assert meter.flops == pytest.approx(2 * (2 * 32 * layer + scores) + last, rel=0.06)
