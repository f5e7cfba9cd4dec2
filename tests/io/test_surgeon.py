"""What enters onnx-graphsurgeon comes out again to the byte."""

import importlib.util
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from onnxprune.io.attributes import delete_attribute, set_attribute
from onnxprune.io.constants import constant_array, set_constant
from onnxprune.io.export import export_model
from onnxprune.io.surgeon import import_graph
from tests.io.graphs import constant_of, data, identity_of, initializer, node_of, parse

ZOO = Path(__file__).parents[2] / "benchmarks" / "zoo"

DTYPES = [
    *(np.float32, np.float64, np.float16, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32),
    *(np.uint64, np.bool_, np.complex64, np.complex128, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn),
    *(ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2, ml_dtypes.float8_e5m2fnuz, ml_dtypes.int4, ml_dtypes.uint4),
    ml_dtypes.float4_e2m1fn,
]


def assert_round_trip(model: onnx.ModelProto) -> None:
    before = data(model)
    exported = export_model(import_graph(model), model)
    assert data(exported) == before
    assert data(model) == before


def test_a_plain_model(conv):
    assert_round_trip(conv)


def test_everything_that_describes(conv):
    graph = conv.graph
    conv.domain, conv.model_version, conv.doc_string, conv.producer_version = "acme", 3, "model", "1"
    graph.doc_string = "graph"
    for holder in (conv, graph, graph.node[0], graph.value_info[0], graph.input[0], graph.initializer[0]):
        holder.metadata_props.add(key="k", value="v")
    graph.node[0].doc_string, graph.node[0].name, graph.node[0].overload = "node", "conv", "o"
    graph.node[0].attribute[0].doc_string = "attribute"
    graph.initializer[0].doc_string = "tensor"
    graph.input[0].doc_string = "input"
    graph.input[0].type.denotation = "IMAGE"
    graph.input[0].type.tensor_type.shape.dim[1].denotation = "DATA_CHANNEL"
    graph.output[0].type.tensor_type.shape.dim[0].dim_param = "N"
    graph.value_info[0].type.tensor_type.shape.dim[0].Clear()
    graph.value_info.add(name="of_nothing")
    annotation = graph.quantization_annotation.add(tensor_name="h")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="c")
    training = conv.training_info.add()
    training.algorithm.node.add(op_type="Adam", input=["w"], output=["w2"], domain="ai.onnx.preview.training")
    assert_round_trip(conv)


def test_initializers_without_a_consumer(conv):
    conv.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "unused"))
    conv.graph.initializer.insert(0, numpy_helper.from_array(np.ones(2, np.int64), "unused_too"))
    assert_round_trip(conv)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
def test_initializers_and_attributes_of_every_type(dtype):
    model = parse('<ir_version: 10, opset_import: ["" : 21]> g (bool x) => (bool y) { y = Acme (x, w) k = Constant () }')
    tensor = numpy_helper.from_array(np.array([1, 0, 1]).astype(dtype), "w")
    model.graph.initializer.append(tensor)
    model.graph.node[1].attribute.append(helper.make_attribute("value", tensor))
    assert_round_trip(model)
    graph = import_graph(model)
    constant = constant_of(graph, "w")
    array = constant_array(constant)
    assert array.dtype == dtype
    set_constant(constant, array[:2])
    exported = initializer(export_model(graph, model), "w")
    assert exported.data_type == tensor.data_type
    assert list(exported.dims) == [2]
    np.testing.assert_array_equal(numpy_helper.to_array(exported), array[:2])


def test_typed_data_and_strings():
    model = parse('<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { y = Acme (x, w, s) }')
    model.graph.initializer.append(helper.make_tensor("w", TensorProto.FLOAT16, [2], [1.5, 2.5]))
    model.graph.initializer.append(helper.make_tensor("s", TensorProto.STRING, [2], [b"a", b"\xff"]))
    assert_round_trip(model)


def test_attributes_of_every_type(conv):
    body = identity_of("h")
    tensor = numpy_helper.from_array(np.ones(2, np.float32), "t")
    sparse = helper.make_sparse_tensor(tensor, numpy_helper.from_array(np.array([0, 4])), [5])
    values = {
        "f": 0.1, "i": -3, "s": "text", "t": tensor, "g": body, "sparse": sparse,
        "type": helper.make_tensor_type_proto(TensorProto.FLOAT, [2, None]),
        "floats": [0.1, float("nan")], "ints": [1, 2], "strings": ["a", "b"], "tensors": [tensor, tensor],
        "graphs": [body, body], "sparses": [sparse], "types": [helper.make_tensor_type_proto(TensorProto.FLOAT, [])],
    }  # fmt: skip
    attributes = [helper.make_attribute(name, value) for name, value in values.items()]
    attributes.append(helper.make_attribute("empty", [], attr_type=AttributeProto.FLOATS))
    node = conv.graph.node.add(op_type="Acme", domain="acme", input=["", "h", ""], output=["", "z"])
    node.attribute.extend(attributes)
    assert {a.type for a in attributes} == set(AttributeProto.AttributeType.values()) - {AttributeProto.UNDEFINED}
    assert_round_trip(conv)

    graph = import_graph(conv)
    set_attribute(node_of(graph, "Acme"), "i", 4)
    delete_attribute(node_of(graph, "Acme"), "type")
    delete_attribute(node_of(graph, "Acme"), "strings")
    exported = export_model(graph, conv).graph.node[5]
    node.attribute[1].i = 4
    rest = [attribute for attribute in node.attribute if attribute.name not in ("type", "strings")]
    # "floats" holds a NaN, which equals nothing.
    assert [a.SerializeToString() for a in exported.attribute] == [a.SerializeToString() for a in rest]


def test_types_that_are_no_tensors(conv):
    sequence = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, [2, "n"]))
    types = {
        "sequence": sequence,
        "optional": helper.make_optional_type_proto(sequence),
        "map": onnx.TypeProto(map_type={"key_type": TensorProto.INT64, "value_type": sequence}),
        "sparse": helper.make_sparse_tensor_type_proto(TensorProto.FLOAT, [2]),
        "opaque": onnx.TypeProto(denotation="NOTHING"),
    }
    for name, type_proto in types.items():
        conv.graph.input.append(helper.make_value_info(name, type_proto))
        conv.graph.output.append(helper.make_value_info(f"{name}_out", type_proto))
        conv.graph.value_info.append(helper.make_value_info(f"{name}_between", type_proto))
        conv.graph.node.add(op_type="Acme", domain="acme", input=[name], output=[f"{name}_between"])
        conv.graph.node.add(op_type="Acme", domain="acme", input=[f"{name}_between"], output=[f"{name}_out"])
    assert_round_trip(conv)


def test_initializers_that_are_inputs(conv):
    conv.ir_version = 3
    for tensor in conv.graph.initializer:
        conv.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.dims))
    assert_round_trip(conv)
    graph = import_graph(conv)
    weight = constant_of(graph, "w")
    set_constant(weight, constant_array(weight)[:2])
    exported = export_model(graph, conv)
    declared = {info.name: [d.dim_value for d in info.type.tensor_type.shape.dim] for info in exported.graph.input}
    assert declared == {"x": [1, 3, 8, 8], "w": [2, 3, 3, 3], "b": [4], "v": [6, 4], "c": [6]}
    assert [d.dim_value for d in exported.graph.value_info[2].type.tensor_type.shape.dim] == [2, 3, 3, 3]


def test_sparse_initializers():
    model = parse('<ir_version: 8, opset_import: ["" : 17]> g (float[5] x) => (float[5] y) { y = Add (x, w) }')
    values = numpy_helper.from_array(np.array([1, 2], np.float32), "w")
    indices = numpy_helper.from_array(np.array([0, 4]))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [5]))
    assert_round_trip(model)
    graph = import_graph(model)
    weight = constant_of(graph, "w")
    np.testing.assert_array_equal(constant_array(weight), np.array([1, 0, 0, 0, 2], np.float32))
    set_constant(weight, constant_array(weight)[3:])
    exported = export_model(graph, model)
    assert not exported.graph.sparse_initializer
    np.testing.assert_array_equal(numpy_helper.to_array(initializer(exported, "w")), np.array([0, 2], np.float32))


FUNCTION = """
<ir_version: 10, opset_import: ["" : 17, "local" : 1]>
agraph (float[2] x) => (float[2] y) { y = local.f <a = 2.0> (x) }
<opset_import: ["" : 17], domain: "local">
f <a> (x) => (y) {
  k = Constant <value_float: float = @a> ()
  w = Constant <value = float[2] {1.0, 2.0}> ()
  t = Mul (x, w)
  y = Mul (t, k)
}
"""


def test_functions():
    model = parse(FUNCTION)
    model.functions[0].overload = "o"
    assert_round_trip(model)


def test_subgraphs(branches):
    assert_round_trip(branches)


def test_a_subgraph_initializer_that_hides_an_outer_one(branches):
    inner = branches.graph.node[1].attribute[1].g.node[1].attribute[0].g
    inner.initializer[0].name = inner.node[0].input[1] = "outer"
    assert_round_trip(branches)


def hydrate(name: str) -> onnx.ModelProto:
    spec = importlib.util.spec_from_file_location("zoo_hydrate", ZOO / "hydrate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.hydrate(ZOO / "topo" / f"{name}.onnx.gz")


@pytest.mark.parametrize(
    "name",
    [
        "acts__maxout_glu_crelu_legacy",
        "attention_hand__fused_qkv_swiglu_tied_op23_sim",
        "control_flow__if_cond",
        "control_flow__loop_script",
        "detection__ssdlite320_full_nms",
        "fp16__encoder_layer_fp16",
        "moe__moe_dense_swiglu",
        "rnn__lstm_cls_dynamo",
        "yolo__yolov8_like",
    ],
)
def test_exported_architectures(name):
    assert_round_trip(hydrate(name))
