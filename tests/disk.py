"""What a full disk does."""

import contextlib
import resource


@contextlib.contextmanager
def files_of_at_most(size):
    """A disk that takes no larger file, which needs no privileges: what is written beyond fails, as on a full one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
