"""Ties between operands that share indices: elementwise operators and contractions are one mechanism.

Operands are written as in an Einsum, one index name per axis. Where two of them have a field on the same index, the labels
are tied; where one has none at full size, the others can't shrink there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.trace.labels import Field, Labels, LabelSpace
from onnxprune.trace.value import Value

Index = int | str | None


@dataclass
class Shared:
    """A field over indices.

    Attributes:
        names: one index per dimension of `labels`.
        zeros: for each operand whether its slices are 0 where the labels are removed; None where it lacks the indices.
    """

    names: tuple[Index, ...]
    labels: Labels
    zeros: list[bool | None]

    def only(self, space: LabelSpace, name: Index, *, attention: bool = False) -> Shared:
        """The field of one of its indices alone."""
        if len(self.names) == 1:
            return self
        f = Field(tuple(range(len(self.names))), self.labels, False)
        return Shared((name,), space.separate(f, self.names.index(name), attention=attention), list(self.zeros))

    def single(self, space: LabelSpace, *, attention: bool = False) -> list[Shared]:
        """One field per index."""
        return [self.only(space, n, attention=attention) for n in self.names]


def unify(
    space: LabelSpace, operands: Sequence[tuple[Value, Sequence[Index]]], what: str, *, attention: bool = False
) -> list[Shared]:
    """Ties the fields of all operands and returns those of the index space, no two of which share an index.

    Args:
        space: where ties go.
        operands: values with an index name for each axis; axes of size 1 are broadcast and take no part.
        what: the node, for reasons.
        attention: the axes that get separated are heads.
    """
    result: list[Shared] = []
    bare: dict[Index, str] = {}
    for k, (value, names) in enumerate(operands):
        names = [n if size != 1 else None for n, size in zip(names, value.sizes, strict=True)]
        covered = {n for f in value.fields for n in (names[a] for a in f.axes)}
        for axis, n in enumerate(names):
            if n is not None and n not in covered and value.static is None:
                bare.setdefault(n, f"{what} combines it with {value.reason(axis)}")
            elif n is not None and n not in covered:
                bare.setdefault(n, f"{what} combines it with the constant {value.name!r}")
        for f in value.fields:
            zeros: list[bool | None] = [None] * len(operands)
            zeros[k] = f.zero
            _add(space, result, Shared(tuple(names[a] for a in f.axes), f.labels, zeros), attention)
    for n, reason in bare.items():
        for shared in [s for s in result if n in s.names]:
            result.remove(shared)
            for one in shared.single(space, attention=attention):
                if one.names[0] == n:
                    space.freeze(one.labels, reason)
                else:
                    result.append(one)
    return result


def _add(space: LabelSpace, result: list[Shared], new: Shared, attention: bool) -> None:
    """Ties a field into those found so far."""
    if len(set(new.names)) < len(new.names):
        space.freeze(new.labels, "an operator takes a diagonal of it")
        return
    overlap = [f for f in result if set(f.names) & set(new.names)]
    if not overlap:
        result.append(new)
        return
    if len(overlap) == 1 and set(overlap[0].names) == set(new.names):
        old = overlap[0]
        space.tie(old.labels, new.labels.transpose([new.names.index(n) for n in old.names]))
        old.zeros = _merge(old.zeros, new.zeros)
        return
    if len(overlap) == 1 and len(new.names) == 1:
        space.tie(overlap[0].only(space, new.names[0], attention=attention).labels, new.labels)
        overlap[0].zeros = _merge(overlap[0].zeros, new.zeros, partial=True)
        return
    if all(len(f.names) == 1 for f in overlap) and {n for f in overlap for n in f.names} <= set(new.names):
        for f in overlap:
            space.tie(f.labels, new.only(space, f.names[0], attention=attention).labels)
            result.remove(f)
            new.zeros = _merge(new.zeros, f.zeros, partial=True)
        result.append(new)
        return
    for f in overlap:
        result.remove(f)
        result.extend(f.single(space, attention=attention))
    for one in new.single(space, attention=attention):
        _add(space, result, one, attention)


def _merge(old: list[bool | None], new: list[bool | None], *, partial: bool = False) -> list[bool | None]:
    """Zero flags of a field that several operands have; where one has a part of the indices only it counts as not zero."""
    return [
        b if a is None else a if b is None else a and b
        for a, b in zip(old, [False if partial and b is not None else b for b in new], strict=True)
    ]


def contract(
    space: LabelSpace,
    operands: Sequence[tuple[Value, Sequence[Index]]],
    output: Sequence[Index],
    what: str,
    *,
    attention: bool = False,
    zero: Callable[[Sequence[bool]], bool] = any,
) -> list[Field]:
    """Fields of `Einsum(operands -> output)`, or of an elementwise operator where no index is summed.

    A summed index is exact where some operand is 0 there once its weights are; else it is frozen.

    Args:
        space: where ties go.
        operands: values with an index name for each axis.
        output: index names of the result.
        what: the node, for reasons.
        attention: the axes that get separated are heads.
        zero: from the zero flags of the operands to that of the result: `any` for products, `all` for sums.
    """
    result = []
    position: dict[Index, int] = {n: k for k, n in enumerate(output) if n is not None}
    for f in unify(space, operands, what, attention=attention):
        known = [bool(z) for z in f.zeros if z is not None or zero is not any]
        summed = [n for n in f.names if n not in position]
        if summed:
            space.end(f.labels)
        if summed and not any(bool(z) for z in f.zeros):
            for n in summed:
                only = f.only(space, n, attention=attention)
                space.freeze(only.labels, f"{what} sums over values that are not 0 when their weights are")
        parts = [f.only(space, n, attention=attention) for n in f.names if n in position] if summed else [f]
        for part in parts:
            axes = [position[n] for n in part.names]
            labels = np.ascontiguousarray(part.labels.transpose(np.argsort(axes)))
            result.append(Field(tuple(sorted(axes)), labels, zero(known)))
    return result
