"""Control flow: bodies are traced in the same label space; what crosses a border is tied on both sides."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from onnxprune.trace.labels import Field
from onnxprune.trace.op import Op
from onnxprune.trace.registry import rule
from onnxprune.trace.unify import contract
from onnxprune.trace.value import Value


def _tie(op: Op, values: list[Value]) -> list[Field]:
    """Values that take each other's place."""
    names = list(range(values[0].rank))
    fields = contract(op.space, [(v, names) for v in values], names, op.what, zero=all)
    return [Field(f.axes, f.labels, False) for f in fields]


def _body(op: Op, graph: Any, inputs: list[Value | None]) -> list[Value]:
    if op.trace_body is None:
        raise ValueError("no tracer")
    return op.trace_body(graph, inputs)


@rule("If")
def if_(op: Op) -> None:
    """Both branches make the same output."""
    branches = [_body(op, op.attr(name), []) for name in ("then_branch", "else_branch")]
    for out, a, b in zip(op.outs, *branches, strict=True):
        if out.name and out.shape is not None:
            out.fields = _tie(op, [a, b])


@rule("Loop")
def loop(op: Op) -> None:
    """A carried value goes in, round and out in one shape."""
    carried = [op.need(i) for i in range(2, len(op.ins))]
    start = [None, None, *[_entering(v) for v in carried]]
    results = _body(op, op.attr("body"), start)[1:]
    _finish(op, carried, results, [0] * len(op.outs))


@rule("Scan", since=9)
def scan(op: Op) -> None:
    """States as in Loop; scanned inputs lose their scan axis, which can't shrink."""
    count = int(op.attr("num_scan_inputs"))
    states = [op.need(i) for i in range(len(op.ins) - count)]
    inputs: list[Value | None] = [_entering(v) for v in states]
    given = op.attr("scan_input_axes") or [0] * count
    for k in range(count):
        value = op.need(len(states) + k)
        axis = int(given[k]) % value.rank
        op.freeze_axis(value, axis, f"{op.what} runs along it")
        kept = [f for f in value.fields if axis not in f.axes]
        kept += [
            Field((a,), op.space.separate(f, a), f.zero) for f in value.fields if axis in f.axes for a in f.axes if a != axis
        ]
        fields = [Field(tuple(a - (a > axis) for a in f.axes), f.labels, f.zero) for f in kept]
        inputs.append(replace(value, fields=fields, why={}))
    results = _body(op, op.attr("body"), inputs)
    axes = op.attr("scan_output_axes") or [0] * (len(op.outs) - len(states))
    _finish(op, states, results, [0] * len(states) + [int(a) for a in axes])


def _entering(value: Value) -> Value:
    """A carried value seen from inside: after the first round its slices need not be 0."""
    return replace(value, fields=[Field(f.axes, f.labels, False) for f in value.fields])


def _finish(op: Op, carried: list[Value], results: list[Value], axes: list[int]) -> None:
    for k, (out, result) in enumerate(zip(op.outs, results, strict=False)):
        if k < len(carried):
            fields = _tie(op, [carried[k], result]) if result.shape == carried[k].shape else []
            if result.shape != carried[k].shape:
                op.freeze(carried[k])
                op.freeze(result)
            out.fields = fields
        elif out.name and out.shape is not None:
            axis = axes[k] % out.rank
            out.fields = [Field(tuple(a + (a >= axis) for a in f.axes), f.labels, False) for f in result.fields]
        else:
            op.freeze(result)
