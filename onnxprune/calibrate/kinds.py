"""What an input is, read from its shape, its type and the operators that read it; and samples of that kind.

    images      float or uint8 `(N, C, H, W)` or `(N, H, W, C)` with 1, 3 or 4 channels: `onnxprune.calibrate.natural`
    signals     float `(N, T)`, `(N, C, T)` or `(N, T, C)` with a long axis: noise with a spectrum 1/f along it
    token ids   integers that index a table or become one-hot vectors: small ids are frequent, as in vocabularies that are
                sorted by frequency
    positions   integers that index a table, of a name that says so: 0, 1, 2 ...
    ones        masks, whatever their type
    noise       any other float: Gaussian
    constants   any other integer, and texts

Pixels are scaled the way the first operators of the model undo: integers are 0..255, as are floats that are divided by a
number of that size; 0..1 where a mean within 0..1 is subtracted; the moments of a BatchNormalization that reads them. Where
nothing tells, mean 0 and variance 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxprune.calibrate.natural import MEAN, STD, fields, natural_images
from onnxprune.calibrate.signature import Input, family
from onnxprune.io.constants import constant_array
from onnxprune.prepare.prepare import Prepared
from onnxprune.proof.inputs import index_bound
from onnxprune.shapes.infer import constant_of

Array = NDArray[Any]

_CHANNELS = (1, 3, 4)
_SMALLEST = 8  # pixels on a side
_LONG = 128  # steps of a signal
_LARGE = 16  # numbers above are no means or deviations of pixels in 0..1
_SEGMENTS = 4  # a table this small holds kinds of tokens, not tokens
_MOVES = {"Cast", "Identity", "Transpose", "Unsqueeze", "Squeeze", "Reshape", "Flatten"}


@dataclass(frozen=True)
class Kind:
    """What an input is.

    Attributes:
        name: as in the list above.
        bound: of indices: the size of their table; else 0.
        layout: of images: `NCHW`, `NHWC`, `NHW` or `HWC`; else empty.
        axis: of signals: time; else 0.
        offset: images are `offset + scale * pixel`, pixels in 0..1; a number, or one for each channel `(C,)`.
        scale: see there.
    """

    name: str
    bound: int = 0
    layout: str = ""
    axis: int = 0
    offset: Any = 0.0
    scale: Any = 1.0


def kind_of(value: Input, shape: tuple[int, ...], prepared: Prepared) -> Kind:
    """What an input is.

    Args:
        value: the input.
        shape: its concrete shape.
        prepared: the model.
    """
    if "mask" in value.name.lower() and family(value.dtype) != "string":
        return Kind("ones")
    tensor = next(t for t in prepared.graph.inputs if t.name == value.name)
    real = family(value.dtype) == "float"
    if real or value.dtype == np.uint8:
        layout = _layout(shape, real)
        if layout:
            offset, scale = _pixel_scale(tensor) if real else (0.0, 255.0)
            return Kind("images", layout=layout, offset=offset, scale=scale)
    if real:
        time = _time_axis(tensor, shape)
        return Kind("noise") if time is None else Kind("signals", axis=time)
    bound = index_bound(prepared.graph, tensor, prepared.inferred.scopes[id(prepared.graph)])
    if family(value.dtype) != "integer" or not bound or not shape:
        return Kind("constants")
    return Kind("positions" if "position" in value.name.lower() else "token ids", bound)


def draw(kind: Kind, shape: tuple[int, ...], dtype: np.dtype[Any], rng: np.random.Generator) -> Array:
    """Samples of a kind other than constants.

    Args:
        kind: of the input.
        shape: of the samples, the first axis counts them.
        dtype: of the input.
        rng: source of all numbers.
    """
    if kind.name == "ones":
        return np.ones(shape, dtype)
    if kind.name == "images":
        return _draw_images(kind, shape, dtype, rng)
    if kind.name == "signals":
        return _draw_signals(kind.axis, shape, rng).astype(dtype)
    if kind.name == "positions":
        return np.broadcast_to(np.arange(shape[-1]) % kind.bound, shape).astype(dtype)
    if kind.name == "token ids":
        return _draw_tokens(kind.bound, shape, rng).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def _draw_images(kind: Kind, shape: tuple[int, ...], dtype: np.dtype[Any], rng: np.random.Generator) -> Array:
    sizes = {"N": 1, "C": 1} | dict(zip(kind.layout, shape, strict=True))
    pixels = natural_images(sizes["N"], sizes["C"], sizes["H"], sizes["W"], rng)
    offset, scale = (np.reshape(np.asarray(v, np.float32), (-1, 1, 1)) for v in (kind.offset, kind.scale))
    values = offset + scale * pixels
    values = np.round(values) if dtype.kind == "u" else values
    order = [*("NCHW".index(a) for a in kind.layout), *(k for k, a in enumerate("NCHW") if a not in kind.layout)]
    return np.ascontiguousarray(values.transpose(order).reshape(shape), dtype)


def _draw_signals(axis: int, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    moved = [n for a, n in enumerate(shape) if a != axis]
    count = int(np.prod(moved))
    made = fields(count, 1, shape[axis], 1.0, rng).reshape(*moved, shape[axis])
    return np.moveaxis(made, -1, axis)


def _draw_tokens(bound: int, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Ids with p(id) ~ 1 / (id + bound / 30) (Mandelbrot 1953), by inversion; the first ids are special or bytes.

    Ids of kinds of tokens (segments) are the same for a whole sample.
    """
    if bound <= _SEGMENTS:
        first = rng.integers(0, bound, (shape[0], *[1] * (len(shape) - 1)))
        return np.array(np.broadcast_to(first, shape))
    start = 1 + bound / 30
    drawn = start * ((bound + start) / start) ** rng.random(shape) - start
    return np.minimum(drawn.astype(np.int64), bound - 1)


def _layout(shape: tuple[int, ...], real: bool) -> str:
    """Layout of what can be images, the first where both can be; else empty."""
    layouts = ("NCHW", "NHWC") if len(shape) == 4 else ("HWC", "NHW") if len(shape) == 3 and not real else ()
    for layout in layouts:
        sizes = dict(zip(layout, shape, strict=True))
        if sizes.get("C", 1) in _CHANNELS and min(sizes["H"], sizes["W"]) >= _SMALLEST:
            return layout
    return ""


def _time_axis(tensor: gs.Tensor, shape: tuple[int, ...]) -> int | None:
    """The long axis of a signal: the last one, or that before it, where no other is as long."""
    if len(shape) not in (2, 3):
        return None
    inner = range(1, len(shape))
    longest = max(inner, key=lambda a: shape[a])
    others = [shape[a] for a in inner if a != longest]
    convolved = any(n.op == "Conv" for n in _behind(tensor))
    enough = shape[longest] >= _LONG if len(shape) == 3 else convolved and shape[1] >= _LONG
    return longest if enough and all(4 * n <= shape[longest] or convolved for n in others) else None


def _behind(tensor: gs.Tensor) -> list[gs.Node]:
    """Who reads a tensor, moves of it passed over."""
    found, queue, seen = [], [tensor], {tensor.name}
    while queue:
        for node in queue.pop().outputs:
            if node.op not in _MOVES:
                found.append(node)
                continue
            fresh = [t for t in node.outputs if t.name not in seen]
            seen |= {t.name for t in fresh}
            queue += fresh
    return found


def _pixel_scale(tensor: gs.Tensor) -> tuple[Any, Any]:
    """Offset and scale of pixels in 0..1, from what the model does to them first."""
    usual = -MEAN / STD, 1.0 / STD
    readers = _behind(tensor)
    if len(readers) != 1:
        return usual
    node = readers[0]
    if node.op == "BatchNormalization":
        mean, variance = (_constant(t) for t in node.inputs[3:5])
        if mean is None or variance is None:
            return usual
        scale = np.sqrt(np.maximum(variance, 0)) / STD
        return mean - MEAN * scale, scale
    constants = [c for c in map(_constant, node.inputs) if c is not None]
    if node.op not in ("Mul", "Div", "Sub", "Add") or len(constants) != 1 or not constants[0].size:
        return usual
    size = float(np.median(np.abs(constants[0])))
    if (1 / max(size, 1e-30) if node.op == "Mul" else size) >= _LARGE:
        return 0.0, 255.0
    return (0.0, 1.0) if 0 < size <= (1 if node.op in ("Sub", "Add") else _LARGE) else usual


def _constant(tensor: gs.Tensor) -> Array | None:
    if isinstance(tensor, gs.Constant):
        return np.asarray(constant_array(tensor), np.float64)
    held = constant_of(tensor.inputs[0]) if tensor.inputs else None
    return None if held is None else np.asarray(constant_array(held), np.float64)
