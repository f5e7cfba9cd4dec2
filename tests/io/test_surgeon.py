"""What enters onnx-graphsurgeon comes out again to the byte, except for what the surgery changed."""

import importlib.util
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx.checker
import onnx.parser
import onnx_graphsurgeon as gs
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from onnxprune.errors import ModelError
from onnxprune.io.surgeon import (
    constant_array,
    delete_attribute,
    export_model,
    import_graph,
    set_attribute,
    set_constant,
    set_value_info,
    source_proto,
)

ZOO = Path(__file__).parents[2] / "benchmarks" / "zoo"

DTYPES = [
    *(np.float32, np.float64, np.float16, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32),
    *(np.uint64, np.bool_, np.complex64, np.complex128, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn),
    *(ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2, ml_dtypes.float8_e5m2fnuz, ml_dtypes.int4, ml_dtypes.uint4),
    ml_dtypes.float4_e2m1fn,
]


def data(model: onnx.ModelProto) -> bytes:
    return model.SerializeToString(deterministic=True)


def parse(text: str, **initializers) -> onnx.ModelProto:
    model = onnx.parser.parse_model(text)
    for name, value in initializers.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return model


def assert_round_trip(model: onnx.ModelProto) -> None:
    before = data(model)
    exported = export_model(import_graph(model), model)
    assert data(exported) == before
    assert data(model) == before


def node_of(graph: gs.Graph, op: str) -> gs.Node:
    return next(node for node in graph.nodes if node.op == op)


def constant_of(graph: gs.Graph, name: str) -> gs.Constant:
    found = [t for node in graph.nodes for t in node.inputs if t.name == name]
    assert isinstance(found[0], gs.Constant)
    return found[0]


def initializer(model: onnx.ModelProto, name: str) -> TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def identity_of(name: str) -> onnx.GraphProto:
    """A body that captures a value."""
    node = helper.make_node("Identity", [name], ["i"])
    return helper.make_graph([node], "body", [], [helper.make_empty_tensor_value_info("i")])


CONV = """
<ir_version: 8, opset_import: ["" : 17], producer_name: "test">
agraph (float[1, 3, 8, 8] x) => (float[1, 6] y)
<float[1, 4, 6, 6] h, float[1, 4, 6, 6] r, float[4, 3, 3, 3] w>
{
  h = Conv <kernel_shape = [3, 3], auto_pad = "NOTSET"> (x, w, b)
  r = LeakyRelu <alpha = 0.25> (h)
  p = GlobalAveragePool (r)
  f = Flatten (p)
  y = Gemm <transB = 1> (f, v, c)
}
"""


@pytest.fixture
def conv() -> onnx.ModelProto:
    random = np.random.default_rng(0)
    shapes = {"w": (4, 3, 3, 3), "b": (4,), "v": (6, 4), "c": (6,)}
    return parse(CONV, **{name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()})


# Fidelity


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


IF = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[2] x, bool c) => (float[2] y)
{
  h = Relu (x)
  y = If (c) <
    then_branch = t () => (float[2] a) <float[2] k> {
      k = Mul (h, outer)
      a = LeakyRelu <alpha = 0.5> (k)
    },
    else_branch = e () => (float[2] b) {
      n = Not (c)
      b = If (n) <then_branch = t2 () => (float[2] d) { d = Add (h, inner) },
                  else_branch = e2 () => (float[2] d2) { d2 = Identity (outer) }>
    }
  >
}
"""


@pytest.fixture
def branches() -> onnx.ModelProto:
    model = parse(IF, outer=np.array([1, 2], np.float32))
    inner = model.graph.node[1].attribute[1].g.node[1].attribute[0].g
    inner.initializer.append(numpy_helper.from_array(np.array([3, 4], np.float32), "inner"))
    inner.node[0].doc_string = "deep"
    return model


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


# Surgery


def test_a_changed_model_equals_one_written_that_way(conv):
    before = data(conv)
    graph = import_graph(conv)
    weights = {name: constant_of(graph, name) for name in ("w", "b", "v")}
    keep = [0, 2, 3]
    set_constant(weights["w"], constant_array(weights["w"])[keep])
    set_constant(weights["b"], constant_array(weights["b"])[keep].astype(np.float64))
    set_constant(weights["v"], constant_array(weights["v"])[:, keep])
    set_attribute(node_of(graph, "LeakyRelu"), "alpha", np.float32(0.5))
    set_attribute(node_of(graph, "Conv"), "kernel_shape", np.array([3, 3]))
    set_attribute(node_of(graph, "Conv"), "group", 1)
    delete_attribute(node_of(graph, "Conv"), "auto_pad")
    exported = export_model(graph, conv)
    set_value_info(exported, {"h": [None, 3, None, None], "r": [1, 3, 6, 6], "none": [1], "y": [None, None]})
    assert data(conv) == before

    expected = onnx.parser.parse_model(
        CONV.replace("[1, 4, 6, 6]", "[1, 3, 6, 6]")
        .replace("float[4, 3, 3, 3]", "float[3, 3, 3, 3]")
        .replace('auto_pad = "NOTSET"', "group = 1")
        .replace("0.25", "0.5")
    )
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in conv.graph.initializer}
    arrays |= {"w": arrays["w"][keep], "b": arrays["b"][keep], "v": arrays["v"][:, keep]}
    for name, array in arrays.items():
        expected.graph.initializer.append(numpy_helper.from_array(array, name))
    assert exported == expected
    onnx.checker.check_model(exported, full_check=True)


def test_import_and_reading_copy_nothing_into_the_graph(conv):
    weight = constant_of(import_graph(conv), "w")
    lazy = weight._values
    assert lazy.tensor is conv.graph.initializer[0]
    constant_array(weight)
    assert weight._values is lazy


def test_a_changed_initializer_keeps_what_describes_it(conv):
    conv.graph.initializer[0].doc_string = "kernel"
    conv.graph.initializer[0].metadata_props.add(key="k", value="v")
    graph = import_graph(conv)
    weight = constant_of(graph, "w")
    set_constant(weight, constant_array(weight)[:1])
    exported = initializer(export_model(graph, conv), "w")
    assert exported.doc_string == "kernel"
    assert exported.metadata_props == conv.graph.initializer[0].metadata_props


def test_a_constant_keeps_its_kind_of_number(conv):
    with pytest.raises(TypeError, match="'w' holds float32"):
        set_constant(constant_of(import_graph(conv), "w"), np.ones((4, 3, 3, 3), np.int64))


def test_a_tensor_attribute_is_a_constant():
    model = parse(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[1] x) => (float[3] y) {
             k = Constant <value = float[3] key {1.0, 2.0, 3.0}> ()
             y = Mul (x, k)
           }"""
    )
    graph = import_graph(model)
    value = graph.nodes[0].attrs["value"]
    set_constant(value, constant_array(value)[1:])
    exported = export_model(graph, model).graph.node[0].attribute[0].t
    assert exported.name == "key"
    np.testing.assert_array_equal(numpy_helper.to_array(exported), np.array([2, 3], np.float32))
    assert list(model.graph.node[0].attribute[0].t.dims) == [3]


def test_removed_nodes_take_their_initializers_and_descriptions_along(conv):
    annotation = conv.graph.quantization_annotation.add(tensor_name="b")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="c")
    graph = import_graph(conv)
    node = node_of(graph, "Conv")
    node_of(graph, "LeakyRelu").inputs = [graph.inputs[0]]
    node.inputs.clear()
    node.outputs.clear()
    graph.cleanup()
    exported = export_model(graph, conv).graph
    assert [n.op_type for n in exported.node] == ["LeakyRelu", "GlobalAveragePool", "Flatten", "Gemm"]
    assert list(exported.node[0].input) == ["x"]
    assert [t.name for t in exported.initializer] == ["v", "c"]
    assert [info.name for info in exported.value_info] == ["r"]
    assert not exported.quantization_annotation


def test_new_nodes_and_constants_are_added(conv):
    graph = import_graph(conv)
    gemm = node_of(graph, "Gemm")
    shift = gs.Constant("shift", np.ones(6, np.float32))
    moved = gs.Variable("moved")
    output = graph.outputs[0]
    gemm.outputs = [moved]
    table = gs.Constant("", np.arange(3).astype(ml_dtypes.bfloat16))
    graph.nodes.append(gs.Node("BiasAdd", "new", {"axis": 1, "t": table}, [moved, shift], [output], "com.microsoft"))
    exported = export_model(graph, conv)
    expected = helper.make_node("BiasAdd", ["moved", "shift"], ["y"], "new", domain="com.microsoft", axis=1)
    expected.attribute.append(helper.make_attribute("t", numpy_helper.from_array(table.values)))
    assert exported.graph.node[5] == expected
    assert [t.name for t in exported.graph.initializer] == ["w", "b", "v", "c", "shift"]
    assert [(o.domain, o.version) for o in exported.opset_import] == [("", 17), ("com.microsoft", 1)]
    assert len(conv.opset_import) == 1
    assert source_proto(graph.nodes[5]) is None
    assert source_proto(gemm) is conv.graph.node[4]


def test_a_constant_that_becomes_a_node_output_is_no_initializer(conv):
    graph = import_graph(conv)
    bias = constant_of(graph, "b")
    value = gs.Constant("", constant_array(bias))
    bias.to_variable()
    graph.nodes.insert(0, gs.Node("Constant", attrs={"value": value}, outputs=[bias]))
    exported = export_model(graph, conv)
    assert [t.name for t in exported.graph.initializer] == ["w", "v", "c"]
    onnx.checker.check_model(exported, full_check=True)


def test_a_cloned_or_renamed_constant_shares_no_proto_with_its_source(conv):
    before = data(conv)
    graph = import_graph(conv)
    clone = constant_of(graph, "c").copy()
    clone.name = "clone"
    node_of(graph, "Gemm").inputs[2] = clone
    node_of(graph, "Gemm").attrs["new"] = clone
    exported = export_model(graph, conv)
    assert [t.name for t in exported.graph.initializer] == ["w", "b", "v", "clone"]
    assert exported.graph.node[4].attribute[1].t.name == "clone"
    assert data(conv) == before


def test_surgery_in_subgraphs(branches):
    before = data(branches)
    graph = import_graph(branches)
    then_branch = graph.nodes[1].attrs["then_branch"]
    set_constant(then_branch.nodes[0].inputs[1], np.array([5], np.float32))
    set_attribute(then_branch.nodes[1], "alpha", 0.75)
    innermost = graph.nodes[1].attrs["else_branch"].nodes[1].attrs["then_branch"]
    set_constant(innermost.nodes[0].inputs[1], np.array([6], np.float32))
    exported = export_model(graph, branches)
    set_value_info(exported, {"k": [1]})
    assert data(branches) == before

    branches.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array([5], np.float32), "outer"))
    body = branches.graph.node[1].attribute[0].g
    body.node[1].attribute[0].f = 0.75
    body.value_info[0].type.tensor_type.shape.dim[0].dim_value = 1
    inner = branches.graph.node[1].attribute[1].g.node[1].attribute[0].g
    inner.initializer[0].CopyFrom(numpy_helper.from_array(np.array([6], np.float32), "inner"))
    assert exported == branches


def test_a_new_constant_shared_with_a_subgraph_is_defined_once(branches):
    graph = import_graph(branches)
    shared = gs.Constant("shared", np.ones(2, np.float32))
    graph.nodes[0].op = "Add"
    graph.nodes[0].inputs.append(shared)
    graph.nodes[1].attrs["then_branch"].nodes[0].inputs[1] = shared
    exported = export_model(graph, branches)
    assert [t.name for t in exported.graph.initializer] == ["outer", "shared"]
    assert not exported.graph.node[1].attribute[0].g.initializer
    onnx.checker.check_model(exported, full_check=True)


def test_a_value_captured_by_a_body_that_is_not_imported_stays(conv):
    body = identity_of("b")
    node = conv.graph.node.add(op_type="Acme", domain="acme", input=["h"], output=["z"])
    node.attribute.append(helper.make_attribute("graphs", [body]))
    graph = import_graph(conv)
    del node_of(graph, "Conv").inputs[2]
    assert [t.name for t in export_model(graph, conv).graph.initializer] == ["w", "b", "v", "c"]


def test_binary_string_attributes_are_refused(conv):
    conv.graph.node[0].name = "blob"
    conv.graph.node[0].attribute.append(helper.make_attribute("context", b"\xff\xfe"))
    with pytest.raises(ModelError, match=r"'blob'.*'context'"):
        import_graph(conv)


def test_an_attribute_of_the_wrong_type_names_the_node(conv):
    graph = import_graph(conv)
    set_attribute(node_of(graph, "Gemm"), "transB", "yes")
    with pytest.raises(TypeError, match=r"Gemm.*'transB' can't be 'yes'"):
        export_model(graph, conv)


def test_value_info_of_another_rank_is_refused(conv):
    with pytest.raises(ModelError, match="'h' is declared with 4 dims"):
        set_value_info(conv, {"h": [1, 4]})


def test_value_info_takes_names_and_forgets_what_is_gone(conv):
    conv.graph.value_info.add(name="gone")
    set_value_info(conv, {"h": ["n", 2, None, 6]})
    assert [info.name for info in conv.graph.value_info] == ["h", "r", "w"]
    assert [d.dim_param or d.dim_value for d in conv.graph.value_info[0].type.tensor_type.shape.dim] == ["n", 2, 6, 6]
