"""Attention that is written out, as the one operator it is.

Source: ONNX operator Attention, since opset 23. ONNX Runtime's CPU kernel is as fast as the nodes where Q, K and V come by
heads, and faster where they come by rows, as it needs no transposed copies of them then.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxprune.cleanup.expressions import close, scaled
from onnxprune.cleanup.passes.moves import MOVES
from onnxprune.cleanup.reading import Dim, full_name
from onnxprune.cleanup.registry import Declined, node_pass
from onnxprune.cleanup.work import Work

_SWAPPED = (0, 2, 1, 3)  # (batch, heads, rows, columns) and (batch, rows, heads, columns)
_TURN = (0, 1, 3, 2)
_AXES = ("batch", "heads", "rows", "columns")


@dataclass(frozen=True)
class _Scores:
    """What the softmax is taken of: scale·(query·keyᵀ) + mask.

    Attributes:
        query: (batch, heads, rows, columns).
        key: transposed, as the product reads it: (batch, heads, columns, keys).
        scale: what their product is multiplied by.
        mask: what is added, if anything.
        product: the node that multiplies them.
    """

    query: ir.Value
    key: ir.Value
    scale: float
    mask: ir.Value | None
    product: ir.Node


@node_pass("attention", phase="fuse", ops=("Softmax",), since=23)
def attention(work: Work, node: ir.Node) -> bool:
    """softmax(c·Q·Kᵀ + M)·V = Attention(Q, K, V, M) with scale c, over (batch, heads, rows, columns).

    1. The softmax runs over the last axis. Nobody else reads it, or what it is taken of.
    2. c is one number above 0: Attention multiplies Q and K by its root. It may stand at the product, Q, K or Kᵀ.
    3. Q, K and V are float32 tensors of four axes with the same batch and heads, as Attention broadcasts none of them.
    4. M is added behind c, and spans all rows and keys, as Attention pads a mask of fewer keys by -∞. Its batch and heads
       may broadcast.
    5. Kᵀ is made by a run of moves with a Transpose. K comes by one more, which `moves` makes one with it; so no tensor is
       copied that was not copied before.
    6. Where(IsNaN(p), 0, p) of the softmax p goes with it if there is no M, or a constant one that leaves each row a key: p
       has no NaN then, unless Q·Kᵀ overflows.
    """
    weights, guarded = _weights(work, node)
    product = work.reader(weights, "MatMul")
    found = _scores(work, node.inputs[0])
    if product is None or found is None or product.inputs[0] is not weights or not _over_last(work, node):
        return False
    value = product.inputs[1]
    assert value is not None
    _check_shapes(work, found, value)
    if found.mask is not None:
        _check_mask(work, found.mask, work.shape(node.inputs[0]))
    if guarded and not _leaves_a_key(work, found.mask):
        raise Declined("its mask may leave a row no key, which becomes 0 here, and is not defined for Attention")
    if not _turned(work, found.key):
        raise Declined("Kᵀ is not made by a Transpose, so K would have to be")
    if found.scale <= 0 or not np.isfinite(found.scale):
        raise Declined(f"the scale of Attention is above 0, not {found.scale:g}")
    turned = [work.shape(found.key)[k] for k in _TURN]  # type: ignore[index]  # _check_shapes
    key = work.emit(product, "Transpose", [found.key], {"perm": _TURN}, like=found.key, shape=turned).outputs[0]
    work.replace(product, "Attention", [found.query, key, value, found.mask], {"scale": found.scale})
    return True


@node_pass("attention-rows", phase="fuse", ops=("Attention",), since=23)
def attention_rows(work: Work, node: ir.Node) -> bool:
    """Attention of tensors by heads that are transposed first and last = Attention by rows, of (batch, rows, heads·columns).

    1. Q, K, V and the result by (batch, heads, rows, columns) are Transposes of, and to, (batch, rows, heads, columns): each
       becomes a Reshape, which costs nothing, and which the moves before and behind it take in.
    2. Heads and columns are known numbers. There is no cache, and nobody else reads the result.
    """
    behind = work.reader(node.outputs[0], "Transpose")
    if behind is None or work.attribute(behind, "perm") != _SWAPPED or len(node.outputs) != 1 or len(node.inputs) > 4:
        return False
    before = [_untransposed(work, x) for x in node.inputs[:3]]
    sizes = [work.shape(x) for x in node.inputs[:3]]
    numbers = [s[1:4:2] for s in sizes if s is not None and len(s) == 4 and isinstance(s[1], int) and isinstance(s[3], int)]
    if any(x is None for x in before) or len(numbers) != 3:
        return False
    inputs: list[ir.Value | None] = []
    for x, shape in zip(before, sizes, strict=True):
        assert x is not None and shape is not None
        inputs.append(_reshaped(work, node, x, (shape[0], shape[2], int(shape[1] or 0) * int(shape[3] or 0))))
    heads, columns = int(numbers[0][0] or 0), int(numbers[2][1] or 0)
    attributes = {a: work.attribute(node, a) for a in node.attributes}
    attributes |= {"q_num_heads": heads, "kv_num_heads": numbers[1][0]}
    assert sizes[0] is not None
    shape = (sizes[0][0], sizes[0][2], heads * columns)
    rows = work.emit(node, "Attention", [*inputs, *node.inputs[3:]], attributes, like=node.outputs[0], shape=shape)
    target = work.keep(ir.tensor(np.array([0, 0, heads, columns], np.int64)), behind.outputs[0])
    work.replace(behind, "Reshape", [rows.outputs[0], target])
    return True


@node_pass("attention-groups", phase="fuse", ops=("Attention",), since=23)
def attention_groups(work: Work, node: ir.Node) -> bool:
    """Attention(Q, repeat(K), repeat(V)) = Attention(Q, K, V), where heads of K and V are repeated for groups of heads of Q.

    1. The repetition is (batch, heads, 1, rows, columns), expanded to (batch, heads, group, rows, columns), of which heads
       and group are joined: so head h of Q meets head h // group, as Attention has it.
    2. The same group for K and V, both of four axes. There is no cache.
    """
    if len(node.inputs) > 4 or len(node.outputs) != 1:
        return False
    single = [_unrepeated(work, x) for x in node.inputs[1:3]]
    if single[0] is None or single[1] is None or single[0][1] != single[1][1]:
        return False
    axis = work.keep(ir.tensor(np.array([2], np.int64)), single[0][0])
    for index, found in enumerate(single, 1):
        assert found is not None
        shape = work.shape(found[0])
        assert shape is not None
        squeezed = work.emit(node, "Squeeze", [found[0], axis], like=found[0], shape=[*shape[:2], *shape[3:]])
        work.set_input(node, index, squeezed.outputs[0])
    return True


def _weights(work: Work, softmax: ir.Node) -> tuple[ir.Value, bool]:
    """What multiplies V: the softmax p, or Where(IsNaN(p), 0, p), and whether it is the latter."""
    out = softmax.outputs[0]
    readers = [usage.node for usage in out.uses()]
    tests = [n for n in readers if full_name(n) == "IsNaN"]
    if len(readers) != 2 or len(tests) != 1 or out.is_graph_output():
        return out, False
    where = work.reader(tests[0].outputs[0], "Where")
    if where is None or where not in readers or where.inputs[2] is not out or where.inputs[0] is not tests[0].outputs[0]:
        return out, False
    return (where.outputs[0], True) if close(work.scalar(where.inputs[1]), 0.0) else (out, False)


def _scores(work: Work, value: ir.Value | None) -> _Scores | None:
    """The product, its scale and the mask in what a softmax is taken of; all of it has no other readers."""
    if value is None:
        return None
    added = work.producer(value, "Add")
    sides = [(value, None)] if added is None else [(added.inputs[0], added.inputs[1]), (added.inputs[1], added.inputs[0])]
    for inner, mask in sides:
        if inner is None or not work.private(value) or not work.private(inner):
            continue
        unscaled, scale = _without_scale(work, inner, 1.0)
        product = work.producer(unscaled, "MatMul")
        if product is None or not work.private(unscaled) or product.inputs[0] is None or product.inputs[1] is None:
            continue
        query, scale = _without_scale(work, product.inputs[0], scale)
        key, scale = _without_scale(work, product.inputs[1], scale)
        return _Scores(query, key, scale, mask, product)
    return None


def _without_scale(work: Work, value: ir.Value, scale: float) -> tuple[ir.Value, float]:
    """The x and c·scale where the value is x·c, however often."""
    while (found := scaled(work, value)) is not None:
        value, scale = found[0], scale * found[1]
    return value, scale


def _turned(work: Work, value: ir.Value | None) -> bool:
    """A Transpose is among the moves that make a value."""
    while (node := work.producer(value, *MOVES)) is not None:
        if full_name(node) == "Transpose":
            return True
        value = node.inputs[0]
    return False


def _over_last(work: Work, softmax: ir.Node) -> bool:
    return work.rank(softmax.outputs[0]) == 4 and work.attribute(softmax, "axis", -1) in (-1, 3)


def _check_shapes(work: Work, scores: _Scores, value: ir.Value) -> None:
    """Raises Declined unless Q, Kᵀ and V are what Attention takes."""
    named = {"Q": scores.query, "Kᵀ": scores.key, "V": value}
    shapes = {}
    for name, held in named.items():
        shape = work.shape(held)
        if shape is None or len(shape) != 4:
            raise Declined(f"{name} has no four axes, or their number is not known")
        if work.dtype(held) != ir.DataType.FLOAT:
            raise Declined(f"{name} is not float32: Attention may round in other places, or not run at all")
        shapes[name] = shape
    for axis in (0, 1):
        sizes = {s[axis] for s in shapes.values()}
        if len(sizes) != 1 or None in sizes:
            raise Declined(f"Q, K and V do not have the same {_AXES[axis]}, as far as known")


def _check_mask(work: Work, mask: ir.Value, scores: tuple[Dim, ...] | None) -> None:
    """Raises Declined unless the mask spans rows and keys."""
    shape = work.shape(mask)
    if shape is None or scores is None or not 2 <= len(shape) <= 4 or None in shape[-2:] or shape[-2:] != scores[-2:]:
        raise Declined(f"its mask {shape} does not span all rows and keys of {scores}, as Attention needs it")


def _leaves_a_key(work: Work, mask: ir.Value | None) -> bool:
    """No row is masked as a whole, whatever the input."""
    if mask is None:
        return True
    array = work.constant(mask)
    return array is not None and bool(np.isfinite(array).any(axis=-1).all())


def _untransposed(work: Work, value: ir.Value | None) -> ir.Value | None:
    """X where the value is X with heads and rows exchanged."""
    node = work.producer(value, "Transpose")
    return node.inputs[0] if node is not None and work.attribute(node, "perm") == _SWAPPED else None


def _reshaped(work: Work, before: ir.Node, value: ir.Value, shape: tuple[Dim, Dim, int]) -> ir.Value:
    """(batch, rows, heads, columns) as (batch, rows, heads·columns)."""
    target = work.keep(ir.tensor(np.array([0, 0, shape[2]], np.int64)), value)
    return work.emit(before, "Reshape", [value, target], like=value, shape=shape).outputs[0]


def _unrepeated(work: Work, value: ir.Value | None) -> tuple[ir.Value, int] | None:
    """The tensor (batch, heads, 1, rows, columns) whose heads are repeated, and how often."""
    joined = work.producer(value, "Reshape")
    expanded = work.producer(joined.inputs[0], "Expand") if joined is not None else None
    if expanded is None or expanded.inputs[0] is None:
        return None
    before, wide, after = work.shape(expanded.inputs[0]), work.shape(expanded.outputs[0]), work.shape(value)
    if before is None or wide is None or after is None or (len(before), len(wide), len(after)) != (5, 5, 4):
        return None
    heads, group = wide[1], wide[2]
    if not isinstance(heads, int) or not isinstance(group, int) or None in wide or before != (*wide[:2], 1, *wide[3:]):
        return None
    return (expanded.inputs[0], group) if after == (wide[0], heads * group, *wide[3:]) else None
