"""Runs of Reshape, Transpose and their kin in the fewest nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxprune.cleanup import layout
from onnxprune.cleanup.layout import Atom, Axes
from onnxprune.cleanup.reading import full_name
from onnxprune.cleanup.registry import node_pass
from onnxprune.cleanup.work import Work

MOVES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose")


@dataclass(frozen=True)
class _Step:
    """One node of the new run: a Transpose by `perm`, or a Reshape to `target`; both None where it is to be found."""

    axes: Axes
    perm: tuple[int, ...] | None = None
    target: tuple[int, ...] | None = None


@node_pass("moves", phase="normalize", ops=MOVES)
def moves(work: Work, node: ir.Node) -> bool:
    """A run of Reshape, Flatten, Squeeze, Unsqueeze and Transpose is at most one Reshape, one Transpose, one Reshape.

    Each axis is a list of atoms (`cleanup/layout.py`). The run as a whole puts them in another order and groups them anew:

    1. The order stays: one Reshape, or nothing where the groups stay too.
    2. The order changes by whole axes of the input: one Transpose, and a Reshape behind it where groups change.
    3. By whole axes of the output: a Reshape, then one Transpose.
    4. Else all three. The run stays as it is where that is not shorter.
    5. A move in the middle that has other readers stays for them; the run may start before it where it gets no longer.
    6. Dimensions may be symbolic. The target of a Reshape is a constant with at most one -1, and 0 for what it copies; so a
       target that is computed from shapes is not needed where the shapes are known.
    """
    following = work.reader(node.outputs[0], *MOVES)
    if following is not None and following.inputs[0] is node.outputs[0]:
        return False
    run = _run(work, node)
    for start in range(len(run)):
        steps = _shortest(work, run[start:])
        if steps is None:
            continue
        old = run[start:]
        own = _private_tail(work, old)
        if len(steps) < own or (len(steps) == own and _simpler(work, old, steps, own)):
            _write(work, old, steps)
            return True
    return False


def _run(work: Work, last: ir.Node) -> list[ir.Node]:
    """The moves up to `last`, in order."""
    run = [last]
    while True:
        producer = work.producer(run[0].inputs[0], *MOVES)
        if producer is None:
            return run
        run.insert(0, producer)


def _private_tail(work: Work, run: Sequence[ir.Node]) -> int:
    """How many nodes at the end of a run nobody else needs."""
    count = 1
    for node in reversed(run[:-1]):
        if not work.private(node.outputs[0]):
            break
        count += 1
    return count


def _simpler(work: Work, old: Sequence[ir.Node], steps: Sequence[_Step], own: int) -> bool:
    """As many nodes, but they start earlier, are no Transposes any more, or need no computed target."""
    if len(old) > own and len(steps) == 1 and not steps[0].perm:
        return True
    transposes = sum(full_name(n) == "Transpose" for n in old[len(old) - own :])
    if sum(bool(s.perm) for s in steps) < transposes:
        return True
    return len(old) == own == 1 and full_name(old[0]) == "Reshape" and not work.is_constant(old[0].inputs[1])


def _shortest(work: Work, run: Sequence[ir.Node]) -> list[_Step] | None:
    """The fewest steps that do the same; None where the shapes are not known well enough."""
    shape = work.shape(run[0].inputs[0])
    if shape is None or 0 in shape:
        return None
    source = layout.atoms(shape)
    axes = source
    for node in run:
        moved = _moved(work, node, axes)
        if moved is None:
            return _in_order(work, run)
        axes = moved
    before, after = layout.expand(source), layout.expand(axes)
    if before == after:
        return []
    runs = layout.blocks(before, after)
    if len(runs) < 2:
        return _targets(before, [_Step(after)])
    exact = _with_ones(before, after)
    if exact:
        return [_Step(after, perm=exact)]
    if layout.aligned(before, runs):
        perm = layout.order(before, after)
        return _targets(before, [_Step([before[k] for k in perm], perm=tuple(perm)), _Step(after)])
    if layout.aligned(after, runs):
        order = layout.order(after, before)
        return _targets(before, [_Step([after[k] for k in order]), _Step(after, perm=tuple(np.argsort(order).tolist()))])
    perm = layout.order(runs, after)
    return _targets(before, [_Step(runs), _Step([runs[k] for k in perm], perm=tuple(perm)), _Step(after)])


def _in_order(work: Work, run: Sequence[ir.Node]) -> list[_Step] | None:
    """One Reshape for a run without a Transpose, whose axes need not be parts of each other."""
    shape = work.shape(run[-1].outputs[0])
    if shape is None or 0 in shape or any(full_name(n) == "Transpose" for n in run):
        return None
    return _targets([], [_Step(layout.atoms(shape))])


def _with_ones(before: Axes, after: Axes) -> tuple[int, ...]:
    """The permutation that makes one of the other, axes of length 1 included; empty where there is none."""
    if len(before) != len(after):
        return ()
    free = [k for k, axis in enumerate(before) if not axis]
    perm = []
    for axis in after:
        if not axis:
            if not free:
                return ()
            perm.append(free.pop(0))
        elif axis in before:
            perm.append(before.index(axis))
        else:
            return ()
    return tuple(perm)


def _targets(before: Axes, steps: list[_Step]) -> list[_Step] | None:
    """The steps with the targets of their Reshapes; None where one of them can't be written as a constant."""
    found = []
    for step in steps:
        if step.perm is None:
            target = layout.target(before, step.axes)
            if target is None:
                return None
            step = _Step(step.axes, target=tuple(target))
        found.append(step)
        before = step.axes
    return found


def _moved(work: Work, node: ir.Node, axes: Axes) -> Axes | None:
    """The axes behind a move."""
    op = full_name(node)
    axes = layout.expand(axes)
    if op == "Transpose":
        perm = work.attribute(node, "perm") or tuple(reversed(range(len(axes))))
        return [axes[k] for k in perm] if len(perm) == len(axes) else None  # else what is declared contradicts itself
    if op == "Flatten":
        axis = work.attribute(node, "axis", 1)
        axis += len(axes) if axis < 0 else 0
        return [[a for part in parts for a in part] for parts in (axes[:axis], axes[axis:])]
    if op == "Reshape":
        return _reshaped(work, node, axes)
    return _squeezed(work, node, axes) if op == "Squeeze" else _unsqueezed(work, node, axes)


def _reshaped(work: Work, node: ir.Node, axes: Axes) -> Axes | None:
    given = work.constant(node.inputs[1]) if len(node.inputs) > 1 else np.asarray(work.attribute(node, "shape", ()))
    known = work.shape(node.outputs[0])
    if given is None:
        if known is None or 0 in known or sum(n is None for n in known) > 1:
            return None
        return layout.regroup(axes, known)
    zeros = bool(work.attribute(node, "allowzero", 0))
    if (zeros and (given == 0).any()) or any(n == 0 and k >= len(axes) for k, n in enumerate(given)):
        return None
    return layout.regroup(axes, [axes[k] if n == 0 else None if n < 0 else int(n) for k, n in enumerate(given)])


def _squeezed(work: Work, node: ir.Node, axes: Axes) -> Axes | None:
    given = _given_axes(work, node)
    if given is None:
        shape = work.static_shape(node.inputs[0])
        given = None if shape is None or len(node.inputs) > 1 else [k for k, n in enumerate(shape) if n == 1]
    if given is None:
        return None
    gone = {k % len(axes) for k in given}
    if any(axes[k] for k in gone):
        return None  # an axis whose length is not known to be 1
    return [axis for k, axis in enumerate(axes) if k not in gone]


def _unsqueezed(work: Work, node: ir.Node, axes: Axes) -> Axes | None:
    given = _given_axes(work, node)
    if given is None:
        return None
    rank = len(axes) + len(given)
    new = {k % rank for k in given}
    rest: list[list[Atom]] = list(axes)
    return [[] if k in new else rest.pop(0) for k in range(rank)]


def _given_axes(work: Work, node: ir.Node) -> list[int] | None:
    attribute = work.attribute(node, "axes")
    if attribute is not None:
        return [int(k) for k in attribute]
    array = work.constant(work.input(node, 1))
    return None if array is None else [int(k) for k in array.reshape(-1)]


def _write(work: Work, run: Sequence[ir.Node], steps: Sequence[_Step]) -> None:
    last = run[-1]
    value = run[0].inputs[0]
    assert value is not None
    out, dtype = last.outputs[0], work.dtype(value)
    for step in steps:
        dims = [layout.length(axis) for axis in step.axes]
        if step.perm is not None:
            made = work.emit(last, "Transpose", [value], {"perm": step.perm}, like=out, shape=dims, dtype=dtype)
        elif work.opset < 5:
            made = work.emit(last, "Reshape", [value], {"shape": step.target or ()}, like=out, shape=dims, dtype=dtype)
        else:
            constant = work.weight(np.array(step.target, np.int64), out)
            made = work.emit(last, "Reshape", [value, constant], like=out, shape=dims, dtype=dtype)
        value = made.outputs[0]
    work.substitute(out, value)
