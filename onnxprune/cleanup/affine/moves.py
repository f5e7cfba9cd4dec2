"""Operators that move elements: the arrays of an affine function are moved with them, or back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxprune.cleanup.affine.affine import Affine, compact
from onnxprune.cleanup.affine.plan import Plan, Rest, down, up
from onnxprune.cleanup.reading import Array, Dim, full_name
from onnxprune.cleanup.registry import Declined

_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
_SAME = ("Identity", "Dropout")


@up(*_SAME)
@down(*_SAME)
def same(plan: Plan, node: ir.Node, index: int, affine: Affine) -> Rest:
    """Identity, and a Dropout that does not drop."""
    if index or (full_name(node) == "Dropout" and len(node.inputs) > 2):
        raise Declined("it may be training")
    return [(0, affine)]


@up("Transpose")
def transposed(plan: Plan, node: ir.Node, _: int, affine: Affine) -> Rest:
    """The axes go back to where they came from."""
    perm = _perm(plan, node, affine.rank)
    return [(0, affine.moved(lambda a: a.transpose(np.argsort(perm))))]


@down("Transpose")
def transposing(plan: Plan, node: ir.Node, _: int, affine: Affine) -> Rest:
    """The axes move."""
    perm = _perm(plan, node, affine.rank)
    return [(0, affine.moved(lambda a: a.transpose(perm)))]


@up(*_RESHAPES)
def reshaped(plan: Plan, node: ir.Node, _: int, affine: Affine) -> Rest:
    """An axis that is made of others, or parts of others, takes their numbers in row-major order."""
    return [(0, _reshape(plan, affine, node.outputs[0], node.inputs[0]))]


@down(*_RESHAPES)
def reshaping(plan: Plan, node: ir.Node, index: int, affine: Affine) -> Rest:
    """As `reshaped`, from the input on."""
    if index:
        raise Declined("the tensor is a shape")
    return [(0, _reshape(plan, affine, node.inputs[0], node.outputs[0]))]


@up("Expand")
def expanded(plan: Plan, node: ir.Node, _: int, affine: Affine) -> Rest:
    """Constant along the axes that are repeated."""
    shape = plan.work.shape(node.inputs[0])
    if shape is None:
        raise Declined("the rank of the expanded tensor is not known")
    lead = affine.rank - len(shape)
    repeated = set(range(lead)) | {lead + a for a, n in enumerate(shape) if not isinstance(n, int) or n == 1}
    affine.constant_along(repeated, "the tensor may be repeated")
    return [(0, affine.moved(lambda a: a.reshape(a.shape[lead:])))]


@up("Slice", "Pad", "Resize", "Upsample")
@down("Slice", "Pad", "Resize", "Upsample")
def along_positions(plan: Plan, node: ir.Node, index: int, affine: Affine) -> Rest:
    """One function for all of the tensor, or for all positions along axes whose length changes.

    1. Padding with zeros keeps s alone.
    2. Weights of an interpolation add up to 1, so t stays t; outside of the picture (tf_crop_and_resize) they don't.
    """
    if index:
        raise Declined("the tensor is a bound or a shape")
    op = full_name(node)
    if op == "Pad":
        value = plan.work.input(node, 2)
        mode = plan.work.attribute(node, "mode", "constant")
        filled = plan.work.scalar(value) if value is not None else plan.work.attribute(node, "value", 0.0)
        if mode == "constant" and filled != 0:
            raise Declined("the padding is not 0")
        if mode == "constant":
            affine.scale_only("padding with zeros")
    if op == "Resize" and plan.work.attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        raise Declined("the picture may be resized beyond its border")
    before, after = plan.work.shape(node.inputs[0]), plan.work.shape(node.outputs[0])
    if affine.varies and (before is None or after is None):
        raise Declined(f"the shapes around {op} are not known")
    if before is not None and after is not None:
        changed = {a for a, (m, n) in enumerate(zip(before, after, strict=True)) if m != n or m is None}
        affine.constant_along(changed, f"{op} works")
        if op == "Slice":
            affine.constant_along(_reversed(plan, node, affine.rank), "the Slice may go backwards")
    return [(0, affine)]


def _reversed(plan: Plan, node: ir.Node, rank: int) -> set[int]:
    """Axes that a Slice may read backwards."""
    steps = plan.work.input(node, 4)
    if steps is None:
        return set()
    array = plan.work.constant(steps)
    return set() if array is not None and (array > 0).all() else set(range(rank))


def _perm(plan: Plan, node: ir.Node, rank: int) -> tuple[int, ...]:
    perm = plan.work.attribute(node, "perm")
    return tuple(perm) if perm is not None else tuple(reversed(range(rank)))


def _reshape(plan: Plan, affine: Affine, source: ir.Value | None, target: ir.Value | None) -> Affine:
    before, after = plan.work.shape(source), plan.work.shape(target)
    if after is None or before is None:
        raise Declined("the shapes around a Reshape are not known")
    return affine.moved(lambda a: reshape(a, before, after))


def reshape(array: Array, before: Sequence[Dim], after: Sequence[Dim]) -> Array:
    """A broadcast array (1 along axes on which it is constant) of a tensor, behind a Reshape of that tensor.

    Raises:
        Declined: an axis along which it differs is joined with one of unknown length.
    """
    head, tail = _blocks(before, after)
    middle = slice(sum(len(m) for m, _ in head), len(before) - sum(len(m) for m, _ in tail))
    if any(n > 1 for n in array.shape[middle]):
        raise Declined("the constant differs along an axis that a Reshape joins with one of unknown length")
    blocks = [*((m, n) for m, n in head), (tuple(before[middle]), tuple(_rest(after, head, tail))), *tail]
    shape: list[int] = []
    start = 0
    for old, new in blocks:
        part = array.shape[start : start + len(old)]
        start += len(old)
        if all(n == 1 for n in part):
            shape += [1] * len(new)
        else:
            array = _full(array, start - len(old), old)
            shape += [int(n) for n in new if isinstance(n, int)]
    return compact(array.reshape(shape))


def _full(array: Array, start: int, dims: Sequence[Dim]) -> Array:
    shape = list(array.shape)
    for k, n in enumerate(dims):
        if not isinstance(n, int):
            raise Declined("the constant differs along an axis of unknown length")
        shape[start + k] = n
    return np.broadcast_to(array, shape)


def _rest(after: Sequence[Dim], head: Sequence[_Block], tail: Sequence[_Block]) -> Sequence[Dim]:
    return after[sum(len(n) for _, n in head) : len(after) - sum(len(n) for _, n in tail)]


_Block = tuple[tuple[Dim, ...], tuple[Dim, ...]]


def _blocks(before: Sequence[Dim], after: Sequence[Dim]) -> tuple[list[_Block], list[_Block]]:
    """Axes that hold the same elements on both sides, from the left and from the right, as short as they can be."""
    head = _leading(list(before), list(after))
    used = sum(len(m) for m, _ in head), sum(len(n) for _, n in head)
    tail = _leading(list(before[used[0] :])[::-1], list(after[used[1] :])[::-1])
    return head, [(m[::-1], n[::-1]) for m, n in reversed(tail)]


def _leading(before: list[Dim], after: list[Dim]) -> list[_Block]:
    blocks: list[_Block] = []
    i = j = 0
    while i < len(before) and j < len(after):
        m, n = i + 1, j + 1
        if before[i] != after[j] or before[i] is None:
            while True:
                if not all(isinstance(d, int) for d in (*before[i:m], *after[j:n])):
                    return blocks
                left, right = math.prod(before[i:m]), math.prod(after[j:n])  # type: ignore[arg-type]
                if left == right:
                    break
                if left < right and m < len(before):
                    m += 1
                elif right < left and n < len(after):
                    n += 1
                else:
                    return blocks
        blocks.append((tuple(before[i:m]), tuple(after[j:n])))
        i, j = m, n
    return blocks
