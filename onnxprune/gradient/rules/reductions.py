"""Reductions over axes, and sums that run along one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxprune.gradient.registry import Array, Gradients, Step, derivative

_Slope = Callable[[Array, Array, int], Array]  # x, y with all axes, elements of each sum


def _axes(step: Step) -> tuple[int, ...] | None:
    """Axes that go; None where nothing is reduced. They are an attribute, or an input in later versions."""
    rank, given = step.need(0).ndim, step.given(1)
    listed = step.attrs.get("axes") if given is None else [int(a) for a in given]
    if not listed:
        return None if step.attrs.get("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted(a % rank for a in listed))


def _register(op: str, slope: _Slope) -> None:
    def rule(step: Step) -> Gradients:
        x, y, dy, axes = step.need(0), step.out, step.grad, _axes(step)
        if axes is None:
            return {0: dy}
        kept = [1 if a in axes else n for a, n in enumerate(x.shape)]
        count = int(np.prod([x.shape[a] for a in axes], dtype=np.int64))
        found = dy.reshape(kept) * slope(x, y.reshape(kept), count)
        return {0: np.broadcast_to(found, x.shape).astype(dy.dtype, copy=False)}

    derivative(op, inputs=[0])(rule)


def _share(x: Array, y: Array, count: int) -> Array:
    """Equal elements share the gradient of the largest or smallest one."""
    same = x == y
    axes = tuple(a for a, n in enumerate(y.shape) if n == 1)
    return np.asarray(same / same.sum(axis=axes, keepdims=True))


_register("ReduceSum", lambda x, y, n: np.ones((), y.dtype))
_register("ReduceMean", lambda x, y, n: np.asarray(1 / n, y.dtype))
_register("ReduceL1", lambda x, y, n: np.sign(x))
_register("ReduceL2", lambda x, y, n: x / np.maximum(y, np.finfo(y.dtype).tiny))
_register("ReduceSumSquare", lambda x, y, n: 2 * x)
_register("ReduceLogSum", lambda x, y, n: np.exp(-y))
_register("ReduceLogSumExp", lambda x, y, n: np.exp(x - y))
_register("ReduceMax", _share)
_register("ReduceMin", _share)


@derivative("GlobalAveragePool")
def global_average_pool(step: Step) -> Gradients:
    """The same share to each place."""
    x = step.need(0)
    share = step.grad / step.grad.dtype.type(np.prod(x.shape[2:], dtype=np.int64))
    return {0: np.broadcast_to(share, x.shape)}


@derivative("GlobalMaxPool")
def global_max_pool(step: Step) -> Gradients:
    """To the largest place of each channel."""
    x = step.need(0)
    flat = x.reshape(*x.shape[:2], -1)
    d = np.zeros(flat.shape, step.grad.dtype)
    np.put_along_axis(d, flat.argmax(axis=2)[..., None], step.grad.reshape(*x.shape[:2], 1), axis=2)
    return {0: d.reshape(x.shape)}


@derivative("CumSum", inputs=[0], when=lambda n, a: not a.get("exclusive"))
def cumulative_sum(step: Step) -> Gradients:
    """The sum runs the other way."""
    axis, turned = int(step.need(1)), bool(step.attrs.get("reverse", 0))
    d = step.grad if turned else np.flip(step.grad, axis)
    d = np.cumsum(d, axis=axis)
    return {0: d if turned else np.flip(d, axis)}
