"""Operators that move elements: each is executed on the numbers of the elements instead of their values.

What comes out says where each element went, whatever the operator and its attributes; the gradient goes back that way. A few
simple ones are written down, because they cost nothing then.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxprune.gradient.registry import Array, Gradients, Step, derivative


@derivative("Reshape", "Flatten", "Squeeze", "Unsqueeze", inputs=[0])
def reshaped(step: Step) -> Gradients:
    """The same elements in the same order."""
    return {0: step.grad.reshape(step.need(0).shape)}


@derivative("Transpose")
def transposed(step: Step) -> Gradients:
    """Axes in another order."""
    perm = step.attrs.get("perm")
    return {0: step.grad.transpose(None if perm is None else np.argsort(perm))}


# Positions of the inputs whose elements are moved; None: all.
_MOVED: dict[str, tuple[int, ...] | None] = {
    "Compress": (0,), "Concat": None, "DepthToSpace": (0,), "Expand": (0,), "Gather": (0,), "GatherElements": (0,),
    "GatherND": (0,), "Pad": (0,), "ReverseSequence": (0,), "Slice": (0,), "SpaceToDepth": (0,), "Split": (0,),
    "Tile": (0,), "Trilu": (0,), "Where": (1, 2),
}  # fmt: skip


_MEMORY = 1 << 22  # bytes for one node


def _moved(step: Step) -> Gradients:
    given = _MOVED[step.node.op_type]
    positions = range(len(step.x)) if given is None else given
    places = _remembered(step, {k: step.need(k).shape for k in positions})
    starts = np.cumsum([1, *(step.need(k).size for k in positions)])
    total = np.zeros(int(starts[-1]))
    for place, dy in zip(places, step.dy, strict=True):
        if dy is not None:
            total += np.bincount(place, dy.ravel(), minlength=total.size)
    kind = next(d.dtype for d in step.dy if d is not None)
    return {
        k: total[a : a + step.need(k).size].reshape(step.need(k).shape).astype(kind)
        for k, a in zip(positions, starts[:-1], strict=True)
        if k in step.wanted
    }


for _op, _positions in _MOVED.items():
    derivative(_op, inputs=_positions)(_moved)


@derivative("TopK", inputs=[0], when=lambda n, a: len(n.output) > 1 and bool(n.output[1]))
def top_k(step: Step) -> Gradients:
    """To the places that were picked."""
    dx, indices = np.zeros(step.need(0).shape, step.grad.dtype), step.y[1]
    assert indices is not None
    np.put_along_axis(dx, indices, step.grad, axis=int(step.attrs.get("axis", -1)))
    return {0: dx}


def _remembered(step: Step, shapes: dict[int, tuple[int, ...]]) -> list[Array]:
    """`_places`, which depend on shapes and on what is not moved; large ones are made again."""
    others = [None if x is None or k in shapes else (x.shape, x.tobytes()) for k, x in enumerate(step.x)]
    key = (tuple(shapes.items()), tuple(others))
    found = step.memory.get(key)
    if found is None:
        found = _places(step, shapes)
        if sum(p.nbytes for p in found) <= _MEMORY:
            step.memory.clear()  # shapes of samples change seldom, and back hardly ever
            step.memory[key] = found
    return list(found)


def _places(step: Step, shapes: dict[int, tuple[int, ...]]) -> list[Array]:
    """For each output the numbers of its elements, from 1 on through all moved inputs; 0 where it is filled."""
    start, feeds = 1, {}
    for k, x in enumerate(step.x):
        if k in shapes:
            size = int(np.prod(shapes[k], dtype=np.int64))
            feeds[f"x{k}"] = np.arange(start, start + size, dtype=np.float64).reshape(shapes[k])
            start += size
        elif x is not None:
            feeds[f"x{k}"] = np.zeros_like(x, np.float64) if step.node.op_type == "Pad" and k == 2 else x
    return [y.ravel().astype(np.int64) for y in run_node(step, feeds)]


def run_node(step: Step, feeds: dict[str, Array], attrs: dict[str, Any] | None = None) -> list[Array]:
    """Runs the node alone, on other values.

    Args:
        step: of the node.
        feeds: values of `x0`, `x1` ... for its inputs.
        attrs: in place of its own.
    """
    import onnxruntime as ort

    node = onnx.NodeProto()
    node.CopyFrom(step.node)
    del node.input[:], node.output[:]
    node.input.extend([f"x{k}" if f"x{k}" in feeds else "" for k in range(len(step.x))])
    node.output.extend([f"y{k}" if name else "" for k, name in enumerate(step.node.output)])
    if attrs is not None:
        del node.attribute[:]
        node.attribute.extend(helper.make_attribute(n, v) for n, v in attrs.items())
    elif node.op_type == "Pad":  # what is filled in is no element
        kept = [a for a in node.attribute if a.name != "value"]
        del node.attribute[:]
        node.attribute.extend(kept)
    inputs = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feeds.items()]
    outputs = [helper.make_empty_tensor_value_info(n) for n in node.output if n]
    graph = helper.make_graph([node], "node", inputs, outputs)
    opset = helper.make_opsetid(step.node.domain, step.version)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=min(onnx.IR_VERSION, 10))
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = dict(zip([n for n in node.output if n], session.run(None, feeds), strict=True))
    return [found[n] if n else np.zeros(0) for n in node.output]


@derivative(
    "Resize",
    "Upsample",
    inputs=[0],
    when=lambda n, a: a.get("coordinate_transformation_mode") != "tf_crop_and_resize" and "scales" not in a,
)
def resized(step: Step) -> Gradients:
    """Linear, one axis after the other: what the operator makes of unit vectors is the matrix of an axis."""
    x, d = step.need(0), step.grad
    for axis, (n, m) in enumerate(zip(x.shape, step.out.shape, strict=True)):
        if n != m:
            d = np.moveaxis(np.moveaxis(d, axis, -1) @ _matrix(step, axis, n, m).T, -1, axis)
    return {0: d.astype(step.grad.dtype, copy=False)}


def _matrix(step: Step, axis: int, n: int, m: int) -> Array:
    """`(n, m)`: row i is what the axis becomes with a 1 at i and zeros elsewhere."""
    key = (axis, n, m)
    if key not in step.memory:
        step.memory[key] = _measured(step, axis, n, m)
    return np.asarray(step.memory[key])


def _measured(step: Step, axis: int, n: int, m: int) -> Array:
    kept = {k: v for k, v in step.attrs.items() if k not in ("axes", "keep_aspect_ratio_policy")}
    feeds: dict[str, Array] = {"x0": np.eye(n, dtype=np.float32).reshape(n, 1, 1, n)}
    at = 1 if len(step.x) == 2 else 2  # before version 11 there is no region
    scales = step.given(at)
    if scales is not None and scales.size:
        listed = list(step.attrs.get("axes", range(step.need(0).ndim)))
        feeds[f"x{at}"] = np.array([1, 1, 1, scales[listed.index(axis)]], np.float32)
    else:
        feeds["x3"] = np.array([n, 1, 1, m], np.int64)
    if step.version in (11, 12):  # there is a region and there are factors, be they empty
        feeds = {"x1": np.zeros(0, np.float32), "x2": np.zeros(0, np.float32), **feeds}
    return run_node(step, feeds, kept)[0].reshape(n, m)
