"""The house's floors (DESIGN §3): imports go downward only, and the environment needs no JAX."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "mma_jax"
FLOORS = [
    {"types"},
    {"data", "features", "retrieval", "metrics"},
    {"envs"},
    {"models"},
    {"sampling"},
    {"learning"},
    {"baselines"},
    {"agents"},
    {"evaluation"},
    {"reports"},
    {"runs"},
    {"main", "config"},
]
FLOOR = {name: level for level, names in enumerate(FLOORS) for name in names}
WITHOUT_JAX = ("data", "features", "retrieval", "metrics", "envs")
FILES = sorted(path for path in ROOT.rglob("*.py") if path.parent != ROOT or path.name != "__init__.py")


def package(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Absolute names a file imports, at its top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_downward(path):
    own = package(path)
    for name in imported(path):
        parts = name.split(".")
        if parts[0] != "mma_jax" or len(parts) < 2:
            continue
        other = parts[1]
        assert other == own or FLOOR[other] < FLOOR[own], f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("floor", WITHOUT_JAX)
def test_floor_names_no_accelerator_library(floor):
    for path in (ROOT / floor).rglob("*.py"):
        roots = {name.split(".")[0] for name in imported(path)}
        assert not roots & {"jax", "flax", "optax", "torch"}, path


def test_environment_imports_without_jax_or_torch():
    code = (
        "import sys, mma_jax.envs.environment, mma_jax.envs.tools; "
        "print(sorted({'jax', 'torch', 'flax'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_package_roots_import_nothing():
    for path in [ROOT / "__init__.py", *ROOT.glob("*/__init__.py")]:
        if path.parent.name != "tools":
            assert not imported(path), path


PICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_unpickled(path):
    """No file imports what loads pickles, numpy is told not to, and torch's format is not read."""
    assert not PICKLING & {name.partition(".")[0] for name in imported(path)}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        assert not called.startswith("torch.load"), f"{path}:{node.lineno}"
        if called in ("np.load", "numpy.load"):
            told = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert told.get("allow_pickle") == "False", f"{path}:{node.lineno}"
