"""Reductions: sums of channels that are 0 are exact, any other statistic over channels is not."""

from __future__ import annotations

from onnxprune.trace.labels import Field
from onnxprune.trace.op import Op
from onnxprune.trace.registry import rule

_SUMS = {"ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare"}
_LOSES_ZERO = {"ReduceLogSum", "ReduceLogSumExp"}


@rule(
    "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
    "ReduceLogSum", "ReduceLogSumExp",
)  # fmt: skip
def reduce(op: Op) -> None:
    """Axes are an attribute or an input; without any all axes are reduced."""
    x = op.need(0)
    axes = op.ints(1, "axes", [])
    if axes is None:
        op.freeze_all(f"{op.what} reduces axes that depend on data")
        return
    if not axes and op.attr("noop_with_empty_axes", 0):
        op.same()
        return
    reduced = {a % x.rank for a in axes} or set(range(x.rank))
    for f in x.fields:
        for axis in reduced & set(f.axes):
            if op.node.op in _SUMS and f.zero:
                op.space.end(f.labels)
            else:
                op.inexact_axis(x, axis, "a statistic")
    drop_axes(op, reduced, keep=bool(op.attr("keepdims", 1)), zero=op.node.op not in _LOSES_ZERO)


@rule("ArgMax", "ArgMin")
def arg(op: Op) -> None:
    """Positions along one axis, which can't shrink."""
    axis = op.axis(default=0)
    op.freeze_axis(op.need(0), axis)
    drop_axes(op, {axis}, keep=bool(op.attr("keepdims", 1)), zero=False)


def drop_axes(op: Op, axes: set[int], *, keep: bool, zero: bool) -> None:
    """Output fields without some axes; what is left of a joint field stands alone."""
    x = op.need(0)

    def moved(axis: int) -> int:
        return axis if keep else axis - sum(a < axis for a in axes)

    result = []
    for f in x.fields:
        if not set(f.axes) & axes:
            result.append(Field(tuple(moved(a) for a in f.axes), f.labels, f.zero and zero))
            continue
        for axis in sorted(set(f.axes) - axes):
            result.append(Field((moved(axis),), op.space.separate(f, axis), f.zero and zero))
    op.outs[0].fields = result
