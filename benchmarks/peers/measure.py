"""What every contestant is measured with: the same loading, the same inputs, the same counting of parameters.

Needs numpy, onnx and onnxruntime only, so that it runs in the environment of any contestant. A contestant is a script
that calls `serve(measure)`. It reads a request (JSON) from standard input:

    topology   path of the model (`.onnx`, or `.onnx.gz` of the zoo)
    hydrate    path of the zoo's `hydrate.py`
    inputs     name, dtype, shape and range of each input, as in the zoo's `index.json`; null: from the graph
    options    whatever the contestant takes

and fills a record, which is written to the file of its one argument after each stage, so that a crash keeps what was
measured before it.
"""

from __future__ import annotations

import importlib.util
import json
import math
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

WEIGHTS = {
    getattr(TensorProto, name)
    for name in (
        "FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "INT8", "UINT8", "INT4", "UINT4",
        "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT4E2M1",
    )
    if hasattr(TensorProto, name)
}  # fmt: skip
DTYPES = {"float": np.float32, "double": np.float64, "bfloat16": np.float32}
ERROR_LENGTH = 600
FRAMES = 6

Record = dict[str, Any]


class Case:
    """One model, the inputs it is run with, and the record of what was measured on it."""

    def __init__(self, request: dict[str, Any], answer: Path) -> None:
        self.options: dict[str, Any] = request["options"]
        self.record: Record = {}
        self._inputs = request["inputs"]
        self._answer = answer
        self.model = _load(Path(request["topology"]), Path(request["hydrate"]))
        self.record.update({f"{k}_before": v for k, v in parameters(self.model).items()})
        self.feeds = _feeds(self.model, self._inputs)
        self.record["rss_loaded_mb"] = peak_rss_mb()
        self.save()

    def save(self) -> None:
        """Writes the record as it is now."""
        self._answer.write_text(json.dumps(_finite(self.record)))

    def stage(self, name: str) -> None:
        """Says what comes next, for the case that it is the last thing that is known."""
        self.record["stage"] = name
        self.save()

    def fail(self, error: BaseException, root: Path) -> None:
        """Records an exception: type, message and the innermost frames, with paths relative to `root`."""
        self.record["error"] = describe(error)
        self.record["trace"] = frames(error, root)
        self.save()

    def judge(self, pruned: ModelProto) -> None:
        """Fills in what a user sees of the result: its parameters, whether it is valid, whether it runs."""
        self.stage("check")
        self.record.update({f"{k}_after": v for k, v in parameters(pruned).items()})
        problem = check(pruned)
        self.record["valid_after"] = problem is None
        if problem:
            self.record["check_error"] = problem
        self.stage("run pruned")
        problem = run(pruned, self.feeds)
        self.record["runs_after"] = problem is None
        if problem:
            self.record["run_error"] = problem
        self.save()

    def judge_dense(self) -> None:
        """Fills in whether the model was valid and ran before anything was done to it."""
        self.stage("run dense")
        self.record["valid_before"] = check(self.model) is None
        problem = run(self.model, self.feeds)
        self.record["ran_before"] = problem is None
        if problem:
            self.record["dense_error"] = problem
        self.save()


def serve(measure: Callable[[Case], None]) -> None:
    """Runs a contestant: request from standard input, record to the file named on the command line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its children
    answer = Path(sys.argv[1])
    request = json.loads(sys.stdin.read())
    try:
        case = Case(request, answer)
    except Exception as error:
        answer.write_text(json.dumps({"stage": "load", "error": describe(error)}))
        return
    measure(case)
    case.record.pop("stage", None)
    case.save()


def timed(record: Record, name: str, work: Callable[[], Any]) -> Any:
    """Result of `work`; its wall-clock seconds go into the record, an exception or not."""
    start = time.perf_counter()
    try:
        return work()
    finally:
        record[name] = round(time.perf_counter() - start, 3)


def peak_rss_mb() -> int:
    """Peak resident memory of this process so far, in MB (1 MB = 10^6 bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 // 10**6


def parameters(model: ModelProto) -> dict[str, int]:
    """`params`: elements of all weight tensors (initializers and Constants, subgraphs and functions included);
    `params_dense`: of those, the ones that no Gather reads as its table."""
    tables = {node.input[0] for node in nodes(model) if node.op_type == "Gather" and node.input}
    total = table = 0
    for name, tensor in _tensors(model):
        if tensor.data_type in WEIGHTS:
            size = math.prod(tensor.dims)
            total += size
            table += size if name in tables and size > 1 else 0
    return {"params": total, "params_dense": total - table}


def check(model: ModelProto) -> str | None:
    """None if the ONNX checker accepts the model, shape inference included, else its complaint."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        return describe(error)
    return None


def run(model: ModelProto, feeds: dict[str, np.ndarray]) -> str | None:
    """None if the model loads and runs in ONNX Runtime (CPU, default optimizations), else what went wrong."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        session.run(None, {i.name: feeds[i.name] for i in session.get_inputs()})
    except Exception as error:
        return describe(error)
    return None


def describe(error: BaseException) -> str:
    """Type and message of an exception in one line, without the folders of this machine."""
    return describe_text(f"{type(error).__name__}: {error}")


def describe_text(text: str) -> str:
    """A message in one line, without the folders of this machine."""
    return _without_folders(" ".join(text.split()))[:ERROR_LENGTH]


def frames(error: BaseException, root: Path) -> list[str]:
    """The innermost frames of a traceback, `file:line function`; files relative to `root` or by name alone."""
    found = []
    for frame in traceback.extract_tb(error.__traceback__)[-FRAMES:]:
        path = Path(frame.filename)
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
        found.append(f"{name}:{frame.lineno} {frame.name}")
    return found


def _without_folders(text: str) -> str:
    return re.sub(r"(?<![\w.:/])/(?:[\w.+-]+/){2,}(?=[\w.+-]+\.(?:py|cc|cpp|h|onnx|gz|so)\b)", "", text)


def _finite(value: Any) -> Any:
    """The same value with infinities and NaNs as text, which JSON lacks."""
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else str(value)
    return value.item() if isinstance(value, np.generic) else value


def _load(path: Path, hydrate: Path) -> ModelProto:
    if path.suffix != ".gz":
        return onnx.load(path)
    spec = importlib.util.spec_from_file_location("hydrate", hydrate)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model: ModelProto = module.hydrate(str(path))
    return model


def _feeds(model: ModelProto, inputs: list[dict[str, Any]] | None) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {i["name"]: _feed(rng, i) for i in (inputs or _graph_inputs(model))}


def _feed(rng: np.random.Generator, spec: dict[str, Any]) -> np.ndarray:
    name = re.sub(r"tensor\((\w+)\)", r"\1", spec["dtype"])
    dtype = np.dtype(DTYPES.get(name, name))
    if dtype == np.bool_:
        return np.ones(spec["shape"], np.bool_)
    if np.issubdtype(dtype, np.integer):
        low, high = spec["range"] or (0, 1)
        return np.asarray(rng.integers(low, high + 1, spec["shape"]), dtype)
    return np.asarray(rng.standard_normal(spec["shape"]), dtype)


def _graph_inputs(model: ModelProto) -> list[dict[str, Any]]:
    """The inputs of a model that no index describes; an unknown dimension is 1."""
    weights = {t.name for t in model.graph.initializer}
    found = []
    for value in model.graph.input:
        if value.name not in weights:
            tensor = value.type.tensor_type
            shape = [d.dim_value if d.dim_value > 0 else 1 for d in tensor.shape.dim]
            dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
            found.append({"name": value.name, "dtype": dtype, "shape": shape, "range": None})
    return found


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs:
                yield from _graphs(inner)


def nodes(model: ModelProto) -> Iterator[NodeProto]:
    for graph in _graphs(model.graph):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def _tensors(model: ModelProto) -> Iterator[tuple[str, TensorProto]]:
    for graph in _graphs(model.graph):
        for tensor in graph.initializer:
            yield tensor.name, tensor
    for node in nodes(model):
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.type == AttributeProto.TENSOR:
                    yield node.output[0], attribute.t
