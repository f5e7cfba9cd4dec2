"""Samples that Python code hands out: dicts of arrays, from an iterable or from `get_next()`."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np

from onnxprune.calibrate.batch import Chunk
from onnxprune.calibrate.fit import Fit
from onnxprune.calibrate.signature import Array, listed
from onnxprune.errors import ModelError, OnnxPruneError, UsageError
from onnxprune.proof.session import first_line

_FUNCTION = re.compile(r"(?P<path>.+\.py):(?P<name>\w+)")


@runtime_checkable
class Reader(Protocol):
    """What ONNX Runtime calls a CalibrationDataReader."""

    def get_next(self) -> Mapping[str, Any] | None:
        """Feeds of the next run, None at the end."""


def stream_chunks(source: Reader | Iterable[Mapping[str, Any]], name: str, fit: Fit, samples: int) -> list[Chunk]:
    """The first samples of a stream. They are kept: it may be one that can be read only once.

    Args:
        source: a reader, an iterable of dicts, or one dict.
        name: of the source, for errors.
        fit: to the model.
        samples: the most that are wanted; no more is asked for.

    Raises:
        ModelError: the code fails, yields nothing, or something that does not fit the model.
    """
    stable = isinstance(source, (Sequence, Mapping))  # others may fill the same array again and again
    names = [i.name for i in fit.wanted.inputs]
    chunks: list[Chunk] = []
    count = 0
    for k, item in enumerate(_items(source, name)):
        where = f"{name}: item {k}"
        if not isinstance(item, Mapping):
            kind = type(item).__name__
            raise ModelError(f"{where}: has to be a dict of arrays by input name ({listed(names)}), not {kind}")
        taken = [n for n in item if n in names or fit.outputs is not None]
        held = {n: _array(where, n, item[n], copy=not stable) for n in taken}
        if len(held) < len(names):
            fit.check_names(where, list(item))
        found = fit.chunks(where, partial(dict, held))
        chunks += found
        count += sum(chunk.count for chunk in found)
        if count >= samples:
            break
    if not chunks:
        raise ModelError(f"{name}: yields no samples")
    return chunks


def _items(source: Reader | Iterable[Mapping[str, Any]], name: str) -> Iterator[Any]:
    try:
        if isinstance(source, Reader):
            yield from iter(source.get_next, None)
        elif isinstance(source, Mapping):
            yield source
        else:
            yield from source
    except OnnxPruneError:
        raise
    except Exception as error:
        raise ModelError(f"{name}: fails with {type(error).__name__} ({first_line(error)})") from error


def _array(where: str, name: str, value: Any, *, copy: bool) -> Array:
    try:
        return np.array(value) if copy else np.asarray(value)
    except Exception as error:
        raise ModelError(f"{where}: {name!r} is no array ({first_line(error)})") from error


def split_function(text: str) -> tuple[Path, str] | None:
    """File and function of a text such as `data.py:samples`; None where it is none."""
    match = _FUNCTION.fullmatch(text)
    return (Path(match["path"]), match["name"]) if match else None


@contextmanager
def imports_from(folder: Path) -> Iterator[None]:
    """Python files in the folder can be imported by their names."""
    place = str(folder.resolve())
    sys.path.insert(0, place)
    try:
        yield
    finally:
        sys.path.remove(place)


def call_function(path: Path, name: str) -> Any:
    """What a function of a Python file returns, called without arguments.

    Raises:
        ModelError: the file is missing, or its code fails.
        UsageError: it has no such function.
    """
    function = load_function(path, name)
    try:
        return function()
    except OnnxPruneError:
        raise
    except Exception as error:
        raise ModelError(f"{path}: {name} fails with {type(error).__name__} ({first_line(error)})") from error


def load_function(path: Path, name: str, purpose: str = "calibration") -> Callable[..., Any]:
    """A function of a Python file.

    Raises:
        ModelError: the file is missing, or its code fails.
        UsageError: it has no such function.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such file; check the path")
    spec = importlib.util.spec_from_file_location(f"{purpose}_{path.stem}", path)
    assert spec and spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except OnnxPruneError:
        raise
    except Exception as error:
        raise ModelError(f"{path}: {name} fails with {type(error).__name__} ({first_line(error)})") from error
    function = getattr(module, name, None)
    if callable(function):
        return cast("Callable[..., Any]", function)
    known = listed(n for n, value in vars(module).items() if callable(value) and n[0] != "_")
    raise UsageError(f"{path}: has no function {name!r}; it has {known}")
