"""An output file is either the whole new model or what was there before."""

import errno
import os

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from onnxprune.errors import ModelError, UsageError
from onnxprune.io import save
from onnxprune.io.load import load_model
from onnxprune.io.save import save_model

X = np.ones((1, 600), np.float32)


@pytest.fixture
def model() -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        agraph (float[1, 600] x, bool c) => (float[1, 600] y) {
          v = Constant <value = float[600] {0}> ()
          h = Mul (x, w)
          k = Add (h, s)
          y = If (c) <
            then_branch = t () => (float[1, 600] a) { a = Add (k, inner) },
            else_branch = e () => (float[1, 600] b) { b = Sub (k, v) }
          >
        }
        """
    )
    values = np.arange(600, dtype=np.float32)
    model.graph.node[0].attribute[0].t.CopyFrom(numpy_helper.from_array(values, "value"))
    model.graph.initializer.append(numpy_helper.from_array(values, "w"))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(3), "s"))
    model.graph.node[3].attribute[0].g.initializer.append(numpy_helper.from_array(values + 1, "inner"))
    return model


def files(folder) -> list[str]:
    return sorted(os.listdir(folder))


def run(model: str | bytes) -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": X, "c": np.array(True)})[0]


def test_a_model_comes_back_as_it_was_saved(tmp_path, model):
    before = model.SerializeToString(deterministic=True)
    save_model(model, tmp_path / "out.onnx")
    assert load_model(tmp_path / "out.onnx") == model
    assert files(tmp_path) == ["out.onnx"]
    assert model.SerializeToString(deterministic=True) == before


def test_external_data_goes_beside_the_model(tmp_path, model):
    before = model.SerializeToString(deterministic=True)
    save_model(model, tmp_path / "out.onnx", external_data=True)
    assert files(tmp_path) == ["out.onnx", "out.onnx.data"]
    assert model.SerializeToString(deterministic=True) == before
    assert load_model(tmp_path / "out.onnx") == model

    stored = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    places = [t.data_location for t in stored.graph.initializer]
    assert places == [TensorProto.EXTERNAL, TensorProto.DEFAULT]
    assert stored.graph.node[3].attribute[0].g.initializer[0].data_location == TensorProto.EXTERNAL
    assert len(stored.graph.node[0].attribute[0].t.raw_data) == 2400
    np.testing.assert_array_equal(run(str(tmp_path / "out.onnx")), run(model.SerializeToString()))


def test_a_model_too_large_for_one_file_gets_external_data(tmp_path, model, monkeypatch):
    monkeypatch.setattr(save, "MAX_PROTOBUF_BYTES", save._MARGIN_BYTES + 1000)
    with pytest.raises(UsageError, match="2 GiB"):
        save_model(model, tmp_path / "out.onnx", external_data=False)
    assert files(tmp_path) == []
    save_model(model, tmp_path / "out.onnx")
    assert files(tmp_path) == ["out.onnx", "out.onnx.data"]


def test_the_source_is_not_overwritten(tmp_path, model):
    source = tmp_path / "in.onnx"
    save_model(model, source)
    (tmp_path / "link.onnx").symlink_to(source)
    os.link(source, tmp_path / "hard.onnx")
    for name in ("in.onnx", "link.onnx", "hard.onnx"):
        with pytest.raises(UsageError, match="is the source"):
            save_model(model, tmp_path / name, source_path=source)
    save_model(model, source)  # who does not name the source may replace it


def test_the_external_data_of_the_source_is_not_overwritten(tmp_path, model):
    save_model(model, tmp_path / "out.onnx", external_data=True)
    os.rename(tmp_path / "out.onnx", tmp_path / "in.onnx")
    with pytest.raises(UsageError, match="external data"):
        save_model(model, tmp_path / "out.onnx", external_data=True, source_path=tmp_path / "in.onnx")
    assert load_model(tmp_path / "in.onnx") == model


def test_an_output_that_can_not_be(tmp_path, model):
    (tmp_path / "file").write_bytes(b"")
    for path, word in (
        (tmp_path, "directory"),
        (tmp_path / "none" / "m.onnx", "does not exist"),
        (tmp_path / "file" / "m.onnx", "not a folder"),
    ):
        with pytest.raises(UsageError, match=word):
            save_model(model, path)
    assert files(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("number", "word"),
    [
        (errno.EROFS, "not writable"),
        (errno.EACCES, "not writable"),
        (errno.ENOSPC, "no space"),
        (errno.EIO, "can't be"),
    ],
)
@pytest.mark.parametrize("function", ["open", "fsync", "replace"])
@pytest.mark.parametrize("external", [False, True])
def test_a_failure_leaves_what_was_there(tmp_path, model, monkeypatch, number, word, function, external):
    (tmp_path / "out.onnx").write_bytes(b"old")

    def fail(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(UsageError, match=word) as caught:
        save_model(model, tmp_path / "out.onnx", external_data=external)
    monkeypatch.undo()
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == ["out.onnx"]
    assert (tmp_path / "out.onnx").read_bytes() == b"old"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(tmp_path, model):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UsageError, match="not writable"):
            save_model(model, tmp_path / "out.onnx")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("external", [False, True])
def test_an_interrupt_leaves_what_was_there(tmp_path, model, monkeypatch, external):
    def interrupt(*args):
        raise KeyboardInterrupt

    (tmp_path / "out.onnx").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_model(model, tmp_path / "out.onnx", external_data=external)
    assert files(tmp_path) == ["out.onnx"]
    assert (tmp_path / "out.onnx").read_bytes() == b"old"


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
def test_the_file_has_the_mode_of_any_new_file(tmp_path, model):
    save_model(model, tmp_path / "out.onnx")
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "out.onnx").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_model_whose_data_was_not_read_is_refused(tmp_path, model):
    save_model(model, tmp_path / "in.onnx", external_data=True)
    bare = onnx.load(tmp_path / "in.onnx", load_external_data=False)
    for external in (False, True):
        with pytest.raises(ModelError, match="load_model"):
            save_model(bare, tmp_path / "out.onnx", external_data=external)
    assert files(tmp_path) == ["in.onnx", "in.onnx.data"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_file_is_not_replaced(tmp_path, model):
    for name in ("out.onnx", "other.onnx.data"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(UsageError, match="not a regular file"):
            save_model(model, tmp_path / name.removesuffix(".data"), external_data=True)
        assert (tmp_path / name).is_fifo()
    with pytest.raises(UsageError, match="not a regular file"):
        save.save_text("text", tmp_path / "out.onnx")
