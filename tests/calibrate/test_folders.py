"""Folders of arrays and of serialized tensors."""

import numpy as np
import pytest
from onnx import numpy_helper

from onnxprune.calibrate.folder import spread
from onnxprune.calibrate.read import read_samples
from onnxprune.errors import ModelError

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 6)).astype(np.float32)


def rows(samples, name: str) -> np.ndarray:
    return np.concatenate([b.feeds[name][: b.count] for b in samples.batches])


def save(path, array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


def test_one_sample_in_each_npy_file(tmp_path, model):
    for k, row in enumerate(X):
        save(tmp_path / f"{k:03}.npy", row)
    found = read_samples(tmp_path, model("float[N, 6] x"), batch=16)
    assert [b.count for b in found.batches] == [16, 16, 8]
    np.testing.assert_array_equal(rows(found, "x"), X)
    assert found.origin == f"40 samples of {tmp_path.name}"


def test_one_batch_in_each_npy_file(tmp_path, model):
    for k in range(4):
        save(tmp_path / f"{k}.npy", X[10 * k : 10 * k + 10])
    found = read_samples(tmp_path, model("float[12, 6] x"), samples=35)
    assert [b.count for b in found.batches] == [12, 12, 11]
    np.testing.assert_array_equal(rows(found, "x"), X[:35])


def test_a_subset_is_spread_evenly_and_seeded(tmp_path, model):
    for k in range(40):
        save(tmp_path / f"{k:03}.npy", np.full(6, k, np.float32))
    wanted = model("float[N, 6] x")
    first, again, other = (rows(read_samples(tmp_path, wanted, samples=8, seed=s), "x")[:, 0] for s in (0, 0, 1))
    assert (first // 5).tolist() == list(range(8))
    np.testing.assert_array_equal(first, again)
    assert first.tolist() != other.tolist()


@pytest.mark.parametrize(("items", "count"), [(7, 7), (7, 9), (7, 6), (10, 3), (3, 1)])
def test_no_item_is_drawn_twice(items, count):
    for seed in range(20):
        found = spread(range(items), count, seed)
        assert len(set(found)) == len(found) == min(items, count)
        assert found == sorted(found)


def test_a_folder_for_each_input(tmp_path, model):
    for k, row in enumerate(X):
        save(tmp_path / "x" / f"{k:03}.npy", row)
        save(tmp_path / "k" / f"{k:03}.npy", np.int64(k))
    wanted = model("float[N, 6] x, int64[N] k")
    found = read_samples(tmp_path, wanted)
    np.testing.assert_array_equal(rows(found, "x"), X)
    np.testing.assert_array_equal(rows(found, "k"), np.arange(40))
    (tmp_path / "k" / "007.npy").unlink()
    with pytest.raises(ModelError, match=r"k/007\.npy: is missing"):
        read_samples(tmp_path, wanted)


def test_npz_files_hold_samples_or_batches(tmp_path, model):
    np.savez(tmp_path / "a.npz", x=X[0], k=np.int64(0), other=np.zeros(3))
    np.savez(tmp_path / "b.npz", x=X[1:4], k=np.arange(1, 4))
    found = read_samples(tmp_path, model("float[N, 6] x, int64[N] k"), batch=3)
    assert [b.count for b in found.batches] == [3, 1]
    np.testing.assert_array_equal(rows(found, "x"), X[:4])
    np.testing.assert_array_equal(rows(found, "k"), np.arange(4))


def test_samples_of_different_length_are_never_in_one_batch(tmp_path, model):
    lengths = [3, 5, 3, 5, 3, 4]
    for k, length in enumerate(lengths):
        np.savez(tmp_path / f"{k}.npz", ids=np.full(length, k), attention_mask=np.ones(length, int))
    found = read_samples(tmp_path, model("int64[N, S] ids, int64[N, S] attention_mask"), batch=2)
    assert [b.feeds["ids"].shape for b in found.batches] == [(2, 3), (2, 5), (1, 3), (1, 4)]
    assert [b.feeds["ids"][:, 0].tolist() for b in found.batches] == [[0, 2], [1, 3], [4], [5]]
    assert found.mask == "attention_mask"


def test_a_file_is_read_again_in_every_pass(tmp_path, model):
    save(tmp_path / "0.npy", X[0])
    found = read_samples(tmp_path, model("float[N, 6] x"))
    save(tmp_path / "0.npy", X[1])
    np.testing.assert_array_equal(rows(found, "x"), X[1:2])


def test_sets_of_serialized_tensors(tmp_path, model):
    for k in range(12):
        folder = tmp_path / f"test_data_set_{k}"
        folder.mkdir()
        (folder / "input_0.pb").write_bytes(numpy_helper.from_array(X[k : k + 1], "").SerializeToString())
        (folder / "input_1.pb").write_bytes(numpy_helper.from_array(np.array([k]), "k").SerializeToString())
        (folder / "output_0.pb").write_bytes(b"")
    wanted = model("float[N, 6] x, int64[N] k")
    found = read_samples(tmp_path, wanted)
    np.testing.assert_array_equal(rows(found, "x"), X[:12])
    assert rows(found, "k").tolist() == list(range(12))
    assert read_samples(tmp_path / "test_data_set_3", wanted).batches[0].feeds["k"] == [3]
    (tmp_path / "test_data_set_5" / "input_1.pb").write_bytes(b"\xff\xff")
    with pytest.raises(ModelError, match=r"test_data_set_5/input_1\.pb: is no serialized TensorProto"):
        read_samples(tmp_path, wanted)
    (tmp_path / "test_data_set_5" / "input_1.pb").unlink()
    with pytest.raises(ModelError, match=r"test_data_set_5: has the arrays 'x', but needs .*\('x', 'k'\)"):
        read_samples(tmp_path, wanted)


def test_the_file_that_does_not_fit_is_named(tmp_path, model):
    wanted = model("float[N, 6] x")
    save(tmp_path / "a.npy", X[0])
    save(tmp_path / "b.npy", X[0, :5])
    with pytest.raises(ModelError, match=r"b\.npy: float32 \[1, 5\] does not fit input 'x' \[N, 6\]"):
        read_samples(tmp_path, wanted)
    (tmp_path / "b.npy").write_bytes(b"damaged")
    with pytest.raises(ModelError, match=r"b\.npy: is no npy file of a plain array"):
        read_samples(tmp_path, wanted)
    with pytest.raises(ModelError, match="folders named 'x', 'z'"):
        read_samples(tmp_path, model("float[N, 6] x, float[N, 6] z"))
    np.savez(tmp_path / "c.npz", x=X)
    with pytest.raises(ModelError, match="both npz and npy"):
        read_samples(tmp_path, wanted)


def test_a_folder_without_data(tmp_path, model):
    (tmp_path / "readme.txt").write_text("")
    with pytest.raises(ModelError, match="holds no calibration data: needs npz or npy files, folders 'x'"):
        read_samples(tmp_path, model("float[N, 6] x"))
