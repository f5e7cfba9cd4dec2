"""Calibration data in every form becomes `Samples`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import ArrayLike

from onnxprune.calibrate.arrays import map_npy, read_npz
from onnxprune.calibrate.batch import Batches, Chunk, Samples
from onnxprune.calibrate.fit import Fit, Held
from onnxprune.calibrate.folder import folder_chunks
from onnxprune.calibrate.labels import stored_labels, with_labels
from onnxprune.calibrate.preprocess import Preprocess
from onnxprune.calibrate.signature import Signature, listed, signature
from onnxprune.calibrate.stream import Reader, call_function, imports_from, split_function, stream_chunks
from onnxprune.errors import ModelError, UsageError

Source = str | os.PathLike[str] | Reader | Iterable[Mapping[str, Any]] | None
_MASK = "attention_mask"


def read_samples(
    source: Source,
    model: onnx.ModelProto,
    *,
    samples: int = 512,
    batch: int = 32,
    mask: str | None = None,
    labels: ArrayLike | None = None,
    preprocess: Preprocess | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    evaluation: bool = False,
) -> Samples:
    """Reads calibration data and fits it to the inputs of a model.

    The first axis of all inputs counts samples where they have it in common. Samples of the same shape are stacked, those
    of different shapes (sequences of different length) go into different batches.

    Args:
        source: one of

            * an npz file: `(N, ...)` for each input, under its name; or uint8 images `calibration` or else `images`
              `(N, H, W)` or `(N, H, W, C)`, with `mean` and `std` as in evaluation data;
            * an npy file, for a model with one input;
            * a folder, see `onnxprune.calibrate.folder`;
            * `file.py:function`, of which the function returns one of the two that follow;
            * an object with `get_next()`, which returns a dict of arrays, or None at the end;
            * an iterable of such dicts, or one of them;
            * None: random numbers of the kinds that the model seems to take, see `onnxprune.calibrate.kinds`.
        model: whose inputs are fed.
        samples: the most that are taken: the first ones of arrays, a subset spread evenly over the files of a folder.
        batch: samples of a run where the model does not fix it.
        mask: name of the input `(N, S)` whose zeros mark padding; where not given, an input `attention_mask` of the same
            shape as another input.
        labels: integers, one for each sample; the array `labels` of an npz file where not given, if it has as many.
        preprocess: for images, and for arrays of uint8 pixels.
        shapes: of inputs that the model leaves open: of random ones, and height and width of images.
        seed: of random numbers and of subsets.
        evaluation: also read what lies beside the inputs (`Batch.extras`): `labels`, `targets`, `output_K.pb`, what has the
            name of an output or a row for each sample; images of an npz file are those named `images` only.

    Raises:
        ModelError: the data can't be read, or does not fit the model; names the file, the array and what is expected.
        UsageError: an option is out of range, or the data needs one that is not given.
    """
    if samples < 1 or batch < 1:
        raise UsageError(
            f"calibration needs at least one sample and one in a batch, not samples={samples} and batch={batch}"
        )
    wanted = signature(model)
    mask = _mask(wanted, mask)
    if source is None:
        from onnxprune.calibrate.synthetic import synthetic_chunks

        chunks, name = synthetic_chunks(model, wanted, samples, batch, shapes, seed)
    else:
        outputs = tuple(o.name for o in model.graph.output) if evaluation else None
        chunks, name = _chunks(source, Fit(wanted, preprocess, outputs), samples, seed, shapes or {})
    available = sum(chunk.count for chunk in chunks)
    if labels is None and not evaluation:
        labels = stored_labels(source, [i.name for i in wanted.inputs], available)
    chunks = _first(chunks, samples)
    count = sum(chunk.count for chunk in chunks)
    noun = "sample" if count == 1 else "samples"
    text = f"{count:,} {noun} of {name}" if source is not None else f"{count:,} synthetic {noun}, no data was given: {name}"
    batches = Batches(chunks, wanted.batch or batch, fixed=wanted.batch is not None)
    found = Samples(batches, count, text, source is None, mask, _names(chunks))
    return found if labels is None else with_labels(found, labels, available, chunks)


def _chunks(source: Any, fit: Fit, samples: int, seed: int, shapes: Mapping[str, Sequence[int]]) -> tuple[list[Chunk], str]:
    """Where the samples lie, and the name of their origin."""
    if not isinstance(source, str | os.PathLike):
        name = type(source).__name__
        return _stream(source, name, fit, samples), name
    function = split_function(os.fspath(source))
    if not function:
        path = Path(source)
        return _path_chunks(path, fit, samples, seed, shapes), path.name or str(path.resolve())
    path, name = function
    with imports_from(path.parent):
        return _stream(call_function(path, name), f"{path}:{name}", fit, samples), f"{path.name}:{name}"


def _stream(source: Any, where: str, fit: Fit, samples: int) -> list[Chunk]:
    if not isinstance(source, Reader | Iterable) or isinstance(source, str | bytes):
        kind = type(source).__name__
        raise UsageError(
            f"{where}: {kind} is no calibration data; give an iterable of dicts of arrays, or an object with get_next()"
        )
    return stream_chunks(source, where, fit, samples)


def _path_chunks(path: Path, fit: Fit, samples: int, seed: int, shapes: Mapping[str, Sequence[int]]) -> list[Chunk]:
    if path.is_dir():
        return folder_chunks(path, fit, samples, seed, shapes)
    if not path.exists():
        raise ModelError(f"{path}: no such file or folder; check the path")
    inputs = [i.name for i in fit.wanted.inputs]
    if path.suffix == ".npz":
        held: Held = read_npz(path)
    elif path.suffix == ".npy" and len(inputs) == 1:
        held = {inputs[0]: map_npy(path)}
    elif path.suffix == ".npy":
        raise ModelError(
            f"{path}: holds one array, but the model has the inputs {listed(inputs)}; save them in one npz file"
        )
    else:
        raise UsageError(f"{path}: is no calibration data; give an npz file, a folder, or file.py:function")
    return fit.chunks(str(path), lambda: held, images=True)


def _first(chunks: Sequence[Chunk], samples: int) -> list[Chunk]:
    """Chunks that hold the first samples; one run is never cut."""
    found: list[Chunk] = []
    for chunk in chunks:
        if samples <= 0:
            break
        found.append(chunk if chunk.shape is None else replace(chunk, count=min(chunk.count, samples)))
        samples -= chunk.count
    return found


def _names(chunks: Sequence[Chunk]) -> tuple[tuple[int, int, str], ...]:
    """First sample, number of samples and file of each chunk that has a name."""
    firsts = accumulate((chunk.count for chunk in chunks), initial=0)
    return tuple((first, c.count, c.name) for first, c in zip(firsts, chunks, strict=False) if c.name)


def _mask(wanted: Signature, given: str | None) -> str | None:
    """The input that marks padding.

    Raises:
        UsageError: the one that is given does not have the shape of a mask.
    """
    inputs = {i.name: i for i in wanted.inputs}
    if given is not None:
        if given not in inputs or inputs[given].rank not in (None, 2):
            pairs = listed(i.name for i in wanted.inputs if i.rank == 2)
            raise UsageError(f"mask {given!r}: is no input (N, S) of the model; those of two axes are {pairs}")
        return given
    found = inputs.get(_MASK)
    same = found and found.rank == 2 and any(i.dims == found.dims for i in wanted.inputs if i is not found)
    return _MASK if same else None
