"""How many threads of BLAS a small factorization gets: one.

Its threads wait for each other after every few columns. Where another process has one of the cores, or ONNX Runtime's
threads have just used them, each of these waits is long: Cholesky factors of 800 channels then take up to
twenty times as long with two threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController

_LARGE = 2048  # channels from which on more threads pay


@contextmanager
def for_factors(size: int) -> Iterator[None]:
    """Within it BLAS has one thread where matrices are small.

    Args:
        size: rows of the matrices.
    """
    if size >= _LARGE:
        yield
    else:
        with _controller().limit(limits=1, user_api="blas"):
            yield


@cache
def _controller() -> ThreadpoolController:
    """Of the libraries that numpy and scipy have loaded by now."""
    import scipy.linalg  # noqa: F401 - loads its own

    return ThreadpoolController()
