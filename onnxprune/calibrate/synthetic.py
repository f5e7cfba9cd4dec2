"""Random samples, for lack of data."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx

from onnxprune.calibrate.batch import Chunk, Feeds
from onnxprune.calibrate.kinds import Kind, draw, kind_of
from onnxprune.calibrate.signature import Signature, family, signature
from onnxprune.errors import ModelError
from onnxprune.prepare.prepare import Prepared, prepare
from onnxprune.proof.inputs import random_inputs

_LENGTH = 64  # tokens of a sample, where the model leaves it open
_SHOWN = 3
_FEWEST = 32
_SAME = ("constants", "ones", "positions")  # kinds of which all samples are the same
_NUMBERS = 1 << 27  # activations of all samples together


@dataclass(frozen=True)
class _Source:
    """What samples are drawn from.

    Attributes:
        prepared: the model, at the shapes of the samples.
        wanted: its inputs.
        kinds: what each of them is.
    """

    prepared: Prepared
    wanted: Signature
    kinds: dict[str, Kind]


def synthetic_chunks(
    model: onnx.ModelProto,
    wanted: Signature,
    samples: int,
    batch: int,
    shapes: Mapping[str, Sequence[int]] | None,
    seed: int,
) -> tuple[list[Chunk], str]:
    """Runs with random inputs of the kinds that the model seems to take, and these kinds in words.

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
    source = _source(model, wanted, shapes)
    sizes = dict(source.prepared.shapes)
    chosen = wanted.batch or (batch if _has_open_batch(wanted) else 0)
    size = chosen or max(s[0] if s else 1 for s in sizes.values())
    chunks = []
    for start in range(0, samples, size):
        count = min(size, samples - start) if chosen else size
        rows = wanted.batch or count
        now = {name: (rows, *s[1:]) for name, s in sizes.items()} if chosen else sizes
        chunks.append(Chunk(count, partial(_draw, source, now, [seed, start]), None))
    return chunks, _described(source.kinds)


def unlike_any(model: onnx.ModelProto) -> str:
    """Why random samples would tell nothing about a model; empty where they do.

    One input has to carry the data, be it pixels, tokens, a signal or features: states and caches depend on it in ways that
    no random numbers do. Where nothing tells what its integers mean, all samples would be the same.

    Raises:
        ModelError: an input is no tensor, or there is none.
    """
    wanted = signature(model)
    data = [i.name for i in wanted.inputs if family(i.dtype) == "float" and "mask" not in i.name.lower()]
    if any(family(i.dtype) not in ("float", "integer", "bool") for i in wanted.inputs):
        return "an input takes neither numbers nor truth values"
    if len(data) > 1:
        return f"inputs {', '.join(map(repr, data[:_SHOWN]))} depend on each other"
    kinds = {} if data or not wanted.inputs else _source(model, wanted, None).kinds
    same = kinds and all(kind.name in _SAME for kind in kinds.values())
    return f"nothing tells which numbers {', '.join(map(repr, list(kinds)[:_SHOWN]))} would hold" if same else ""


def affordable(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]] | None, most: int = 1024) -> int:
    """How many random samples keep a run short: fewer where a sample makes many activations.

    Args:
        model: to be run.
        shapes: of inputs, the others are chosen.
        most: never more than these.

    Raises:
        ModelError: a given shape names no input or contradicts it.
    """
    wanted = signature(model)
    prepared = _source(model, wanted, shapes).prepared
    scope = prepared.inferred.scopes[id(prepared.graph)]
    made = [scope.get(t.name) for node in prepared.graph.nodes for t in node.outputs]
    numbers = sum(math.prod(v.shape) for v in made if v is not None and v.shape is not None)
    rows = next(iter(prepared.shapes.values()))[:1] if wanted.batched else ()
    return max(min(most, _NUMBERS * (rows[0] if rows else 1) // max(numbers, 1)), min(_FEWEST, most))


def _source(model: onnx.ModelProto, wanted: Signature, shapes: Mapping[str, Sequence[int]] | None) -> _Source:
    source = _of(prepare(model, shapes), wanted)
    longer = _lengthened(source, shapes or {})
    if longer:
        try:
            candidate = prepare(model, longer)
        except ModelError:
            return source
        return source if candidate.inferred.errors else _of(candidate, wanted)
    return source


def _of(prepared: Prepared, wanted: Signature) -> _Source:
    return _Source(prepared, wanted, {i.name: kind_of(i, prepared.shapes[i.name], prepared) for i in wanted.inputs})


def _lengthened(source: _Source, given: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """Shapes with sequences of tokens as long as a sentence, where the model leaves that open; empty where it does not."""
    inputs = {i.name: i for i in source.wanted.inputs}
    of_tokens = [inputs[n].dims or () for n, kind in source.kinds.items() if kind.name == "token ids" and n not in given]
    lengths = {d for dims in of_tokens for d in dims[1:] if isinstance(d, str) and d.isidentifier()}
    if not lengths or any(lengths & set(map(str, inputs[n].dims or ())) for n in given):
        return {}
    every = {str(d) for i in inputs.values() for d in i.dims or ()} - lengths
    if any(length in re.findall(r"\w+", d) for length in lengths for d in every):
        return {}
    shapes = source.prepared.shapes
    return {
        n: tuple(_LENGTH if d in lengths else size for d, size in zip(i.dims or (), shapes[n], strict=False)) or shapes[n]
        for n, i in inputs.items()
    }


def _described(kinds: Mapping[str, Kind]) -> str:
    """Such as `'x' images, 'mask' ones`."""
    texts = [f"{name!r} {kind.name}" for name, kind in kinds.items()]
    return ", ".join(texts[:_SHOWN]) + (f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else "")


def _has_open_batch(wanted: Signature) -> bool:
    """All inputs have a batch axis of any size, which no other axis depends on."""
    dims = [i.dims for i in wanted.inputs]
    if not wanted.batched or None in dims:
        return False
    symbols = {str(d[0]) for d in dims if d} - {""}
    others = [n for d in dims if d for n in d[1:] if isinstance(n, str)]
    return not any(symbols & set(re.findall(r"\w+", n)) for n in others)


def _draw(source: _Source, shapes: Mapping[str, tuple[int, ...]], seed: Sequence[int], start: int, stop: int) -> Feeds:
    state = int(np.random.SeedSequence(seed).generate_state(1)[0])
    graph = source.prepared.graph
    constants = [n for n, kind in source.kinds.items() if kind.name == "constants"]
    scope = source.prepared.inferred.scopes[id(graph)]
    feeds = random_inputs(graph, {n: shapes[n] for n in constants}, scope, state)
    rng = np.random.default_rng(state)
    for i in source.wanted.inputs:
        if i.name not in feeds:
            feeds[i.name] = draw(source.kinds[i.name], shapes[i.name], i.dtype, rng)
    return feeds
