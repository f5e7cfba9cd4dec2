"""What `simplify` promises whatever the model is."""

import copy
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.errors import ModelError, UsageError, VerificationError
from tests.models_text import make


def ops(model: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in model.graph.node]


def outputs(model: onnx.ModelProto, **feeds: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def noisy(**options) -> onnx.ModelProto:
    """A model in which something is to be done for several passes."""
    body = """(float[n,8] x, float[n,8] unused) => (float[n,8] y, float[n,8] z) {
        i = Identity(x)
        a = MatMul(i, w)
        b = MatMul(x, w)
        c = Add(a, b)
        s = Shape(c)
        d = Reshape(c, s)
        y = Relu(d)
        k = Add(v, v)
        z = Mul(c, k)
        dead = Exp(x)
    }"""
    return make(body, {"w": (8, 8), "v": (8,)}, **options)


def test_the_smallest_graph_computes_the_same():
    source = noisy()
    result = onnxprune.simplify(source)
    assert len(result.model.graph.node) <= 4 and "Exp" not in ops(result.model)
    assert result.report.verification is not None and result.report.verification.passed
    x = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    for a, b in zip(outputs(source, x=x, unused=x), outputs(result.model, x=x, unused=x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ir", [3, 4, 8])
def test_interface_metadata_and_size(ir):
    source = noisy(ir=ir, opset=9 if ir < 7 else 17, listed=ir == 3)
    source.producer_name, source.producer_version, source.domain, source.model_version = "maker", "1.2", "org.example", 7
    source.doc_string = "about the model"
    source.graph.doc_string = "about the graph"
    source.metadata_props.add(key="licence", value="MIT")
    source.graph.input[0].doc_string = "an input"
    before = source.SerializeToString(deterministic=True)
    result = onnxprune.simplify(source).model
    assert source.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(result, full_check=True)
    weights = {t.name for t in source.graph.initializer}
    assert [i for i in result.graph.input if i.name in {"x", "unused"}] == [
        i for i in source.graph.input if i.name not in weights
    ]
    assert list(result.graph.output) == list(source.graph.output)
    for name in ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string"):
        assert getattr(result, name) == getattr(source, name), name
    assert list(result.metadata_props) == list(source.metadata_props)
    assert result.graph.doc_string == "about the graph"
    assert list(result.opset_import) == list(source.opset_import)
    assert not any(n.metadata_props or n.doc_string for n in result.graph.node)
    assert result.ByteSize() <= source.ByteSize()


def test_nothing_is_invented_where_there_was_no_metadata():
    source = noisy()
    result = onnxprune.simplify(source).model
    for name in ("producer_name", "producer_version", "domain", "doc_string"):
        assert result.HasField(name) == source.HasField(name)
    assert not result.metadata_props and not result.graph.value_info


@pytest.mark.parametrize("name", ["resnet", "gru", "vit_legacy"])
def test_simplifying_twice_changes_nothing(name):
    path = Path(__file__).parents[2] / "models" / f"{name}.onnx"
    once = onnxprune.simplify(path)
    assert once.report.bytes_after <= once.report.bytes_before
    twice = onnxprune.simplify(once.model, check=False)
    assert twice.model.SerializeToString(deterministic=True) == once.model.SerializeToString(deterministic=True)
    assert not twice.report.changed


def test_a_model_with_nothing_to_do_comes_back_as_it_was():
    source = make("(float[2,4] x) => (float[2,4] y) { a = MatMul(x, w)  y = Softmax(a) }", {"w": (4, 4)})
    result = onnxprune.simplify(source)
    assert result.model.graph == source.graph
    assert not result.report.changed


def test_passes_can_be_chosen_and_left_out():
    source = noisy()
    only = onnxprune.simplify(source, passes=["common-subexpressions"])
    assert {n for n, r in only.report.passes.items()} == {"common-subexpressions"}
    assert "Identity" in ops(only.model)
    without = onnxprune.simplify(source, skip=["common-subexpressions"])
    assert sum(op in ("MatMul", "Gemm") for op in ops(without.model)) == 2
    with pytest.raises(UsageError, match="no pass 'nonsense'"):
        onnxprune.simplify(source, skip=["nonsense"])


def test_opset_is_raised_on_request_only():
    source = make("(float[2,4] x) => (float[2,4] y) { y = Relu(x) }", {}, opset=13)
    assert onnxprune.simplify(source).model.opset_import[0].version == 13
    assert onnxprune.simplify(source, opset=18).model.opset_import[0].version == 18
    with pytest.raises(UsageError, match="opset 13"):
        onnxprune.simplify(source, opset=11)


def test_a_raised_model_keeps_what_the_source_says_and_no_more():
    source = make("(float[n,4] x) => (float[n,4] y) { a = MatMul(x, w) y = Relu(a) }", {"w": (4, 4)}, opset=13)
    source.metadata_props.add(key="licence", value="MIT")
    source.graph.metadata_props.add(key="stage", value="prototype")
    source.graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    source.graph.node[0].name = "projection"
    source.graph.node[0].metadata_props.add(key="layer", value="0")
    raised = onnxprune.simplify(source, opset=18).model
    assert list(raised.metadata_props) == list(source.metadata_props)
    assert list(raised.graph.metadata_props) == list(source.graph.metadata_props)
    assert list(raised.graph.input) == list(source.graph.input)
    assert list(raised.graph.output) == list(source.graph.output)
    assert list(raised.graph.node[0].metadata_props) == list(source.graph.node[0].metadata_props)
    assert not raised.graph.value_info


@pytest.mark.parametrize("opset", [None, 18])
def test_a_constant_that_would_make_the_file_grow_stays_computed(opset):
    body = "(float[1000,1] x) => (float[1000,1000] y) { r = Range(a, b, c)  f = Cast<to=1>(r)  y = Mul(x, f) }"
    weights = {"a": np.int64(0), "b": np.int64(1000), "c": np.int64(1)}
    source = make(body, {k: np.asarray(v) for k, v in weights.items()})
    result = onnxprune.simplify(source, opset=opset)
    assert result.report.bytes_after <= result.report.bytes_before
    assert "Range" in ops(result.model)
    assert any("grow" in why for r in result.report.passes.values() for why in r.declined.values())


def test_inputs_with_defaults_are_constants_unless_asked_otherwise():
    body = "(float[2,4] x, float[4] a) => (float[2,4] y) { b = Exp(a)  y = Add(x, b) }"
    source = make(body, {"a": (4,)})
    assert ops(onnxprune.simplify(source).model) == ["Add"]
    kept = onnxprune.simplify(source, keep_defaults=True).model
    assert ops(kept) == ["Exp", "Add"]
    assert [i.name for i in kept.graph.input] == ["x", "a"]


def test_a_result_that_differs_is_not_handed_out(monkeypatch):
    from onnxprune.cleanup.passes import trivial

    monkeypatch.setitem(trivial._NOTHING, "Transpose", lambda work, node: True)
    source = make("(float[4,4] x) => (float[4,4] y) { a = Transpose<perm=[1,0]>(x)  y = Relu(a) }", {})
    with pytest.raises(VerificationError, match="differs"):
        onnxprune.simplify(source)


def test_sparse_initializers_stay():
    source = make("(float[2,4] x) => (float[2,4] y) { i = Identity(x)  y = Add(i, w) }", {})
    values = numpy_helper.from_array(np.array([2.0], np.float32), "w")
    indices = numpy_helper.from_array(np.array([1], np.int64), "w_indices")
    source.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    result = onnxprune.simplify(source, check=False).model
    assert ops(result) == ["Add"]
    assert list(result.graph.sparse_initializer) == list(source.graph.sparse_initializer)
    assert [i.name for i in result.graph.input] == ["x"]


def test_broken_input_is_an_error_of_the_user(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError):
        onnxprune.simplify(tmp_path / "a.onnx")


def test_report_is_plain_data():
    report = onnxprune.simplify(noisy()).report
    document = json.loads(json.dumps(report.to_dict(), default=str))
    assert document["nodes_after"] == sum(document["after"].values()) < document["nodes_before"]
    assert copy.deepcopy(report) == report


def test_dtype_of_every_constant_is_kept():
    for kind in (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE):
        tensor = helper.make_tensor("c", kind, [2, 3], np.arange(6, dtype=np.float32))
        body = "(float[3,2] x) => (float[3,2] y) { t = Transpose(c)  f = Cast<to=1>(t)  y = Add(x, f) }"
        source = make(body, {})
        source.graph.initializer.append(tensor)
        result = onnxprune.simplify(source, check=False).model
        assert ops(result) == ["Add"]
        (held,) = (numpy_helper.to_array(t) for t in result.graph.initializer)
        np.testing.assert_array_equal(held, np.arange(6, dtype=np.float32).reshape(2, 3).T)
