"""Labels from files, in the forms people have them."""

import numpy as np
import pytest

from onnxprune.errors import ModelError, UsageError
from onnxprune.metrics.labels import folder_classes, read_labels

NAMES = ["a/x.png", "b/y.png", "b/z.png"]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("l.txt", "3\n1\n\n2\n", [3, 1, 2]),
        ("l.csv", "3\n1\n2", [3, 1, 2]),
        ("l.csv", "label\n3\n1\n2", [3, 1, 2]),
        ("l.csv", "id,class,score\n0,3,9\n1,1,9\n2,-2,9", [3, 1, -2]),
        ("l.csv", "y.png,1\nz.png,2\nx.png,3", [3, 1, 2]),
        ("l.csv", "file,label\nb/z.png,2\na/x.png,3\nb/y.png,1\nother.png,7", [3, 1, 2]),
        ("l.csv", "\ufefflabel,image\n2,z.png\n3,x.png\n1,y.png", [3, 1, 2]),
        ("l.csv", "0,3\n1,1\n2,2", [3, 1, 2]),
    ],
)
def test_text(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text, "utf-8")
    assert read_labels(tmp_path / name, NAMES).tolist() == expected


def test_arrays(tmp_path):
    labels = np.arange(6).reshape(3, 2)
    np.save(tmp_path / "l.npy", labels)
    np.savez(tmp_path / "one.npz", anything=labels)
    np.savez(tmp_path / "two.npz", labels=labels, x=labels * 2)
    for name in ("l.npy", "one.npz", "two.npz"):
        np.testing.assert_array_equal(read_labels(tmp_path / name, []), labels)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("l.txt", "3\n1.5\n", r"l\.txt: line 2: '1\.5' is no integer"),
        ("l.csv", "label\n3\ncat\n", r"l\.csv: line 3: 'cat' is no integer"),
        ("l.csv", "", "is empty"),
        ("l.csv", "a,b,c\n1,2,3", "which column holds the labels"),
        ("l.csv", "y.png,1\nx.png,3", r"has no label for 'b/z\.png'"),
    ],
)
def test_text_that_can_not_be_read(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(ModelError, match=words):
        read_labels(tmp_path / name, NAMES)


def test_files_that_hold_no_labels(tmp_path):
    np.save(tmp_path / "l.npy", np.zeros(3))
    with pytest.raises(ModelError, match=r"l\.npy: 'labels' has to be integers \(N,\), not float64 \[3\]"):
        read_labels(tmp_path / "l.npy", [])
    np.savez(tmp_path / "l.npz", a=np.arange(3), b=np.arange(3))
    with pytest.raises(ModelError, match="needs an array 'labels', or only one array; it has 'a', 'b'"):
        read_labels(tmp_path / "l.npz", [])
    with pytest.raises(ModelError, match="no such file"):
        read_labels(tmp_path / "nothere.txt", [])
    with pytest.raises(UsageError, match="labels are read from npy, npz, csv, txt"):
        read_labels(tmp_path / "l.json", [])


def test_class_folders():
    labels, folders = folder_classes(["dog/1.png", "cat/1.png", "cat/deep/2.png"])
    assert labels.tolist() == [1, 0, 0] and folders == ["cat", "dog"]
    labels, folders = folder_classes(["10/a.png", "9/a.png", "2/a.png"])  # in text order 10 is the first
    assert labels.tolist() == [10, 9, 2] and folders == ["2", "9", "10"]
    assert folder_classes(["a.png", "cat/b.png"]) is None
    assert folder_classes(["cat/a.png", "cat/b.png"]) is None
    assert folder_classes(["x/0.npy", "z/0.npy"]) is None
    assert folder_classes([]) is None
