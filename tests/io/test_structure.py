"""What a model is apart from its payloads, how large it is, and which one it is."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from onnxprune.errors import ModelError
from onnxprune.io.load import load_model
from onnxprune.io.structure import copy_structure, model_size, sha256_model
from onnxprune.io.walk import tensors
from tests.io.small import WEIGHT, make_external, make_model


def test_the_hash_does_not_depend_on_where_data_is_stored(tmp_path):
    model = make_model()
    make_external(make_model(), tmp_path)
    assert sha256_model(load_model(tmp_path / "m.onnx")) == sha256_model(model)
    model.graph.initializer[0].data_location = TensorProto.DEFAULT
    assert sha256_model(model) == sha256_model(make_model())


def test_the_hash_sees_every_change():
    def changed(change) -> str:
        model = make_model()
        change(model)
        return sha256_model(model)

    def flip(model):
        tensor = model.graph.initializer[0]
        tensor.raw_data = tensor.raw_data[:-1] + b"\x01"

    hashes = {
        sha256_model(make_model()),
        changed(flip),
        changed(lambda m: setattr(m.graph.node[0], "name", "n")),
        changed(lambda m: setattr(m, "doc_string", "d")),
    }
    assert len(hashes) == 4


def test_a_tensor_whose_data_was_not_read_has_no_hash(tmp_path):
    make_external(make_model(), tmp_path)
    with pytest.raises(ModelError, match="load_model"):
        sha256_model(onnx.load(tmp_path / "m.onnx", load_external_data=False))


def test_the_structure_lacks_payloads_only():
    model = make_model()
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "small"))
    copy = copy_structure(model, keep_bytes=12)
    assert [tensor.HasField("raw_data") for tensor in tensors(copy)] == [False, True]
    copy.graph.initializer[0].raw_data = WEIGHT.tobytes()
    assert copy == model


def test_the_size_is_that_of_the_file():
    model = make_model()
    assert abs(model_size(model) - model.ByteSize()) < 32
