"""Contestants of the clean-up: onnxprune, onnxslim, onnxsim and onnxscript, each as its users call it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from measure import Case, check, describe, parameters, peak_rss_mb, run, serve, timed
from measure import nodes as all_nodes
from onnx import ModelProto

Made = tuple[ModelProto, dict[str, Any]]
"""A result, and what else its contestant says of it."""
_ANY_SIZE = 1 << 40  # bytes


def onnxprune(model: ModelProto) -> Made:
    """Without its check: the peers make none."""
    from onnxprune import simplify

    return simplify(model, check=False).model, {}


def onnxprune_checked(model: ModelProto) -> Made:
    """As the command line does it, with what its check found."""
    from onnxprune import simplify

    made = simplify(model)
    found = made.report.verification
    if found is None:
        return made.model, {"unverified": made.report.unverified}
    return made.model, {"verified": {"error": found.error, "tolerance": found.tolerance, "outputs": len(found.outputs)}}


def onnxprune_grown(model: ModelProto) -> Made:
    """The file may grow, as that of the peers does."""
    from onnxprune import simplify

    return simplify(model, check=False, size_threshold=_ANY_SIZE).model, {}


def onnxprune_raised(model: ModelProto) -> Made:
    """Operators that a newer opset has may be used, as peers use those of ONNX Runtime."""
    from onnxprune import simplify

    return simplify(model, check=False, opset=max(_ATTENTION, default_opset(model))).model, {}


def onnxslim(model: ModelProto) -> Made:
    """As it comes."""
    import onnxslim

    return onnxslim.slim(model), {}


def onnxsim(model: ModelProto) -> Made:
    """As it comes."""
    import onnxsim

    return onnxsim.simplify(model)[0], {}


def onnxscript(model: ModelProto) -> Made:
    """As it comes."""
    import onnxscript.optimizer

    return onnxscript.optimizer.optimize(model), {}


CONTESTANTS: dict[str, Callable[[ModelProto], Made]] = {
    f.__name__: f for f in (onnxprune, onnxprune_checked, onnxprune_grown, onnxprune_raised, onnxslim, onnxsim, onnxscript)
}
_ATTENTION = 23  # the opset that has it


def default_opset(model: ModelProto) -> int:
    """Version of the ONNX domain that a model imports."""
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)


def new_domains(source: ModelProto, result: ModelProto) -> list[str]:
    """Domains of operators that only the result uses: not every runtime has them."""
    known = {n.domain for n in all_nodes(source)} | {o.domain for o in source.opset_import} | {"", "ai.onnx"}
    local = {f.domain for f in result.functions}
    return sorted({n.domain for n in all_nodes(result)} - known - local)


def operators(model: ModelProto) -> dict[str, int]:
    """How many nodes of each operator there are, in all graphs and functions.

    What makes a constant is not counted: a Constant is an initializer in another place, and so is a ConstantOfShape of a
    constant shape.
    """
    known = {t.name for t in model.graph.initializer} | {
        n.output[0] for n in all_nodes(model) if n.op_type == "Constant" and n.output
    }
    counted = (
        n.op_type
        for n in all_nodes(model)
        if n.op_type != "Constant" and not (n.op_type == "ConstantOfShape" and n.input[0] in known)
    )
    return dict(sorted(Counter(counted).items()))


def difference(expected: ModelProto, actual: ModelProto, feeds: dict[str, np.ndarray]) -> float:
    """Largest difference of an output, relative to its largest magnitude; both graphs run as they are written."""
    worst = 0.0
    for a, b in zip(_outputs(expected, feeds), _outputs(actual, feeds), strict=True):
        if not isinstance(a, np.ndarray):
            continue
        if a.shape != b.shape or a.dtype != b.dtype:
            return math.inf
        if a.size == 0 or a.dtype.kind not in "fiub":
            continue
        x, y = a.astype(np.float64), b.astype(np.float64)
        finite = np.isfinite(x)
        if not np.array_equal(finite, np.isfinite(y)):
            return math.inf
        if finite.any():
            scale = float(np.abs(x[finite]).max()) or 1.0
            worst = max(worst, float(np.abs(x[finite] - y[finite]).max()) / scale)
    return worst


def _outputs(model: ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = {i.name: feeds[i.name] for i in session.get_inputs() if i.name in feeds}
    return list(session.run([o.name for o in model.graph.output], given))


def measure(case: Case) -> None:
    """Options: `contestant`; `repeat`, how many times it is timed (the fastest counts); `save`, where the result goes, if set."""
    work = CONTESTANTS[case.options["contestant"]]
    source = ModelProto()
    source.CopyFrom(case.model)
    case.record |= {"ops_before": operators(source), "bytes_before": source.ByteSize()}
    case.record["nodes_before"] = sum(case.record["ops_before"].values())
    result, said = None, {}
    try:
        seconds = []
        for _ in range(case.options["repeat"] + 1):  # the first one pays for imports
            given = ModelProto()
            given.CopyFrom(case.model)
            case.stage("simplify")
            result, said = timed(case.record, "seconds", lambda m=given: work(m))
            seconds.append(case.record["seconds"])
        case.record["first_seconds"], case.record["seconds"] = seconds[0], min(seconds[1:] or seconds)
    except Exception as error:
        case.fail(error, Path(__file__).parent)
        return
    case.record |= said
    case.record["rss_mb"] = peak_rss_mb()
    if case.options.get("save"):
        onnx.save(result, case.options["save"])
    case.record |= {"ops": operators(result), "bytes": result.ByteSize(), **parameters(result)}
    case.record["nodes"] = sum(case.record["ops"].values())
    case.record["new_domains"] = new_domains(source, result)
    case.record["check"] = check(result)
    case.record["run"] = run(result, case.feeds)
    case.record["same_interface"] = interface(source) == interface(result)
    try:
        case.record["difference"] = difference(source, result, case.feeds)
    except Exception as error:
        case.record["difference_error"] = describe(error)


def interface(model: ModelProto) -> list[bytes]:
    """Inputs that a caller feeds and outputs, with names, order, types and dimensions."""
    constants = {t.name for t in model.graph.initializer}
    values = [*(i for i in model.graph.input if i.name not in constants), *model.graph.output]
    return [_signature(v) for v in values]


def _signature(value: onnx.ValueInfoProto) -> bytes:
    return bytes(value.name.encode() + b"\0" + value.type.SerializeToString(deterministic=True))


if __name__ == "__main__":
    serve(measure)
