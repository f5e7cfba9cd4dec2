"""Running single passes on models in text form, and comparing what comes out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from onnxprune.cleanup.driver import run_passes
from onnxprune.cleanup.exchange import give_back, take_in
from onnxprune.cleanup.reading import Options
from onnxprune.cleanup.registry import all_passes
from onnxprune.cleanup.work import Work

BASE = ("lift-constants", "nothing")


def run(model: onnx.ModelProto, *passes: str, size_threshold: int = 1 << 16) -> tuple[onnx.ModelProto, list[str]]:
    """The model after these passes (and what finds constants), and why they declined."""
    known = {p.name: p for p in all_passes()}
    assert set(passes) <= set(known)
    taken, source = take_in(model)
    work = Work(taken, Options(size_threshold=size_threshold))
    records = run_passes(work, [p for p in known.values() if p.name in (*BASE, *passes)])
    result = give_back(taken, source)
    onnx.checker.check_model(result, full_check=True)
    return result, [reason for name in passes for reason in records[name].declined.values()]


def declared(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the shapes of its outputs as ONNX infers them."""
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for value, found in zip(model.graph.output, inferred.graph.output, strict=True):
        value.CopyFrom(found)
    return model


def operators(model: onnx.ModelProto) -> Counter[str]:
    """How many nodes of each operator there are."""
    return Counter(node.op_type for node in model.graph.node)


def outputs(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[Any]:
    """What ONNX Runtime computes, without optimizations of its own."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feeds)))


def feeds_of(model: onnx.ModelProto, seed: int = 0, sizes: Mapping[str, int] | None = None) -> dict[str, np.ndarray]:
    """Random numbers for all inputs; symbolic dimensions get the sizes given, else 3."""
    rng = np.random.default_rng(seed)
    held = {t.name for t in model.graph.initializer}
    found = {}
    for value in model.graph.input:
        if value.name in held:
            continue
        kind = value.type.tensor_type
        shape = [d.dim_value or (sizes or {}).get(d.dim_param, 3) for d in kind.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        numbers = rng.standard_normal(shape)
        found[value.name] = (numbers if dtype.kind == "f" else 2 * numbers).astype(dtype)
    return found


def same(
    model: onnx.ModelProto, result: onnx.ModelProto, seeds: Sequence[int] = (0, 1), tolerance: float = 1e-5, **sizes: int
) -> None:
    """Both compute the same, at more than one input, and the numbers are no zeros."""
    for seed in seeds:
        feeds = feeds_of(model, seed, sizes)
        for a, b in zip(outputs(model, feeds), outputs(result, feeds), strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype
            scale = float(np.abs(a.astype(np.float64)).max())
            assert scale > 0
            np.testing.assert_allclose(b.astype(np.float64), a.astype(np.float64), rtol=0, atol=tolerance * scale)


def becomes(model: onnx.ModelProto, passes: Sequence[str], wanted: Mapping[str, int], **sizes: int) -> onnx.ModelProto:
    """After the passes exactly these operators are left, they compute the same, and another run changes nothing."""
    result, _ = run(model, *passes)
    assert operators(result) == Counter(wanted)
    same(model, result, **sizes)
    again, _ = run(result, *passes)
    assert operators(again) == Counter(wanted)
    return result


def stays(model: onnx.ModelProto, passes: Sequence[str], reason: str = "") -> None:
    """The passes leave the model alone; where a reason is given, one of them says so."""
    result, declined = run(model, *passes)
    assert operators(result) == operators(model)
    same(model, result)
    assert any(reason in said for said in declined) if reason else not declined
