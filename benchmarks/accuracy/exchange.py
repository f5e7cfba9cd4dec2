"""What a contestant's process is given and what it leaves; numpy and onnx only, so that it runs in any environment.

A contestant is a script that calls `serve(prune)`. The folder of its one argument holds `request.json`:

    model      path of the dense model
    shapes     input -> shape at which multiply-accumulates are counted
    options    whatever the contestant takes
    mask       input that marks padding, "" where there is none

and `calibration.npz` where the contestant is calibrated. It leaves `pruned.onnx` and `answer.json`.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

Feeds = dict[str, Any]
Answer = dict[str, Any]
Work = Callable[[onnx.ModelProto, dict[str, Any], list[Feeds] | None], tuple[onnx.ModelProto, Answer]]
ERROR_LENGTH = 400


def write_batches(path: Path, batches: list[Feeds]) -> None:
    """Stores batches, whose shapes may differ."""
    np.savez(path, **{f"{k:05}/{name}": values for k, batch in enumerate(batches) for name, values in batch.items()})


def read_batches(path: Path) -> list[Feeds]:
    """The batches in their order."""
    batches: dict[str, Feeds] = {}
    with np.load(path) as held:
        for key in held.files:
            number, name = key.split("/", 1)
            batches.setdefault(number, {})[name] = held[key]
    return [batches[number] for number in sorted(batches)]


def serve(prune: Work) -> None:
    """Runs a contestant: times it, and keeps what it raises as text."""
    folder = Path(sys.argv[1])
    request = json.loads((folder / "request.json").read_text())
    stored = folder / "calibration.npz"
    data = read_batches(stored) if stored.exists() else None
    model = onnx.load(request["model"])
    answer: Answer = {"loaded_mb": peak_mb()}
    start = time.perf_counter()
    try:
        pruned, more = prune(model, request, data)
    except Unsupported as error:
        answer |= {"status": "unsupported", "error": str(error)}
    except NothingPruned as error:
        answer |= {"status": "nothing", "error": str(error)}
    except Exception as error:  # whatever a contestant raises is its result
        answer |= {"status": "error", "error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:ERROR_LENGTH]}
    else:
        answer |= {"status": "ok", "seconds": round(time.perf_counter() - start, 2), "peak_mb": peak_mb(), **more}
        onnx.save(pruned, folder / "pruned.onnx")
    (folder / "answer.json").write_text(json.dumps(answer))


class Unsupported(Exception):  # noqa: N818
    """The installed version of a contestant lacks what is asked of it."""


class NothingPruned(Exception):  # noqa: N818
    """A contestant found nothing that it can remove."""


def peak_mb() -> int:
    """Peak resident memory of this program, in MB (1 MB = 10^6 bytes).

    Linux's `VmHWM` starts anew with the program, unlike `ru_maxrss`, which counts the process that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 // 10**6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 // 10**6


def accepted(function: Callable[..., Any], wanted: Mapping[str, Any]) -> None:
    """Raises where a function lacks a parameter.

    Raises:
        Unsupported: it lacks one.
    """
    import inspect

    missing = [name for name in wanted if name not in inspect.signature(function).parameters]
    if missing:
        raise Unsupported(f"{function.__name__} has no parameter {', '.join(map(repr, missing))}")
