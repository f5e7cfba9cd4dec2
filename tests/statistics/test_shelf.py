"""Arrays that lie in files come back as they were, and files are used again."""

import errno
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from onnxprune.errors import UsageError
from onnxprune.statistics.shelf import Shelf, Spilled, taken

KB = 1 << 10


def test_any_order_of_sizes_and_types_comes_back():
    random = np.random.default_rng(0)
    shelf, held = Shelf(300 * KB), []
    for _ in range(200):
        if held and random.random() < 0.45:
            array, item = held.pop(random.integers(len(held)))
            assert np.array_equal(taken(item), array) and taken(item).dtype == array.dtype
            shelf.drop(item)
        dtype = random.choice([np.float32, np.int8, ml_dtypes.bfloat16, np.float64])
        array = random.integers(-5, 5, tuple(random.integers(1, 70, 3))).astype(dtype)[::-1].transpose(2, 0, 1)
        held.append((array, shelf.put(array)))
    assert sum(isinstance(item, Spilled) for _, item in held) > 10
    for array, item in held:
        assert np.array_equal(taken(item), array)
        shelf.drop(item)
    assert shelf.bytes == 0


def test_files_that_are_free_are_used_again_and_grow_where_none_is_large_enough():
    shelf = Shelf(0)
    small, large = (shelf.put(np.zeros(n * KB, np.uint8)) for n in (64, 256))
    shelf.drop(small)
    shelf.drop(large)
    fits = shelf.put(np.ones(128 * KB, np.uint8))
    grown = shelf.put(np.ones(200 * KB, np.uint8))
    assert (fits.path, grown.path) == (large.path, small.path)
    assert taken(grown).all() and taken(fits).all() and taken(fits).size == 128 * KB
    assert (fits.size, grown.size) == (256 * KB, 200 * KB)
    assert shelf.put(np.ones(64 * KB, np.uint8)).path not in {fits.path, grown.path}


def test_texts_stay_in_memory():
    texts = np.array(["x"] * (1 << 14), object)
    assert Shelf(0).put(texts) is texts


def test_a_full_disk_is_an_error_that_says_what_to_do(monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(UsageError, match="No space left on device.*memory budget.*TMPDIR"):
        Shelf(0).put(np.zeros(1 << 16))
