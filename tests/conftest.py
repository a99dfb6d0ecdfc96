"""Its presence puts this folder on the path, so that every test can `import doubles`.

Tests compile many small programs and run each a few times: without LLVM's optimizations they take a third less time.
"""

import os

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
