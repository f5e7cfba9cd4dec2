"""Random samples, for lack of data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import onnx

from onnxprune.calibrate.batch import Chunk, Feeds
from onnxprune.calibrate.signature import Array, Input, Signature
from onnxprune.prepare.prepare import Prepared, prepare
from onnxprune.proof.inputs import random_inputs


def synthetic_chunks(
    model: onnx.ModelProto,
    wanted: Signature,
    samples: int,
    batch: int,
    shapes: Mapping[str, Sequence[int]] | None,
    seed: int,
) -> list[Chunk]:
    """Runs with random inputs: normally distributed floats, indices within their tables, pixels 0..255, masks of ones.

    Args:
        model: to be run.
        wanted: its inputs.
        samples: how many.
        batch: samples of a run, where the model has one open batch axis.
        shapes: of inputs, the others are chosen.
        seed: of all numbers.

    Raises:
        ModelError: a given shape names no input or contradicts it.
    """
    prepared = prepare(model, shapes)
    sizes = dict(prepared.shapes)
    chosen = wanted.batch or (batch if _has_open_batch(wanted) else 0)
    size = chosen or max(s[0] if s else 1 for s in sizes.values())
    chunks = []
    for start in range(0, samples, size):
        count = min(size, samples - start) if chosen else size
        rows = wanted.batch or count
        now = {name: (rows, *s[1:]) for name, s in sizes.items()} if chosen else sizes
        chunks.append(Chunk(count, partial(_draw, prepared, wanted, now, [seed, start]), None))
    return chunks


def _has_open_batch(wanted: Signature) -> bool:
    """All inputs have a batch axis of any size, which no other axis depends on."""
    dims = [i.dims for i in wanted.inputs]
    if not wanted.batched or None in dims:
        return False
    symbols = {str(d[0]) for d in dims if d} - {""}
    others = [n for d in dims if d for n in d[1:] if isinstance(n, str)]
    return not any(symbols & set(re.findall(r"\w+", n)) for n in others)


def _draw(
    prepared: Prepared, wanted: Signature, shapes: Mapping[str, tuple[int, ...]], seed: Sequence[int], start: int, stop: int
) -> Feeds:
    state = int(np.random.SeedSequence(seed).generate_state(1)[0])
    drawn = random_inputs(prepared.graph, shapes, prepared.inferred.scopes[id(prepared.graph)], state)
    rng = np.random.default_rng(state)
    return {i.name: _fitting(i, drawn[i.name], rng) for i in wanted.inputs}


def _fitting(value: Input, drawn: Array, rng: np.random.Generator) -> Array:
    """Masks are ones whatever their type, and bytes of rank 3 and more are pixels."""
    if "mask" in value.name.lower() and drawn.dtype != object:
        return np.ones_like(drawn)
    if drawn.dtype == np.uint8 and drawn.ndim >= 3:
        return rng.integers(0, 256, drawn.shape, np.uint8)
    return drawn
