"""Every experiment file loads, differs from the defaults by known keys only, and tells how to run it."""

import importlib.util
from pathlib import Path

import pytest

from mma_jax.config import base
from mma_jax.runs.registry import RUNS

FILES = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_config(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    assert config.run in RUNS
    assert set(config.to_dict()) == set(base().to_dict())
    assert f"--config=configs/{path.name}" in module.__doc__
