"""What a journal gives back is what was put there, for the same inputs and only for them."""

import errno
import os

import numpy as np
import pytest

from onnxprune.calibrate.batch import Batch, Samples
from onnxprune.errors import UsageError
from onnxprune.io.journal import Entry, Journal, digest
from tests.models_text import make

TEXT = "(float[N, 3] x) => (float[N, 4] y) { y = MatMul (x, w) }"


def samples(seed=0, mask=None, batch=4):
    x = np.random.default_rng(seed).standard_normal((8, 3)).astype(np.float32)
    return Samples([Batch({"x": x[k : k + batch]}, batch) for k in range(0, 8, batch)], 8, "test", False, mask)


def test_results_come_back(tmp_path):
    arrays = {"a/b:c": np.arange(6.0).reshape(2, 3), "half": np.ones(2, np.float16), "empty": np.zeros((0, 3))}
    Journal(tmp_path / "new" / "folder").section("fits", 1, "two").put("n / *", Entry(arrays, {"rows": 3}))
    journal = Journal(tmp_path / "new" / "folder")
    section = journal.section("fits", 1, "two")
    found = section.get("n / *")
    assert section.has("n / *") and not section.has("n") and section.get("n") is None
    assert found.data == {"rows": 3} and found.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found.arrays[name].dtype == array.dtype and np.array_equal(found.arrays[name], array)
    assert (journal.found, journal.written) == (1, 0)


def test_other_inputs_are_not_looked_at(tmp_path):
    model, other = (make(TEXT, dict(w=np.full((3, 4), k, np.float32))) for k in (1, 2))
    keys = [
        (model, samples(), "lsq"),
        (other, samples(), "lsq"),
        (model, samples(1), "lsq"),
        (model, samples(batch=2), "lsq"),
        (model, samples(mask="x"), "lsq"),
        (model, samples(), "bias"),
        (model, samples(), np.array([True])),
        (model, samples(), np.array([False])),
    ]
    assert len({digest(*k) for k in keys}) == len(keys)
    assert digest(*keys[0]) == digest(make(TEXT, dict(w=np.full((3, 4), 1, np.float32))), samples(), "lsq")
    journal = Journal(tmp_path)
    journal.section("fits", *keys[0]).put("n", Entry())
    assert [journal.section("fits", *k).has("n") for k in keys] == [True] + [False] * 7


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:200] + b"x" + b[201:]])
def test_a_damaged_result_is_none(tmp_path, damage):
    section = Journal(tmp_path).section("fits")
    section.put("n", Entry({"a": np.arange(100.0)}))
    (path,) = section.folder.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert section.get("n") is None
    section.put("n", Entry({"a": np.arange(3.0)}))
    assert section.get("n").arrays["a"].size == 3


def test_what_a_crash_left_is_removed(tmp_path, monkeypatch):
    section = Journal(tmp_path).section("fits")
    (section.folder / ".x.npz.0.tmp").write_bytes(b"half")
    assert not list(Journal(tmp_path).section("fits").folder.iterdir())


def test_a_folder_that_is_none(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="can't be made"):
        Journal(tmp_path / "file")


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    section = Journal(tmp_path).section("fits")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="no space left"):
        section.put("n", Entry({"a": np.zeros(3)}))
    monkeypatch.undo()
    assert not section.has("n") and not list(section.folder.iterdir())
