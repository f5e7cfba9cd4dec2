"""One simplification: read, run the passes, write, prove."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from onnx import ModelProto, TensorProto

from onnxprune.cleanup.driver import run_passes
from onnxprune.cleanup.exchange import give_back, take_in
from onnxprune.cleanup.naming import settle_names
from onnxprune.cleanup.opset import raise_opset
from onnxprune.cleanup.reading import Options
from onnxprune.cleanup.registry import Pass, all_passes
from onnxprune.cleanup.result import PassRecord, SimplifyReport, SimplifyResult, operators
from onnxprune.cleanup.verify import verify_same
from onnxprune.cleanup.work import Work
from onnxprune.errors import UsageError, VerificationError
from onnxprune.io.check import complaint
from onnxprune.io.load import load_in_place
from onnxprune.io.structure import model_size
from onnxprune.io.walk import tensors
from onnxprune.prepare.prepare import check_shapes

Source: TypeAlias = str | os.PathLike[str] | ModelProto
Progress: TypeAlias = Callable[[str, float], None]
SIZE_THRESHOLDS = (1 << 16, 4096, 512, 0)  # tried in turn as long as the whole file would grow
_OLDEST = 1


def simplify(
    model: Source,
    *,
    passes: Collection[str] | None = None,
    skip: Collection[str] = (),
    opset: int | None = None,
    size_threshold: int | None = None,
    keep_defaults: bool = False,
    check: bool = True,
    shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> SimplifyResult:
    """The smallest graph that computes the same function.

    Inputs and outputs, metadata and random operators stay as they are; the file does not grow, unless a size threshold says
    that it may; what is simple already comes back unchanged.

    Args:
        model: path or model; not changed. External data is left in its files until a pass needs it.
        passes: names of the passes that run; all where not given.
        skip: names of passes that don't run.
        opset: version of the ONNX domain that the model is raised to first, for operators that only it has.
        size_threshold: bytes by which the file may grow for one constant that takes the place of nodes. Where it is not
            given, a constant may take 64 KiB more as long as the whole file does not grow.
        keep_defaults: treat inputs that have an initializer as inputs, which they are from IR version 4 on, instead of as
            the constants that exporters mean.
        check: compare the result with the source on random inputs.
        shapes: concrete shapes of inputs with symbolic dimensions, for the check.
        seed: of the random inputs.
        progress: called with what is being done and the share that is done, 0..1.

    Raises:
        ModelError: the model can't be read or is not valid, or a shape does not fit it.
        UsageError: there is no such pass, or the opset is older than the model's or newer than onnx knows.
        VerificationError: the result does not compute the same; this is a bug of ours, and nothing is returned.
    """
    tell = progress or (lambda what, share: None)
    start = time.perf_counter()
    chosen = _choose(passes, skip)
    tell("load", 0.0)
    source, folder = _read(model)
    if size_threshold is not None and size_threshold < 0:
        raise UsageError(f"size threshold {size_threshold}: has to be 0 or more")
    check_shapes(source, shapes or {})
    raised = raise_opset(source, opset)
    made, records, threshold = _smallest(raised, source, folder, chosen, size_threshold, keep_defaults, tell)
    report = SimplifyReport(
        operators(source),
        operators(made),
        model_size(source),
        model_size(made),
        records,
        time.perf_counter() - start,
        threshold,
    )
    if check:
        tell("check", 0.8)
        _check(source, made, folder, report, shapes, seed)
    tell("done", 1.0)
    return SimplifyResult(made, report, folder)


def _read(model: Source) -> tuple[ModelProto, Path | None]:
    """The model, and the folder of its external files where it has any."""
    if isinstance(model, ModelProto):
        return model, None
    proto = load_in_place(model, oldest=_OLDEST)
    external = any(t.data_location == TensorProto.EXTERNAL for t in tensors(proto))
    return proto, Path(model).resolve().parent if external else None


def _choose(passes: Collection[str] | None, skip: Collection[str]) -> list[Pass]:
    known = all_passes()
    names = [p.name for p in known]
    for name in (*(passes or ()), *skip):
        if name not in names:
            raise UsageError(f"there is no pass {name!r}; there are {', '.join(names)}")
    return [p for p in known if (passes is None or p.name in passes) and p.name not in skip]


def _smallest(
    raised: ModelProto,
    source: ModelProto,
    folder: Path | None,
    chosen: list[Pass],
    threshold: int | None,
    keep_defaults: bool,
    tell: Progress,
) -> tuple[ModelProto, dict[str, PassRecord], int]:
    """The result with the largest threshold that lets the file not grow; the source itself where nothing changed.

    A newer opset may need more bytes by itself.
    """
    before = max(model_size(source), model_size(raised))
    tries = SIZE_THRESHOLDS if threshold is None else (threshold,)
    for tried in tries:
        made, records = _run(raised, folder, chosen, Options(tried, keep_defaults, threshold is not None), tell)
        if raised is source and not any(r.changes for r in records.values()):
            return source, records, tried
        if threshold is not None or model_size(made) <= before:
            return made, records, tried
    return raised, {p.name: PassRecord() for p in chosen}, 0


def _run(
    source: ModelProto, folder: Path | None, chosen: list[Pass], options: Options, tell: Progress
) -> tuple[ModelProto, dict[str, PassRecord]]:
    model, remembered = take_in(source, folder, keep_defaults=options.keep_defaults)
    work = Work(model, options)
    seen = 0

    def step(name: str) -> None:
        nonlocal seen
        seen += 1
        tell(name, 0.8 * (1 - 0.98 ** (seen / max(len(chosen), 1) * 10)))

    records = run_passes(work, chosen, step)
    settle_names(work)
    return give_back(model, remembered), records


def _check(
    source: ModelProto,
    made: ModelProto,
    folder: Path | None,
    report: SimplifyReport,
    shapes: Mapping[str, Sequence[int]] | None,
    seed: int,
) -> None:
    start = time.perf_counter()
    problem = complaint(made)
    if problem and not complaint(source):
        raise VerificationError(f"the result is not valid: {problem}; please report it")
    found = verify_same(source, made, folder, shapes=shapes, seed=seed)
    report.verification, report.unverified = (None, found) if isinstance(found, str) else (found, "")
    report.check_seconds = time.perf_counter() - start
    if report.verification is not None and not report.verification.passed:
        raise VerificationError(
            f"the result differs from the source: {report.verification.message}; nothing was written. "
            "Find the pass with --skip and report it"
        )
