"""`onnxprune simplify`, and `prune --simplify`."""

import json

import onnx
import pytest

from tests.cli.conftest import make

TEXT = """<ir_version: 8, opset_import: ["" : 17]> g (float[n,8] image) => (float[n,8] y) {
    i = Identity(image)
    a = MatMul(i, w)
    b = MatMul(image, w)
    c = Add(a, b)
    s = Shape(c)
    d = Reshape(c, s)
    y = Relu(d)
}"""


@pytest.fixture
def noisy(tmp_path):
    onnx.save(make(TEXT, w=(8, 8)), tmp_path / "noisy.onnx")
    return tmp_path / "noisy.onnx"


def test_writes_a_smaller_graph_and_tells_what_changed(invoke, noisy, tmp_path):
    result = invoke("simplify", noisy, "-o", tmp_path / "out.onnx")
    assert (result.code, result.err) == (0, "")
    for text in ("Identity", "pass", "verified", "nodes"):
        assert text in result.out
    made = onnx.load(tmp_path / "out.onnx")
    assert {"Identity", "Shape", "Reshape"}.isdisjoint(n.op_type for n in made.graph.node)


def test_json_is_one_document(invoke, noisy, tmp_path):
    document = json.loads(invoke("simplify", noisy, "-o", tmp_path / "out.onnx", "--json").out)
    assert document["nodes_before"] == 7 and document["nodes_after"] < 5
    assert document["passes"]["nothing"]["changes"] >= 1
    assert document["verification"]["passed"] is True


def test_passes_are_chosen_by_name(invoke, noisy, tmp_path):
    out = tmp_path / "out.onnx"
    assert invoke("simplify", noisy, "-o", out, "--passes", "nothing", "--no-check").code == 0
    assert [n.op_type for n in onnx.load(out).graph.node].count("MatMul") == 2
    wrong = invoke("simplify", noisy, "-o", out, "--skip", "nothing,nonsense")
    assert wrong.code == 2 and "nonsense" in wrong.err and "common-subexpressions" in wrong.err
    assert invoke("simplify", noisy, "-o", out, "--passes", "nothing,,").code == 2


def test_verbose_lists_all_passes_and_reasons(invoke, noisy, tmp_path):
    out = invoke("simplify", noisy, "-o", tmp_path / "out.onnx", "-v").out
    assert "constant-branch" in out and "Relu" in out
    assert "opset" in next(line for line in out.splitlines() if "attention-rows" in line)


def test_the_source_is_not_overwritten(invoke, noisy):
    before = noisy.read_bytes()
    assert invoke("simplify", noisy, "-o", noisy).code == 2
    assert noisy.read_bytes() == before


def test_bad_models_and_paths(invoke, noisy, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    assert invoke("simplify", tmp_path / "bad.onnx", "-o", tmp_path / "out.onnx").code == 1
    assert invoke("simplify", tmp_path / "none.onnx", "-o", tmp_path / "out.onnx").code == 1
    assert invoke("simplify", noisy, "-o", tmp_path / "no" / "out.onnx").code == 2
    assert invoke("simplify", noisy, "-o", tmp_path / "out.onnx", "--opset", "3").code == 2
    for shape in ("nothing=1,8", "image=2,9"):
        wrong = invoke("simplify", noisy, "-o", tmp_path / "out.onnx", "--shape", shape)
        assert wrong.code == 1 and "image" in wrong.err
    assert not (tmp_path / "out.onnx").exists()


def test_fits_into_80_columns(start, noisy, tmp_path):
    out, _ = start("simplify", noisy, "-o", tmp_path / "out.onnx", "-v").communicate()
    lines = out.decode().splitlines()
    assert lines and max(map(len, lines[1:])) <= 80


def test_prune_can_end_with_it(invoke, model, tmp_path):
    common = ["prune", model, "--no-latency", "--reconstruct", "none"]
    plain, small = tmp_path / "plain.onnx", tmp_path / "small.onnx"
    assert invoke(*common, "-o", plain).code == 0
    result = invoke(*common, "-o", small, "--simplify", "--json")
    assert result.code == 0
    report = json.loads(result.out)["report"]["simplified"]
    nodes = [len(onnx.load(p).graph.node) for p in (plain, small)]
    assert nodes[1] <= nodes[0] and report["verification"]["passed"] is True
