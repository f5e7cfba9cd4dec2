"""Cases in which other simplifiers were seen to go wrong, and kinds of models that are easy to forget."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune import cli
from tests.models_text import ints, make

ROOT = Path(__file__).resolve().parents[2]


def ops(model: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in model.graph.node]


def all_ops(graph: onnx.GraphProto) -> list[str]:
    found = []
    for node in graph.node:
        found.append(node.op_type)
        for a in node.attribute:
            if a.HasField("g"):
                found += all_ops(a.g)
    return found


@pytest.mark.parametrize("op", ["RandomNormalLike", "RandomUniformLike", "Bernoulli"])
def test_random_nodes_are_never_merged(op):
    source = make(f"(float[64] x) => (float[64] y) {{ a = {op}(x)  b = {op}(x)  y = Sub(a, b) }}", {})
    result = onnxprune.simplify(source).model
    assert ops(result) == [op, op, "Sub"]
    if op != "Bernoulli":  # ONNX Runtime itself merges the two
        session = ort.InferenceSession(result.SerializeToString(), providers=["CPUExecutionProvider"])
        assert np.any(session.run(None, {"x": np.full(64, 0.5, np.float32)})[0])


def test_random_nodes_of_constants_are_not_folded():
    source = make("() => (float[4] y) { a = RandomNormalLike(w)  y = Add(a, w) }", {"w": (4,)})
    assert ops(onnxprune.simplify(source).model) == ["RandomNormalLike", "Add"]


def test_a_failed_check_exits_with_3_and_writes_nothing(monkeypatch, tmp_path, capfd):
    from onnxprune.cleanup.passes import trivial

    monkeypatch.setitem(trivial._NOTHING, "Transpose", lambda work, node: True)
    source = make("(float[4,4] x) => (float[4,4] y) { a = Transpose<perm=[1,0]>(x)  y = Relu(a) }", {})
    onnx.save(source, tmp_path / "in.onnx")
    code = cli.run(["simplify", str(tmp_path / "in.onnx"), "-o", str(tmp_path / "out.onnx")])
    assert code == 3
    assert "differs" in capfd.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["in.onnx"]


def test_unused_inputs_stay():
    source = make("(float[2] a, float[2] x, float[2] z) => (float[2] y) { i = Identity(x)  y = Relu(i) }", {})
    assert [i.name for i in onnxprune.simplify(source).model.graph.input] == ["a", "x", "z"]


def test_a_large_constant_of_one_number_is_never_written_out():
    body = """(float[1,2048] x) => (float[1,4096] y) {
        w = ConstantOfShape<value = float[1] {0.5}>(s)
        t = Transpose(w)
        y = MatMul(x, t)
    }"""
    source = make(body, {"s": ints(4096, 2048)})
    result = onnxprune.simplify(source)
    assert result.report.bytes_after <= result.report.bytes_before < 1000
    assert set(ops(result.model)) == {"ConstantOfShape", "MatMul"}


def test_ir_3_results_pass_the_checker():
    body = """(float[1,3,8,8] x) => (float[1,4,8,8] y) {
        k = Mul(w, s)
        c = Conv<pads=[1,1,1,1]>(x, k)
        i = Identity(c)
        y = Relu(i)
    }"""
    source = make(body, {"w": (4, 3, 3, 3), "s": (4, 1, 1, 1)}, ir=3, opset=9, listed=True)
    result = onnxprune.simplify(source).model
    onnx.checker.check_model(result, full_check=True)
    assert result.ir_version == 3 and ops(result) == ["Conv", "Relu"]
    names = [i.name for i in result.graph.input]
    assert names[0] == "x" and set(names[1:]) == {t.name for t in result.graph.initializer}


def test_opset_6(tmp_path):
    text = """<ir_version: 3, opset_import: ["" : 6]> g (float[2,4] x, float[4] b) => (float[2,4] y) {
        i = Identity(x)
        d, m = Dropout<ratio=0.5, is_test=1>(i)
        a = Add<broadcast=1, axis=1>(d, b)
        r = Reshape(a, s)
        y = Relu(r)
    }"""
    source = onnx.parser.parse_model(text.replace("float[4] b)", "float[4] b, int64[2] s)").replace(", is_test=1", ""))
    source.graph.initializer.append(numpy_helper.from_array(np.array([2, 4], np.int64), "s"))
    onnx.save(source, tmp_path / "old.onnx")
    result = onnxprune.simplify(tmp_path / "old.onnx").model
    assert result.opset_import[0].version == 6
    assert ops(result) == ["Add", "Relu"]
    onnx.checker.check_model(result)


def test_an_if_inside_a_loop():
    body = """(int64 n, float[4] x) => (float[4] y) {
        on = Constant<value = bool {1}>()
        y = Loop(n, on, x) <body = step (int64 i, bool c, float[4] h) => (bool d, float[4] k) {
            yes = Constant<value = bool {1}>()
            two = Constant<value = float {2.0}>()
            idle = Identity(h)
            k = If(yes) <
                then_branch = a () => (float[4] p) { e = Identity(idle)  p = Mul(e, two) },
                else_branch = b () => (float[4] q) { q = Neg(h) }
            >
            d = Identity(c)
        }>
    }"""
    source = make(body, {})
    result = onnxprune.simplify(source).model
    found = all_ops(result.graph)
    assert "If" not in found and "Neg" not in found and found.count("Mul") == 1
    x = np.ones(4, np.float32)
    session = ort.InferenceSession(result.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"n": np.asarray(np.int64(3)), "x": x})[0], 8 * x)


def test_a_branch_that_depends_on_the_input_stays():
    body = """(bool c, float[4] x) => (float[4] y) {
        y = If(c) <
            then_branch = a () => (float[4] p) { i = Identity(x)  p = Relu(i) },
            else_branch = b () => (float[4] q) { q = Neg(x) }
        >
    }"""
    result = onnxprune.simplify(make(body, {})).model
    assert all_ops(result.graph) == ["If", "Relu", "Neg"]


@pytest.mark.parametrize("kind", ["FLOAT16", "BFLOAT16"])
def test_narrow_floats_are_folded_in_their_own_type(kind):
    number = getattr(TensorProto, kind)
    source = make("(float[3,2] x) => (float[3,2] y) { t = Transpose(c)  f = Cast<to=1>(t)  y = Add(x, f) }", {})
    source.graph.initializer.append(helper.make_tensor("c", number, [2, 3], [1.1, 2.2, 3.3, 4.4, 5.5, 6.6]))
    result = onnxprune.simplify(source).model
    assert ops(result) == ["Add"]
    expected = numpy_helper.to_array(source.graph.initializer[0]).astype(np.float32).T
    np.testing.assert_array_equal(numpy_helper.to_array(result.graph.initializer[0]), expected)


def test_int4_constants_survive():
    body = "(float[1,4] x) => (float[1,4] y) { i = Identity(x)  d = DequantizeLinear(w, s)  y = MatMul(i, d) }"
    source = make(body, {"s": np.asarray(np.float32(0.1))}, opset=21)
    source.graph.initializer.append(helper.make_tensor("w", TensorProto.INT4, [4, 4], [k % 16 - 8 for k in range(16)]))
    result = onnxprune.simplify(source).model
    assert ops(result) == ["DequantizeLinear", "MatMul"]
    held = next(t for t in result.graph.initializer if t.data_type == TensorProto.INT4)
    np.testing.assert_array_equal(numpy_helper.to_array(held), numpy_helper.to_array(source.graph.initializer[1]))


def test_quantize_and_dequantize_are_never_folded_away():
    body = """(float[1,4] x) => (float[1,4] y) {
        q = QuantizeLinear(x, s, z)
        a = DequantizeLinear(q, s, z)
        v = QuantizeLinear(w, s, z)
        b = DequantizeLinear(v, s, z)
        c = MatMul(a, b)
        r = QuantizeLinear(c, s, z)
        y = DequantizeLinear(r, s, z)
    }"""
    weights = {"s": np.asarray(np.float32(0.05)), "z": np.asarray(np.int8(0)), "w": (4, 4)}
    result = onnxprune.simplify(make(body, weights)).model
    assert ops(result).count("QuantizeLinear") == 3 and ops(result).count("DequantizeLinear") == 3


def test_sequences_and_optionals():
    body = """(float[2] x) => (seq(float[2]) s, float[2] y, bool has) {
        i = Identity(x)
        s = SequenceConstruct(i, x)
        e = SequenceEmpty<dtype=1>()
        t = SequenceInsert(e, x)
        u = SequenceAt(t, zero)
        y = Relu(u)
        o = Optional(x)
        has = OptionalHasElement(o)
    }"""
    source = make(body, {"zero": np.asarray(np.int64(0))}, opset=18)
    result = onnxprune.simplify(source).model
    assert list(result.graph.output) == list(source.graph.output)
    assert ops(result) == ["SequenceConstruct", "Relu", "Optional", "OptionalHasElement"]
    x = np.ones(2, np.float32)
    session = ort.InferenceSession(result.SerializeToString(), providers=["CPUExecutionProvider"])
    s, y, has = session.run(None, {"x": x})
    assert len(s) == 2 and np.array_equal(y, x) and has


def test_inputs_that_are_no_tensors_stay_and_are_not_checked():
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, [2])
    kinds = {"s": helper.make_sequence_type_proto(tensor), "o": helper.make_optional_type_proto(tensor)}
    nodes = [
        helper.make_node("Identity", ["s"], ["i"]),
        helper.make_node("SequenceLength", ["i"], ["n"]),
        helper.make_node("OptionalHasElement", ["o"], ["has"]),
    ]
    ends = [helper.make_tensor_value_info(n, k, []) for n, k in (("n", TensorProto.INT64), ("has", TensorProto.BOOL))]
    graph = helper.make_graph(nodes, "g", [helper.make_value_info(n, k) for n, k in kinds.items()], ends)
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    result = onnxprune.simplify(source)
    assert ops(result.model) == ["SequenceLength", "OptionalHasElement"]
    assert list(result.model.graph.input) == list(source.graph.input)
    assert result.report.verification is None and "'s' is a sequence" in result.report.unverified


def test_local_functions_are_inlined_and_unused_ones_go():
    source = make(
        "(float[2,4] x) => (float[2,4] y) { a = own.twice(x)  y = own.twice(a) }",
        {},
        domains=["own"],
        functions="""
        <opset_import: ["" : 17], domain: "own"> twice (p) => (q) { i = Identity(p)  q = Add(i, i) }
        <opset_import: ["" : 17], domain: "own"> idle (p) => (q) { q = Neg(p) }
        """,
    )
    result = onnxprune.simplify(source).model
    assert ops(result) == ["Add", "Add"]
    assert not result.functions


def test_shape_arithmetic_under_dynamic_shapes():
    body = """(float[batch,length,64] x) => (float[batch,8,length,8] y) {
        s = Shape(x)
        b = Gather(s, zero)
        l = Gather(s, one)
        bu = Unsqueeze(b, at)
        lu = Unsqueeze(l, at)
        t = Concat<axis=0>(bu, lu, heads, size)
        r = Reshape(x, t)
        y = Transpose<perm=[0,2,1,3]>(r)
    }"""
    scalar = {"zero": np.asarray(np.int64(0)), "one": np.asarray(np.int64(1))}
    source = make(body, scalar | {"at": ints(0), "heads": ints(8), "size": ints(8)})
    result = onnxprune.simplify(source).model
    assert ops(result) == ["Reshape", "Transpose"]
    assert list(result.graph.output) == list(source.graph.output)


_WATCHED = """
import sys, threading, time
peak = 0
def watch():
    global peak
    while True:
        with open("/proc/self/status") as status:
            peak = max(peak, next(int(l.split()[1]) for l in status if l.startswith("RssAnon")))
        time.sleep(0.01)
threading.Thread(target=watch, daemon=True).start()
from onnxprune.cli import run
code = run(["simplify", sys.argv[1], "-o", sys.argv[2], "-q", *sys.argv[3:]])
print(peak * 1024)
sys.exit(code)
"""


def external(folder: Path, tensors: int, rows: int) -> Path:
    """A chain of MatMuls; weights of `rows` x `rows` floats, zeros in a file with holes."""
    nodes, initializers = [], []
    size = rows * rows * 4
    for k in range(tensors):
        nodes += [
            helper.make_node("Identity", [f"h{k}"], [f"i{k}"]),
            helper.make_node("MatMul", [f"i{k}", f"w{k}"], [f"h{k + 1}"]),
        ]
        tensor = TensorProto(name=f"w{k}", data_type=TensorProto.FLOAT, dims=[rows, rows])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "weights"), ("offset", str(k * size)), ("length", str(size))):
            tensor.external_data.add(key=key, value=value)
        initializers.append(tensor)
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, rows]) for n in ("h0", f"h{tensors}")]
    graph = helper.make_graph(nodes, "large", ends[:1], ends[1:], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "in.onnx")
    with (folder / "weights").open("wb") as file:
        file.truncate(tensors * size)
        for k in range(tensors):  # or they would be shared
            file.seek(k * size)
            file.write(np.float32(k + 1).tobytes())
    return folder / "in.onnx"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("tensors", "rows"), [(14, 4096), pytest.param(12, 8192, marks=pytest.mark.slow)], ids=["0.9 GB", "3 GB"]
)
def test_external_data_is_never_held_as_a_whole(tmp_path, tensors, rows):
    source = external(tmp_path, tensors, rows)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _WATCHED, source, tmp_path / "out.onnx"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    largest = rows * rows * 4
    assert int(done.stdout) < 1.5 * largest + 500e6 < tensors * largest
    result = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    assert ops(result) == ["MatMul"] * tensors
    assert (tmp_path / "out.onnx.data").stat().st_size >= tensors * largest


def test_parts_of_known_sequences_are_read_directly():
    body = """(float[6,2] x) => (float[4,2] y, float[12,2] z) {
        s = SplitToSequence<axis=0>(x, sizes)
        y = SequenceAt(s, one)
        t = SequenceConstruct(x, x)
        z = ConcatFromSequence<axis=0>(t)
    }"""
    source = make(body, {"sizes": ints(2, 4), "one": np.asarray(np.int64(1))})
    result = onnxprune.simplify(source)
    assert sorted(ops(result.model)) in (["Concat", "Split"], ["Concat", "Slice"])


def test_outputs_that_nobody_reads_are_not_asked_for():
    body = "(float[1,2,8,8] x) => (float[1,2,4,4] y) { y, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) }"
    result = onnxprune.simplify(make(body, {}))
    assert list(result.model.graph.node[0].output) == ["y"]
    training = """(float[1,2,8,8] x) => (float[1,2,8,8] y) {
        y, m, v = BatchNormalization<training_mode=1>(x, a, b, c, d)
    }"""
    weights = {n: np.abs(np.random.default_rng(ord(n)).standard_normal(2)).astype(np.float32) for n in "abcd"}
    kept = onnxprune.simplify(make(training, weights)).model
    assert len(kept.graph.node[0].output) == 3
