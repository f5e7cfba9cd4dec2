"""`onnxprune bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from typer.core import TyperCommand

from onnxprune.cli import options, values
from onnxprune.cli.screen import Screen, to_json
from onnxprune.errors import BudgetError, UsageError

if TYPE_CHECKING:
    from onnxprune.bench.result import Benchmark, Configuration, Measurement

_LISTS = ("--providers", "--provider")
_FILES = (".onnx", ".ort", ".pb")
_MEASURE, _WRITE = "How to measure", "What to write"


class BenchCommand(TyperCommand):
    """A command whose `--providers` takes several values: all that follow, up to an option or a file."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeats the option before each of its values."""
        found: list[str] = []
        listing = False
        for k, text in enumerate(args):
            follows = listing and args[k - 1] not in _LISTS
            if text.startswith("-") or (follows and (text.endswith(_FILES) or Path(text).exists())):
                listing = text in _LISTS
            elif follows:
                found.append(_LISTS[0])
            found.append(text)
        parsed: list[str] = super().parse_args(ctx, found)
        return parsed


def bench(
    context: typer.Context,
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL", help="Models; the first is compared with.", show_default=False)
    ],
    providers: Annotated[
        list[str] | None,
        typer.Option(
            "--providers",
            "--provider",
            metavar="NAME...",
            help="Providers: cpu cuda:device_id=0,... tensorrt+cuda; + joins those that share a model; default cpu.",
            show_default=False,
        ),
    ] = None,
    libraries: Annotated[
        list[Path] | None,
        typer.Option("--library", metavar="PATH", help="Of a plug-in provider; takes device=gpu|npu|cpu too. Repeatable."),
    ] = None,
    allow_fallback: Annotated[
        bool, typer.Option("--allow-fallback", help="Nodes may run on providers that were not asked for.")
    ] = False,
    batch: Annotated[
        str | None, typer.Option(metavar="N,N,...", help="Samples of a run; default 1.", show_default=False)
    ] = None,
    threads: Annotated[str, typer.Option(metavar="N,N,...", help="Threads of an operator; 0: as ORT chooses.")] = "0",
    data: Annotated[
        str | None, typer.Option(metavar="PATH", help="Inputs from npz, folder, or file.py:function; else made up.")
    ] = None,
    preprocess: Annotated[str | None, options.preprocess()] = None,
    shape: Annotated[list[str] | None, options.shape()] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of inputs and orders.")] = 0,
    processes: Annotated[
        int, typer.Option(metavar="N", min=4, help="At least N processes of each model.", rich_help_panel=_MEASURE)
    ] = 10,
    seconds: Annotated[
        float,
        typer.Option(metavar="S", min=0, help="After S seconds start no more than needed.", rich_help_panel=_MEASURE),
    ] = 60.0,
    precision: Annotated[
        float,
        typer.Option(metavar="P", help="Enough once ratios are known as well as +-P.", rich_help_panel=_MEASURE),
    ] = 0.01,
    confidence: Annotated[float, typer.Option(metavar="P", help="Of the intervals.", rich_help_panel=_MEASURE)] = 0.99,
    io_binding: Annotated[
        bool | None,
        typer.Option(
            "--io-binding/--no-io-binding",
            help="Tensors stay on the device; transfers are timed apart. Default: where the provider has one.",
            show_default=False,
            rich_help_panel=_MEASURE,
        ),
    ] = None,
    cuda_graph: Annotated[
        bool, typer.Option("--cuda-graph", help="Capture and replay CUDA graphs.", rich_help_panel=_MEASURE)
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Also the time of each operator and node.", rich_help_panel=_WRITE)
    ] = False,
    min_speedup: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Exit with code 4 unless the whole interval of each ratio is at X or above.",
            rich_help_panel=_WRITE,
        ),
    ] = None,
    json: Annotated[bool, options.json(rich_help_panel=_WRITE)] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="JSON", help="Write it to a file.", rich_help_panel=_WRITE)
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Write one line for each figure.", rich_help_panel=_WRITE)
    ] = None,
) -> None:
    """Measure latency and memory of models side by side."""
    screen = cast(Screen, context.obj)
    if min_speedup is not None and (len(models) < 2 or min_speedup <= 0):
        raise UsageError("--min-speedup needs a second model, and a number above 0")
    values.check_outputs(models, [output, csv])
    from onnxprune.bench.request import BenchRequest
    from onnxprune.bench.run import benchmark
    from onnxprune.calibrate.preprocess import parse_preprocess
    from onnxprune.report.provenance import command_line

    request = BenchRequest(
        providers=tuple(providers or ["cpu"]),
        batch=_numbers("--batch", batch, 1) if batch is not None else (),
        threads=_numbers("--threads", threads, 0),
        data=data,
        preprocess=parse_preprocess(preprocess) if preprocess else None,
        shapes=values.shapes(shape or []),
        processes=processes,
        seconds=seconds,
        precision=precision,
        confidence=confidence,
        allow_fallback=allow_fallback,
        bound=io_binding,
        cuda_graph=cuda_graph,
        libraries=tuple(libraries or []),
        profile=profile,
        seed=seed,
    )
    with screen.progress() as progress:
        found = benchmark(models, request=request, command=command_line(), progress=progress)
    _write(screen, found, as_json=json, output=output, csv=csv)
    if min_speedup is not None:
        _gate(found, min_speedup)


def _numbers(option: str, text: str, least: int) -> tuple[int, ...]:
    """Numbers from text such as `1,8,32`, each once."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) >= least for part in parts):
        raise UsageError(f"{option} {text}: needs whole numbers from {least} on, such as 1,8,32")
    return tuple(dict.fromkeys(int(part) for part in parts))


def _write(screen: Screen, found: Benchmark, *, as_json: bool, output: Path | None, csv: Path | None) -> None:
    from onnxprune.bench.export import to_csv
    from onnxprune.bench.tables import benchmark_tables
    from onnxprune.io.save import save_text

    if output is not None:
        save_text(to_json(found.to_dict()), output)
    if csv is not None:
        save_text(to_csv(found), csv)
    if as_json:
        screen.document(found.to_dict())
    else:
        screen.show(*benchmark_tables(found, verbose=screen.verbose))


def _gate(found: Benchmark, bound: float) -> None:
    """Raises `BudgetError` where a model is not surely fast enough."""
    missed = [
        _missed(c, m) for c in found.configurations for m in c.measurements if m.speedup and not m.speedup.clears(bound)
    ]
    if missed:
        raise BudgetError(f"--min-speedup {bound:g} is not cleared by {'; '.join(missed)}")


def _missed(configuration: Configuration, found: Measurement) -> str:
    from onnxprune.bench.tables import speedup_text

    assert found.speedup is not None
    where = f"{configuration.provider}, batch {configuration.batch}"
    return f"{found.model} on {where}: {speedup_text(found.speedup)}"
