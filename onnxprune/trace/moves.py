"""Moves: operators that only rearrange elements are executed on label arrays.

Every function takes the fields of the input and returns those of the output; what can't be followed is frozen with a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from onnxprune.trace.labels import Field, Labels, LabelSpace
from onnxprune.trace.value import Shape

ELEMENTS = 1 << 26


def make_field(space: LabelSpace, axes: Sequence[int], labels: Labels, zero: bool) -> Field | None:
    """A field without the axes on which labels don't change. `axes` may be in any order.

    None where none is left: then the whole tensor stands and falls with one label, which is frozen.
    """
    order = np.argsort(axes)
    labels = labels.transpose(order)
    kept = []
    for position, axis in enumerate(sorted(axes)):
        first = labels.take([0], axis=position)
        if labels.shape[position] > 1 and not np.array_equal(np.broadcast_to(first, labels.shape), labels):
            kept.append((position, axis))
    if not kept:
        space.freeze(labels.ravel()[:1], "it makes up a whole tensor by itself")
        return None
    index = tuple(slice(None) if p in {k for k, _ in kept} else 0 for p in range(labels.ndim))
    return Field(tuple(a for _, a in kept), np.ascontiguousarray(labels[index]), zero)


def transpose(space: LabelSpace, fields: Sequence[Field], perm: Sequence[int]) -> list[Field]:
    """Output axis `i` is input axis `perm[i]`."""
    moved = (make_field(space, [list(perm).index(a) for a in f.axes], f.labels, f.zero) for f in fields)
    return [f for f in moved if f]


def remap(fields: Sequence[Field], axis_of: Callable[[int], int]) -> list[Field]:
    """Fields on renumbered axes (Squeeze, Unsqueeze)."""
    return [Field(tuple(axis_of(a) for a in f.axes), f.labels, f.zero) for f in fields]


def blocks(before: Shape, after: Shape) -> list[tuple[range, range]] | None:
    """The finest split of two shapes of equal volume into runs of axes of equal volume; None for empty tensors."""
    if 0 in before or 0 in after:
        return None
    result = []
    i = j = 0
    while i < len(before) or j < len(after):
        i0, j0 = i, j
        a = before[i] if i < len(before) else 1
        b = after[j] if j < len(after) else 1
        i, j = min(i + 1, len(before)), min(j + 1, len(after))
        while a != b:
            if a < b and i < len(before):
                a, i = a * before[i], i + 1
            elif b < a and j < len(after):
                b, j = b * after[j], j + 1
            else:
                return None
        result.append((range(i0, i), range(j0, j)))
    return result


def reshape(space: LabelSpace, fields: Sequence[Field], before: Shape, after: Shape, what: str) -> list[Field]:
    """Splits and merges axes; a split axis becomes a joint field."""
    runs = blocks(before, after)
    if runs is None:
        for f in fields:
            space.freeze(f.labels, f"{what} changes an empty or differently sized tensor")
        return []
    of_axis = {axis: k for k, (ins, _) in enumerate(runs) for axis in ins}
    fields = _products(space, fields, of_axis)
    taken: set[int] = set()
    result = []
    for f in sorted(fields, key=lambda f: -f.labels.size):
        own = sorted({of_axis[a] for a in f.axes})
        ins = [a for k in own for a in runs[k][0]]
        outs = [a for k in own for a in runs[k][1]]
        if taken & set(own):
            space.freeze(f.labels, f"{what} merges two prunable axes into one")
            continue
        if np.prod([before[a] for a in ins], dtype=np.int64) > ELEMENTS:
            space.freeze(f.labels, f"{what} mixes channels with too many positions to follow")
            continue
        taken |= set(own)
        labels = f.labels.reshape([before[a] if a in f.axes else 1 for a in ins])
        labels = np.broadcast_to(labels, [before[a] for a in ins]).reshape([after[a] for a in outs])
        moved = make_field(space, outs, labels, f.zero)
        if moved:
            result.append(moved)
    return result


def _products(space: LabelSpace, fields: Sequence[Field], of_axis: dict[int, int]) -> list[Field]:
    """Two single axes that are merged become one field over both (heads that share one value projection).

    Broadcast axes, which no weight stands behind, take no part.
    """
    result = list(fields)
    for f in fields:
        for g in fields:
            if f.joint or g.joint or f.axes >= g.axes or f not in result or g not in result:
                continue
            weighty = not space.is_free(f.labels) and not space.is_free(g.labels)
            if weighty and of_axis[f.axes[0]] == of_axis[g.axes[0]]:
                result.remove(f)
                result.remove(g)
                result.append(space.product((f.axes[0], g.axes[0]), f, g))
    return result


def select(space: LabelSpace, fields: Sequence[Field], axis: int, pick: Callable[[Labels, int], Labels]) -> list[Field]:
    """Applies `pick(labels, position)` to the field that covers an axis; the other fields stay."""
    result = []
    for f in fields:
        if axis not in f.axes:
            result.append(f)
            continue
        space.end(f.labels)
        moved = make_field(space, f.axes, pick(f.labels, f.axes.index(axis)), f.zero)
        if moved:
            result.append(moved)
    return result
