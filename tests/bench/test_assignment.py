"""ONNX Runtime's profile tells where each node ran and how long it took."""

import json

import pytest

from onnxprune.bench.assignment import check_assignment, fallen_back, read_profile
from onnxprune.bench.profile import SideBySide, side_by_side
from onnxprune.bench.session import ReadySession, open_optimized
from onnxprune.errors import ModelError, UsageError
from onnxprune.statistics.providers import CPU, Providers

CUDA = Providers((("CUDAExecutionProvider", ()),))
IMAGE, SHAPE = [{"float": [1, 64, 8, 8]}], [{"int64": [4]}]


def event(name, start, length, op="Conv", provider="CUDAExecutionProvider", made=IMAGE, index="0"):
    details = {"op_name": op, "provider": provider, "output_type_shape": made, "node_index": index}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": start, "dur": length, "args": details}


def run(start, length):
    return {"cat": "Session", "name": "model_run", "ts": start, "dur": length}


@pytest.fixture
def profile(tmp_path):
    def write(*events, skip=0):
        path = tmp_path / "profile.json"
        path.write_text(json.dumps(events))
        return read_profile(path, skip)

    return write


def test_nodes_that_fell_back_are_named(profile):
    cpu = "CPUExecutionProvider"
    times = profile(
        run(0, 100),
        event("a", 0, 5, index="1"),
        event("b", 5, 5, "NonZero", cpu, index="2"),
        event("shape", 10, 1, "Shape", cpu, SHAPE, "3"),
        event("to", 11, 1, "MemcpyToHost", cpu, index="4"),
    )
    assert [n.name for n in fallen_back(times, CUDA)] == ["b"]
    assert times.assigned() == {"CUDAExecutionProvider": 1, cpu: 2}
    with pytest.raises(
        UsageError, match=r"m: 1 of 3 nodes fell back from cuda to cpu: 'b' \(NonZero\); .* has .*cpu.*--allow"
    ):
        check_assignment("m", times, CUDA)
    check_assignment("m", times, Providers((*CUDA.chosen, *CPU.chosen)))


def test_a_provider_that_runs_nothing_is_noticed(profile):
    times = profile(run(0, 10), event("a", 0, 5, provider="CPUExecutionProvider"))
    with pytest.raises(UsageError, match="cuda was asked for, but runs none of its 1 nodes"):
        check_assignment("m", times, Providers((*CUDA.chosen, *CPU.chosen)))


def test_times_are_medians_of_runs_without_what_lies_within(profile):
    """The body of a Loop runs its node twice a run; the first run does not count."""
    events = []
    for k, slow in enumerate((9, 1, 1, 5)):
        start = 1000 * k
        events += [run(start, 100 * slow), event("loop", start, 90 * slow, "Loop", index="1")]
        events += [event("body", start + 10 * j, 4 * slow, index="2") for j in (1, 2)]
    times = profile(*events, skip=1)
    assert times.runs == 3 and times.run_ms == 0.1
    assert {n.name: n.ms for n in times.nodes} == pytest.approx({"loop": 0.082, "body": 0.008})


@pytest.mark.parametrize("text", ["{", "{}", "[]", '[{"name": "model_run"}]'])
def test_what_is_no_profile(tmp_path, text):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(ModelError, match=r"p\.json"):
        read_profile(tmp_path / "p.json")


def test_a_real_profile(files, tmp_path):
    import numpy as np

    ready = ReadySession(
        open_optimized(files[0], "m", profile=str(tmp_path / "p")), "m", {"h0": np.ones((16, 256), np.float32)}
    )
    ready.burst(5)
    times = read_profile(ready.session.end_profiling())
    assert times.runs == 4 and [n.op for n in times.nodes] == ["MatMul"] * 40
    assert times.assigned() == {"CPUExecutionProvider": 40} and not fallen_back(times, CPU)
    assert 0 < sum(n.ms for n in times.nodes) <= times.run_ms * 1.1


def test_side_by_side(profile):
    dense = profile(run(0, 100), event("a", 0, 50, index="1"), event("b_nchwc", 50, 30, index="2"))
    small = profile(run(0, 60), event("b", 0, 10, index="1"), event("c", 10, 5, "Mul", index="2"))
    found = side_by_side({"dense": dense, "small": small})
    rows = {r.name: r for r in found.nodes}
    assert list(rows) == ["a", "b", "c"]
    assert rows["b"].ms == {"dense": 0.03, "small": 0.01} and rows["b"].gained("dense", "small") == pytest.approx(0.02)
    assert rows["a"].gained("dense", "small") == 0.05 and rows["c"].gained("dense", "small") == -0.005
    conv, mul = found.operators
    assert conv.ms == pytest.approx({"dense": 0.08, "small": 0.01}) and conv.count == {"dense": 2, "small": 1}
    assert mul.op == "Mul"
    import dataclasses

    assert SideBySide.of(json.loads(json.dumps(dataclasses.asdict(found)))) == found
