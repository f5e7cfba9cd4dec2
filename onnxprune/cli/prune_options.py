"""Options of `onnxprune prune`, by the panel of the help that they stand in; see also `onnxprune.cli.options`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxprune.cli import options

_CHOICE, _FILES = options.CHOICE, options.FILES
_DATA = "Calibration and recovery"
_CHECKS = "Checks and measurements"

Source = Annotated[Path, typer.Argument(metavar="IN", help="Model to prune; stays as it is.", show_default=False)]

# ---- what goes ----

Ratio = Annotated[
    list[str] | None,
    typer.Option(
        metavar="RATIO",
        help="Share of each group's units that goes, 0.5 unless given; GLOB=RATIO for some. Repeatable.",
        rich_help_panel=_CHOICE,
        show_default=False,
    ),
]
Target = Annotated[
    list[str] | None,
    typer.Option(
        metavar="QUANTITY=N",
        help="What may stay of macs, params, size, memory, latency: macs=0.5, size=10MB; drop=1%: lost of the metric. "
        "Repeatable.",
        rich_help_panel=_CHOICE,
        show_default=False,
    ),
]
Closest = Annotated[
    bool, typer.Option("--closest", help="If a target can't be met, write the closest model.", rich_help_panel=_CHOICE)
]
Criterion = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Importance of a unit; obs with samples or --merge, l2 without, unless given.",
        rich_help_panel=_CHOICE,
        show_default=False,
    ),
]
Ranking = Annotated[
    str | None,
    typer.Option(
        metavar="local|global|isomorphic|knapsack",
        help="Rank within each group, all groups together, or like ones; knapsack spends a target, and is what does "
        "with samples unless given.",
        rich_help_panel=_CHOICE,
        show_default=False,
    ),
]
MinChannels = Annotated[
    list[str] | None,
    typer.Option(
        metavar="N", help="Keep at least N units of a group; GLOB=N for some. Repeatable.", rich_help_panel=_CHOICE
    ),
]
Depth = Annotated[
    bool, typer.Option("--depth", help="A target may drop whole blocks, too; needs --data.", rich_help_panel=_CHOICE)
]
Lossless = Annotated[
    bool, typer.Option("--lossless", help="Remove only what provably does nothing.", rich_help_panel=_CHOICE)
]
LowRank = Annotated[
    bool,
    typer.Option("--low-rank", help="With --target: wide nodes may become two of a lower rank.", rich_help_panel=_CHOICE),
]

# ---- calibration and recovery ----

Data = Annotated[str | None, options.data(rich_help_panel=_DATA)]
Samples = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Use at most N samples; 512 unless given, random ones by the size of the model.",
        rich_help_panel=_DATA,
        show_default=False,
    ),
]
Preprocess = Annotated[str | None, options.preprocess(rich_help_panel=_DATA)]
Mask = Annotated[str | None, options.mask(rich_help_panel=_DATA)]
Reconstruct = Annotated[
    str | None,
    typer.Option(
        metavar="none|bias|affine|channel|lsq",
        help="Fit what stays to what the source computes; lsq unless given, none without samples.",
        rich_help_panel=_DATA,
        show_default=False,
    ),
]
Merge = Annotated[
    bool,
    typer.Option(
        "--merge", help="Fold what goes into what stays; needs no data. Equal tensors become one.", rich_help_panel=_DATA
    ),
]
MemoryBudget = Annotated[float, options.memory_budget(rich_help_panel=_DATA)]
Provider = Annotated[list[str] | None, options.provider(rich_help_panel=_DATA)]
Resume = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Keep finished fits here; go on from them.", rich_help_panel=_DATA),
]

# ---- checks and measurements ----

Threads = Annotated[
    int,
    typer.Option(metavar="N", min=0, help="Threads for a latency target; 0: ORT's own choice.", rich_help_panel=_CHECKS),
]
BatchSize = Annotated[
    int, typer.Option(metavar="N", min=1, help="Samples of a run, for a latency target.", rich_help_panel=_CHECKS)
]
LatencyCache = Annotated[Path | None, options.latency_cache(rich_help_panel=_CHECKS)]
Shape = Annotated[list[str] | None, options.shape(rich_help_panel=_CHECKS)]
Verify = Annotated[bool, typer.Option("--verify/--no-verify", help="Prove the surgery.", rich_help_panel=_CHECKS)]
Latency = Annotated[bool, typer.Option("--latency/--no-latency", help="Time both models.", rich_help_panel=_CHECKS)]
Evaluation = Annotated[
    str | None,
    typer.Option(
        "--eval", metavar="PATH", help="Score both models on this data, in any form of --data.", rich_help_panel=_CHECKS
    ),
]
Metric = Annotated[str | None, options.metric(rich_help_panel=_CHECKS)]
Labels = Annotated[
    str | None,
    typer.Option(
        metavar="PATH", help="Labels for --eval: npy, npz, csv, txt, or an array of the data.", rich_help_panel=_CHECKS
    ),
]
Seed = Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the random inputs.", rich_help_panel=_CHECKS)]

# ---- files and output ----

Output = Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="Pruned model.", rich_help_panel=_FILES)]
Simplify = Annotated[
    bool,
    typer.Option(
        "--simplify/--no-simplify", help="Write the smallest graph that computes the same.", rich_help_panel=_FILES
    ),
]
PlanOut = Annotated[Path | None, typer.Option(metavar="JSON", help="Write what was removed.", rich_help_panel=_FILES)]
ReportOut = Annotated[Path | None, typer.Option(metavar="JSON", help="Write all figures.", rich_help_panel=_FILES)]
CopyIfNothing = Annotated[
    bool, typer.Option("--copy-if-nothing", help="Write IN to OUT if nothing can go.", rich_help_panel=_FILES)
]
