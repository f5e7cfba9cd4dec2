"""Every way a model file can be bad is one line that says so; a good one comes back whole."""

import os

import onnx
import pytest
from onnx import helper, numpy_helper

from onnxprune.errors import ModelError
from onnxprune.io.load import load_model
from tests.io.small import WEIGHT, make_external, make_model


def fails(path, *words: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_model(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    for word in words:
        assert word in message
    assert caught.value.__cause__ is None and (caught.value.__suppress_context__ or not caught.value.__context__)


def write(folder, data: bytes | onnx.ModelProto):
    path = folder / "m.onnx"
    path.write_bytes(data if isinstance(data, bytes) else data.SerializeToString())
    return path


def test_a_good_model_is_loaded_unchanged(tmp_path):
    model = make_model("z = acme.Foo (x)")
    path = write(tmp_path, model)
    assert load_model(path) == model
    assert load_model(str(path)) == model


def test_a_missing_file_or_a_directory(tmp_path):
    fails(tmp_path / "none.onnx", "no such file")
    fails(tmp_path, "directory")


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "empty"),
        (b"hello world, this is text\n", "not an ONNX model"),
        (bytes(range(255, 0, -1)), "not an ONNX model"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        (b"\x1f\x8b\x08\x00whatever", "gzip"),
        (b"PK\x03\x04whatever", "zip archive"),
        (b"\x18\x00\x00\x00ORTM" + bytes(20), "ORT format"),
        (numpy_helper.from_array(WEIGHT, "w").SerializeToString(), "not an ONNX model"),
        (onnx.ModelProto(ir_version=8, producer_name="x").SerializeToString(), "no graph"),
    ],
)
def test_a_file_that_is_no_model(tmp_path, data, word):
    fails(write(tmp_path, data), word)


def test_a_file_that_ends_anywhere_is_bad_and_mostly_called_truncated(tmp_path):
    data = make_model().SerializeToString()
    for end in range(1, len(data), 97):
        fails(write(tmp_path, data[:end]))
    fails(write(tmp_path, data[: len(data) // 2]), "truncated")


def test_a_graph_without_nodes(tmp_path):
    model = make_model()
    del model.graph.node[:]
    fails(write(tmp_path, model), "no nodes")


def test_versions_that_are_too_new_or_too_old(tmp_path):
    model = make_model()
    model.ir_version = onnx.IR_VERSION + 1
    fails(write(tmp_path, model), f"IR version {onnx.IR_VERSION + 1}", "update onnx")
    model = make_model()
    model.opset_import[0].version = onnx.defs.onnx_opset_version() + 1
    fails(write(tmp_path, model), "update onnx")
    model.opset_import[0].version = 6
    fails(write(tmp_path, model), "opset 6", "version_converter")
    del model.opset_import[:]
    fails(write(tmp_path, model), "no opset import")


def test_an_invalid_node_is_named(tmp_path):
    model = make_model()
    model.graph.node[1].name = "the_relu"
    model.graph.node[1].attribute.append(helper.make_attribute("bogus", 1))
    fails(write(tmp_path, model), "the_relu", "bogus")
    model = make_model("z = Bogus (x)")
    fails(write(tmp_path, model), "Bogus")


def test_data_that_does_not_fit_its_shape(tmp_path):
    model = make_model()
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]
    fails(write(tmp_path, model), "'w'", "16380", "16384")
    model.graph.initializer[0].dims[0] = -4
    fails(write(tmp_path, model), "'w'", "negative")
    model = make_model()
    model.graph.initializer[0].ClearField("raw_data")
    fails(write(tmp_path, model), "w")


def test_external_data_is_read_into_the_model(tmp_path):
    make_external(make_model(), tmp_path)
    assert load_model(tmp_path / "m.onnx") == make_model()


def test_external_data_without_offset_and_length(tmp_path):
    make_external(make_model(), tmp_path, offset=None, length=None)
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes() + b"something else")
    assert load_model(tmp_path / "m.onnx") == make_model()


def test_external_data_in_subfolders_and_a_relative_path(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    make_external(make_model(), tmp_path, location="sub/w.bin")
    os.rename(tmp_path / "w.bin", tmp_path / "sub" / "w.bin")
    monkeypatch.chdir(tmp_path)
    assert load_model("m.onnx") == make_model()


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"location": "other.bin"}, "missing"),
        ({"location": None}, "no location"),
        ({"location": "."}, "missing"),
        ({"location": "/etc/passwd"}, "outside"),
        ({"location": "../w.bin"}, "outside"),
        ({"location": "sub/../w.bin"}, "outside"),
        ({"offset": "128"}, "only 16448"),
        ({"offset": "-8"}, "ends at byte"),
        ({"offset": "many"}, "integers"),
        ({"length": "16000"}, "needs 16384"),
    ],
)
def test_external_data_that_is_missing_wrong_or_elsewhere(tmp_path, changes, word):
    make_external(make_model(), tmp_path, **changes)
    fails(tmp_path / "m.onnx", "'w'", word)


def test_external_data_behind_a_link_that_leaves_the_folder(tmp_path):
    (tmp_path / "model").mkdir()
    make_external(make_model(), tmp_path / "model")
    (tmp_path / "model" / "w.bin").rename(tmp_path / "secret.bin")
    (tmp_path / "model" / "w.bin").symlink_to(tmp_path / "secret.bin")
    fails(tmp_path / "model" / "m.onnx", "outside")
