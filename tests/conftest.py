"""Its presence puts this folder on the path, so that every test can `import doubles`.

Tests compile many small programs and run each a few times: without LLVM's optimizations they take a third less time.
Folders with the longest files come first, so that no process is left with one of them at the end.
"""

import os

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"

LONGEST = ("runs", "launch", "notebooks", "learning", "models")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.parent.name not in LONGEST)
