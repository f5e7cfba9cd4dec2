"""What the surgery changed is in the exported model, and nothing else is another."""

import ml_dtypes
import numpy as np
import onnx
import onnx.checker
import onnx.parser
import onnx_graphsurgeon as gs
import pytest
from onnx import helper, numpy_helper

from onnxprune.errors import ModelError
from onnxprune.io.attributes import delete_attribute, set_attribute
from onnxprune.io.constants import constant_array, set_constant
from onnxprune.io.export import export_model
from onnxprune.io.surgeon import import_graph, source_proto
from onnxprune.io.value_info import set_value_info
from tests.io.graphs import CONV, constant_of, data, identity_of, initializer, node_of, parse


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
