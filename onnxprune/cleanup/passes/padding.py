"""Padding by the convolution or pool that reads it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxprune.cleanup.reading import full_name
from onnxprune.cleanup.registry import Declined, node_pass
from onnxprune.cleanup.signs import not_negative
from onnxprune.cleanup.work import Work

_READERS = ("Conv", "AveragePool", "MaxPool")


@node_pass("pad", phase="absorb", ops=("Pad",))
def pad(work: Work, node: ir.Node) -> bool:
    """f(pad(x)) with padding p' = f'(x) with padding p + p'.

    1. Constant padding along spatial axes alone, none of it negative; f is the one reader.
    2. Conv pads with zeros: the padding is 0.
    3. AveragePool that counts its padding: the padding is 0. Where it has no padding of its own it may count it from now on.
    4. MaxPool ignores its padding: the padding is -inf, or 0 where x is not negative.
    5. A pool's padding is smaller than its kernel, and it does not round up (`ceil_mode`).
    6. `auto_pad` is NOTSET or VALID: SAME depends on the size that it gets.
    """
    reader = work.reader(node.outputs[0], *_READERS)
    if reader is None or reader.inputs[0] is not node.outputs[0]:
        return False
    begins, ends = _spatial(work, node)
    value = _value(work, node)
    attributes: dict[str, int] = {}
    if full_name(reader) == "Conv":
        if value != 0:
            raise Declined(f"Conv pads with 0, not with {value:g}")
    elif full_name(reader) == "AveragePool":
        attributes = _average(work, reader, value)
    else:
        _maximum(work, reader, value, node.inputs[0])
    total = _joined(work, reader, begins, ends)
    source = node.inputs[0]
    work.set_input(reader, 0, source)
    work.set_attribute(reader, "pads", total)
    if "auto_pad" in reader.attributes:
        work.set_attribute(reader, "auto_pad", "NOTSET")
    for name, number in attributes.items():
        work.set_attribute(reader, name, number)
    return True


def _spatial(work: Work, node: ir.Node) -> tuple[list[int], list[int]]:
    """Padding before and behind each spatial axis."""
    if work.attribute(node, "mode", "constant") != "constant":
        raise Declined("the padding repeats or mirrors the tensor")
    rank = work.rank(node.inputs[0])
    given = (
        work.constant(node.inputs[1])
        if work.opset >= 11
        else np.asarray(work.attribute(node, "pads", work.attribute(node, "paddings")))
    )
    if given is None or rank is None:
        raise Declined("the padding is computed, or the rank is not known")
    axes = work.input(node, 3)
    which: Sequence[int] = range(rank)
    if axes is not None:
        held = work.constant(axes)
        if held is None:
            raise Declined("the axes of the padding are computed")
        which = [int(a) % rank for a in held]
    begins, ends = [0] * rank, [0] * rank
    for k, axis in enumerate(which):
        begins[axis], ends[axis] = int(given[k]), int(given[k + len(which)])
    if any(begins[:2]) or any(ends[:2]) or min(*begins, *ends) < 0:
        raise Declined("it pads the batch or the channels, or crops")
    return begins[2:], ends[2:]


def _value(work: Work, node: ir.Node) -> float:
    if work.opset < 11:
        return float(work.attribute(node, "value", 0.0))
    held = work.input(node, 2)
    if held is None:
        return 0.0
    value = work.scalar(held)
    if value is None:
        raise Declined("the padding's value is computed")
    return float(value)


def _joined(work: Work, reader: ir.Node, begins: list[int], ends: list[int]) -> list[int]:
    if work.attribute(reader, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise Declined("the reader's padding depends on the size it gets (auto_pad)")
    size = len(begins)
    own = work.attribute(reader, "pads") or (0,) * (2 * size)
    total = [a + b for a, b in zip((*begins, *ends), own, strict=True)]
    if full_name(reader) != "Conv":
        kernel = work.attribute(reader, "kernel_shape")
        if work.attribute(reader, "ceil_mode", 0) or any(p >= kernel[k % size] for k, p in enumerate(total)):
            raise Declined("a pool may not pad by its kernel or more, and may not round up")
    return total


def _average(work: Work, reader: ir.Node, value: float) -> dict[str, int]:
    if value != 0:
        raise Declined(f"AveragePool pads with 0, not with {value:g}")
    if work.attribute(reader, "count_include_pad", 0):
        return {}
    if any(work.attribute(reader, "pads", ())) or work.opset < 7:
        raise Declined("the AveragePool does not count its own padding, but would have to count this one")
    return {"count_include_pad": 1}


def _maximum(work: Work, reader: ir.Node, value: float, x: ir.Value | None) -> None:
    if len(reader.outputs) > 1:
        raise Declined("positions of the largest elements are read")
    if any(d != 1 for d in work.attribute(reader, "dilations", ())):
        raise Declined("a dilated window may hold padding alone")
    if value == -np.inf:
        return
    if value != 0 or not not_negative(work, x):
        raise Declined(f"MaxPool ignores its padding; a padding of {value:g} counts where elements are smaller")
