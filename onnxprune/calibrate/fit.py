"""Arrays by name are fitted to the inputs of a model, and cut into samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from onnxprune.calibrate.batch import Chunk, Feeds
from onnxprune.calibrate.images import resized
from onnxprune.calibrate.pixels import PixelInput, pixel_input, stored_images, stored_preprocess
from onnxprune.calibrate.preprocess import Preprocess
from onnxprune.calibrate.signature import Array, Input, Signature, described, family, listed
from onnxprune.errors import ModelError

Held = Mapping[str, Array]
_IMAGES = ("calibration", "images")
_ANSWERS = ("labels", "targets")
_STORED = ("mean", "std")


@dataclass(frozen=True)
class _Column:
    """Where an input comes from."""

    count: int
    shape: tuple[int, ...]
    rows: Callable[[Held, int, int], Array]


@dataclass(frozen=True)
class Fit:
    """Fits arrays to a model.

    Attributes:
        wanted: the inputs.
        preprocess: for uint8 pixels; None: they can't be fed to an input of floats.
        outputs: of the model: the data is for an evaluation, so what lies beside the inputs is read too. `labels`,
            `targets` and what has the name of an output must have a row for each sample, other arrays are taken if they do.
    """

    wanted: Signature
    preprocess: Preprocess | None
    outputs: tuple[str, ...] | None = None

    @property
    def pixels(self) -> tuple[str, ...]:
        """Names that uint8 images may have: an evaluation never takes those that are there to calibrate."""
        return _IMAGES if self.outputs is None else _IMAGES[1:]

    def chunks(self, where: str, load: Callable[[], Held], *, images: bool = False) -> list[Chunk]:
        """Samples in arrays with names of inputs, `(N, ...)`, or one sample without the first axis.

        Where the inputs have no batch axis in common, the arrays are one run, or `(N, ...)` of them.

        Args:
            where: file or other origin, for errors.
            load: gives the arrays; called again whenever samples are read.
            images: uint8 images may have the names `calibration` or `images`, with `mean` and `std`.

        Raises:
            ModelError: an array is missing, or does not fit its input.
        """
        held, inputs = load(), self.wanted.inputs
        pixels = self._images(held) if images else ""
        if not pixels:
            self.check_names(where, held, images=images)
        if not self.wanted.batched:
            return self._runs(where, load, held)
        if pixels:
            columns = {inputs[0].name: self._stored(where, pixels, held)}
        else:
            columns = {i.name: self._column(where, i, held[i.name]) for i in inputs}
        single = not pixels and all(i.rank is not None and held[i.name].ndim == i.rank - 1 for i in inputs)
        others = self._others(held, single, next(iter(columns.values())).count)
        counts = {name: c.count for name, c in columns.items()} | {n: c for n, c in others.items() if self._answers(n)}
        if len(set(counts.values())) != 1 or not max(counts.values()):
            raise ModelError(f"{where}: needs the same number of samples, at least one, in each array, not {counts}")

        def rows(start: int, stop: int) -> Feeds:
            now = load()
            return {name: column.rows(now, start, stop) for name, column in columns.items()}

        def extras(start: int, stop: int) -> Feeds:
            now = load()
            return {n: (now[n][np.newaxis] if single else np.atleast_1d(now[n]))[start:stop] for n in others}

        shape = tuple((name, *c.shape) for name, c in columns.items())
        return [Chunk(max(counts.values()), rows, shape, extras if others else None)]

    def _others(self, held: Held, single: bool, count: int) -> dict[str, int]:
        """Rows of each array that is no input."""
        rows = {n: 1 if single else len(np.atleast_1d(held[n])) for n in self._beside(held)}
        return {n: k for n, k in rows.items() if k == count or self._answers(n)}

    def _answers(self, name: str) -> bool:
        return name in (*_ANSWERS, *(self.outputs or ()))

    def _beside(self, held: Held) -> list[str]:
        """Names of what is no input, where it was asked for."""
        known = {*(i.name for i in self.wanted.inputs), *_IMAGES, *_STORED}
        return [] if self.outputs is None else [n for n in held if n not in known]

    def _images(self, held: Held) -> str:
        """Name of the images that are normalised; empty where the arrays are what the model takes."""
        value = self.wanted.inputs[0]
        raw = value.name in self.pixels and value.dtype.kind == "f" and self.preprocess is None
        if len(self.wanted.inputs) > 1 or (value.name in held and not (raw and held[value.name].dtype == np.uint8)):
            return ""
        return next((n for n in self.pixels if n in held), "")

    def check_names(self, where: str, names: Iterable[str], *, images: bool = False) -> None:
        """Makes sure that there is an array for each input.

        Raises:
            ModelError: there is not.
        """
        names, inputs = list(names), [i.name for i in self.wanted.inputs]
        if not set(inputs) <= set(names):
            needed = f"one for each input of the model ({listed(inputs)})"
            others = ", or 'images' for a model with one input" if images else ""
            raise ModelError(f"{where}: has the arrays {listed(names)}, but needs {needed}{others}")

    def _column(self, where: str, value: Input, array: Array) -> _Column:
        single = value.rank is not None and array.ndim == value.rank - 1
        batch = array[np.newaxis] if single else array
        if self.preprocess and batch.dtype == np.uint8 and batch.ndim in (3, 4) and value.rank in (None, batch.ndim):
            last = _channels_last(where, value, batch)

            def view(found: Array) -> Array:
                found = found[np.newaxis] if single else found
                return found[..., np.newaxis] if found.ndim == 3 else found if last else found.transpose(0, 2, 3, 1)

            images = view(array)
            target = pixel_input(where, value, images.shape[3], self.preprocess).sized()
            return _pixels(where, target, images, lambda held: view(held[value.name]))
        value.check_shape(where, batch)
        value.check_type(where, batch)
        if not batch.ndim:
            raise ModelError(f"{where}: {described(array)} for input {value.name!r} has no axis of samples")

        def rows(held: Held, start: int, stop: int) -> Array:
            found = held[value.name]
            return _plain(where, value, (found[np.newaxis] if single else found)[start:stop])

        return _Column(len(batch), batch.shape[1:], rows)

    def _stored(self, where: str, name: str, held: Held) -> _Column:
        images = stored_images(where, name, held[name])
        preprocess = self.preprocess or stored_preprocess(where, held)
        target = pixel_input(where, self.wanted.inputs[0], images.shape[3], preprocess)
        return _pixels(
            where, target.sized() if self.preprocess else target, images, lambda now: stored_images(where, name, now[name])
        )

    def _runs(self, where: str, load: Callable[[], Held], held: Held) -> list[Chunk]:
        inputs = self.wanted.inputs
        stacked = all(i.rank is not None and held[i.name].ndim == i.rank + 1 for i in inputs)
        counts = {i.name: len(held[i.name]) for i in inputs if held[i.name].ndim}
        if stacked and (len(set(counts.values())) != 1 or not max(counts.values())):
            raise ModelError(f"{where}: needs the same number of runs, at least one, in each array, not {counts}")
        for i in inputs:
            i.check_shape(where, held[i.name][0] if stacked else held[i.name], batch=False)
            i.check_type(where, held[i.name])

        def run(k: int | None, start: int, stop: int) -> Feeds:
            now = load()
            return {i.name: _plain(where, i, now[i.name] if k is None else now[i.name][k]) for i in inputs}

        axis = 1 if stacked else 0
        rows = max((held[i.name].shape[axis] for i in inputs if held[i.name].ndim > axis), default=1)
        runs = max(counts.values()) if stacked else 1
        others = [n for n in self._others(held, False, runs) if len(held[n]) == runs] if stacked else self._beside(held)

        def extras(k: int | None, start: int, stop: int) -> Feeds:
            now = load()
            return {n: np.atleast_1d(now[n] if k is None else now[n][k]) for n in others}

        which: list[int | None] = list(range(runs)) if stacked else [None]
        return [Chunk(rows, partial(run, k), None, partial(extras, k) if others else None) for k in which]


def _plain(where: str, value: Input, array: Array) -> Array:
    """In the type of the input.

    Raises:
        ModelError: it holds NaN or infinity, which would spread to all statistics; -inf may be an additive mask.
    """
    if family(array.dtype) == "float" and not (array < np.inf).all():
        found = "NaN" if np.isnan(array).any() else "infinity"
        raise ModelError(f"{where}: the values for input {value.name!r} hold {found}; leave these samples out")
    return value.converted(array)


def _channels_last(where: str, value: Input, batch: Array) -> bool:
    """Of uint8 images `(N, H, W)`, `(N, H, W, C)` or `(N, C, H, W)`."""
    if batch.ndim == 3 or batch.shape[3] in (1, 3, 4):
        return True
    if batch.shape[1] in (1, 3, 4):
        return False
    raise ModelError(f"{where}: {described(batch)} for input {value.name!r} are no images of 1, 3 or 4 channels")


def _pixels(where: str, target: PixelInput, images: Array, select: Callable[[Held], Array]) -> _Column:
    """Images `(N, H, W, C)`, and how they are found again among the arrays."""
    count, *size, channels = images.shape
    final = target.preprocess.final((size[0], size[1]))
    target.check_size(where, final)

    def rows(held: Held, start: int, stop: int) -> Array:
        return target.feed(resized(where, select(held)[start:stop], target.preprocess))

    return _Column(count, (*final, channels), rows)
