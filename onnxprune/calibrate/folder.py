"""A folder of samples: npy, npz, serialized tensors or images. Its files are read anew in every pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np

from onnxprune.calibrate.arrays import map_npy, read_npz, read_tensor
from onnxprune.calibrate.batch import Chunk
from onnxprune.calibrate.fit import Fit, Held
from onnxprune.calibrate.images import SUFFIXES, image_chunks
from onnxprune.calibrate.signature import Array, listed
from onnxprune.errors import ModelError

_T = TypeVar("_T")
_SETS = "test_data_set_*"
_TENSORS = "input_*.pb"
_EXPECTED = "output_*.pb"


def folder_chunks(folder: Path, fit: Fit, samples: int, seed: int, shapes: Mapping[str, Sequence[int]]) -> list[Chunk]:
    """Samples of a folder.

    It holds one of

    * `test_data_set_*` folders with `input_K.pb`, a serialized tensor for the K-th input of the model, and for an
      evaluation `output_K.pb`;
    * npz files with an array for each input, or npy files for a model with one input;
    * a folder with the name of each input, with npy files of the same names in all of them;
    * images, also in folders below it.

    A file holds one sample, or a batch. Of more files than needed a subset is read, spread evenly over the sorted names.

    Args:
        folder: exists.
        fit: to the model.
        samples: the most that are wanted.
        seed: of the subset.
        shapes: of inputs, for images of a size that the model leaves open.

    Raises:
        ModelError: nothing of this is there, or it does not fit the model.
        UsageError: images lack their preprocessing, or Pillow.
    """
    inputs = [i.name for i in fit.wanted.inputs]
    sets = sorted((p for p in folder.glob(_SETS) if p.is_dir()), key=_number)
    if sets or any(folder.glob(_TENSORS)):
        return _spread(sets or [folder], partial(_set_chunks, fit), samples, seed, folder)
    npz, npy = _files(folder, ".npz"), _files(folder, ".npy")
    if npz and npy:
        raise ModelError(f"{folder}: holds both npz and npy files; leave those of one kind there")
    if npz:
        last_read = lru_cache(maxsize=1)(read_npz)
        return _spread(npz, lambda path: fit.chunks(str(path), partial(last_read, path), images=True), samples, seed, folder)
    if npy:
        if len(inputs) != 1:
            raise ModelError(f"{folder}: npy files lack the names of inputs; put them into folders named {listed(inputs)}")
        return _spread(npy, lambda path: fit.chunks(str(path), partial(_mapped, {inputs[0]: path})), samples, seed, folder)
    if any(_files(folder / name, ".npy") for name in inputs):
        names = [Path(name) for name in _shared_names(folder, inputs)]
        return _spread(names, lambda name: _named_chunks(folder, name.name, inputs, fit), samples, seed, Path())
    images = image_files(folder)
    if images:
        chosen = spread(images, samples, seed)
        chunks = image_chunks(chosen, fit.wanted, fit.preprocess, shapes.get(inputs[0]))
        return [replace(c, name=path.relative_to(folder).as_posix()) for c, path in zip(chunks, chosen, strict=True)]
    raise ModelError(
        f"{folder}: holds no calibration data: needs npz or npy files, folders {listed(inputs)} of npy files, "
        f"{_SETS} folders with {_TENSORS}, or images ({', '.join(s[1:] for s in SUFFIXES)})"
    )


def image_files(folder: Path) -> list[Path]:
    """Images of a folder and of those below it, by name."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.name[0] != "." and p.is_file())


def spread(items: Sequence[_T], count: int, seed: int) -> list[_T]:
    """At most `count` items in their order, one drawn from each of as many stretches of equal length."""
    if len(items) <= count:
        return list(items)
    rng = np.random.default_rng(seed)
    bounds = [k * len(items) // count for k in range(count + 1)]
    return [items[int(rng.integers(low, high))] for low, high in pairwise(bounds)]


def _spread(
    items: Sequence[Path], chunks: Callable[[Path], list[Chunk]], samples: int, seed: int, folder: Path
) -> list[Chunk]:
    """Chunks of as many items as give the number of samples, if all hold as many as the first."""
    held = sum(chunk.count for chunk in chunks(items[0]))
    chosen = spread(items, -(-samples // held), seed)
    names = ["" if item == folder else item.relative_to(folder).as_posix() for item in chosen]
    return [replace(c, name=name) for item, name in zip(chosen, names, strict=True) for c in chunks(item)]


def _files(folder: Path, suffix: str) -> list[Path]:
    return sorted(p for p in folder.glob(f"*{suffix}") if p.name[0] != "." and p.is_file())


def _number(path: Path) -> tuple[int, str]:
    """By the number at the end of the name: 2 before 10."""
    digits = path.stem.rpartition("_")[2]
    return int(digits) if digits.isdecimal() else 0, path.name


def _mapped(paths: Mapping[str, Path]) -> Held:
    return {name: map_npy(path) for name, path in paths.items()}


def _shared_names(folder: Path, inputs: Sequence[str]) -> list[str]:
    """Names of the files that are in the folder of every input."""
    found = {name: [p.name for p in _files(folder / name, ".npy")] for name in inputs}
    for name, files in found.items():
        missing = sorted({f for other in found.values() for f in other} - set(files))
        if missing:
            raise ModelError(f"{folder / name / missing[0]}: is missing; each input needs a file of every sample")
    return found[inputs[0]]


def _named_chunks(folder: Path, name: str, inputs: Sequence[str], fit: Fit) -> list[Chunk]:
    paths = {i: folder / i / name for i in inputs}
    return fit.chunks(f"{folder}/*/{name}", partial(_mapped, paths))


def _set_chunks(fit: Fit, folder: Path) -> list[Chunk]:
    """One run: `input_K.pb` belongs to the input of its tensor's name, else to the K-th one."""
    inputs = [i.name for i in fit.wanted.inputs]

    def load() -> Held:
        found: dict[str, Array] = {}
        for path in sorted(folder.glob(_TENSORS), key=_number):
            _put(found, path, inputs)
        if fit.outputs is not None:
            for path in sorted(folder.glob(_EXPECTED), key=_number):
                _put(found, path, fit.outputs)
        return found

    return fit.chunks(str(folder), load)


def _put(found: dict[str, Array], path: Path, names: Sequence[str]) -> None:
    """Stores a tensor under its own name if that is one of `names`, else by the number in the name of its file."""
    name, array = read_tensor(path)
    k = _number(path)[0]
    found[name if name in names else names[k] if k < len(names) else path.name] = array
