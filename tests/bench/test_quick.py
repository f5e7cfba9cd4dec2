"""Models take turns; what comes back are the times of their runs."""

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from onnxprune.report.latency import Latency, latency, single_input

from onnxprune.errors import ModelError
from onnxprune.report import latency as module


def chain(length: int) -> bytes:
    body = "\n".join(f"h{k + 1} = MatMul (h{k}, w)" for k in range(length))
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> m (float[N, 256] h0) => (float[N, 256] h{length}) {{ {body} }}'
    )
    model.graph.initializer.append(numpy_helper.from_array(np.eye(256, dtype=np.float32), "w"))
    return model.SerializeToString()


FEEDS = {"h0": np.ones((16, 256), np.float32)}


def test_a_longer_model_takes_longer():
    found = latency({"short": chain(1), "long": chain(40)}, FEEDS, seconds=0.3)
    assert found["long"].p50 > 2 * found["short"].p50
    assert len(found["short"].ms) == len(found["long"].ms) >= 10


def test_models_take_turns(monkeypatch):
    order = []
    run = module._Session.run

    def watched(self):
        order.append(self.name)
        return run(self)

    monkeypatch.setattr(module._Session, "run", watched)
    latency({"a": chain(1), "b": chain(1)}, FEEDS, seconds=0, min_runs=3, max_runs=3)
    assert order == ["a", "b"] * (len(order) // 2)
    assert len(order) >= 6


def test_files_work_as_bytes_do(tmp_path):
    (tmp_path / "m.onnx").write_bytes(chain(1))
    assert latency({"m": tmp_path / "m.onnx"}, FEEDS, seconds=0, min_runs=4)["m"].ms


def test_percentiles():
    times = Latency([5.0, 1.0, 2.0, 3.0, 4.0])
    assert times.p50 == 3.0
    assert times.p90 == pytest.approx(4.6)


def test_a_model_that_cannot_run_is_named():
    with pytest.raises(ModelError, match="^a: ONNX Runtime can't run it"):
        latency({"a": chain(1)}, {"h0": np.ones((1, 3), np.float32)})
    with pytest.raises(ModelError, match="^b: ONNX Runtime can't load it"):
        latency({"b": b"junk"}, FEEDS)


def inputs_of(text: str, **shapes):
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> m {text}')
    return {name: array.shape for name, array in single_input(model, shapes).items()}


def test_one_sample_has_a_symbolic_first_dimension_of_one():
    text = "(float[N, 3] x, float[N, 3] z) => (float[N, 3] y) { y = Add (x, z) }"
    assert inputs_of(text) == {"x": (1, 3), "z": (1, 3)}


def test_fixed_and_given_dimensions_stay():
    text = "(float[4, M] x) => (float[4, M] y) { y = Relu (x) }"
    (shape,) = inputs_of(text).values()
    assert shape[0] == 4 and shape[1] > 1
    assert inputs_of("(float[N, M] x) => (float[N, M] y) { y = Relu (x) }", x=(5, 6)) == {"x": (5, 6)}
