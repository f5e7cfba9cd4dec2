"""Options that several commands have in the same words.

Types declare an option as a whole. Functions declare one that stands in different panels of the help, as commands say.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

CHOICE, DATA, WORK, FILES, LATENCY = "What goes", "Data", "Workers", "Files and output", "Latency"

# ---- in any panel ----

data = partial(
    typer.Option,
    metavar="PATH",
    help="Unlabelled samples: npz, folder, file.py:function; random ones ('synthetic') unless given.",
)
preprocess = partial(typer.Option, metavar="KEY=VALUE,...", help="For images: size, mean, std ...")
mask = partial(typer.Option, metavar="INPUT", help="Input whose zeros mark padding.")
metric = partial(
    typer.Option,
    metavar="NAME",
    help="accuracy, top5, perplexity, mse, cosine or file.py:function; by the data, unless given.",
)
shape = partial(typer.Option, metavar="NAME=N,N,...", help="Shape of an input. Repeatable.")
width = partial(typer.Option, "--width", help="Also groups that a statistic runs over (inexact).")
memory_budget = partial(typer.Option, metavar="GB", min=0.01, help="Activations held in memory.")
provider = partial(typer.Option, metavar="NAME", help="Execution provider: cpu, cuda:device_id=1. Repeatable.")
latency_cache = partial(
    typer.Option,
    metavar="DIR",
    help="Keep measured times here; the user's cache folder unless given.",
    show_default=False,
)
json = partial(typer.Option, "--json", help="Print one JSON document instead of tables.")

# ---- what goes ----

RoundTo = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Keep multiples of N channels; a target keeps those that suit kernels, unless given.",
        rich_help_panel=CHOICE,
        show_default=False,
    ),
]
Ignore = Annotated[
    list[str] | None,
    typer.Option(metavar="GLOB", help="Groups, initializers or nodes that stay. Repeatable.", rich_help_panel=CHOICE),
]
Only = Annotated[
    list[str] | None,
    typer.Option(metavar="GLOB", help="Groups, initializers or nodes that may go. Repeatable.", rich_help_panel=CHOICE),
]
Attention = Annotated[
    str, typer.Option(metavar="heads|head-dim|both|off", help="What goes of attention.", rich_help_panel=CHOICE)
]
Width = Annotated[bool, width(rich_help_panel=CHOICE)]

# ---- data ----

Data = Annotated[str | None, data(rich_help_panel=DATA)]
Samples = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Use at most N samples; 512 unless given.", rich_help_panel=DATA)
]
Preprocess = Annotated[str | None, preprocess(rich_help_panel=DATA)]
Mask = Annotated[str | None, mask(rich_help_panel=DATA)]
Metric = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="accuracy, top5, perplexity, mse, cosine or file.py:function.", rich_help_panel=DATA),
]
Labels = Annotated[str | None, typer.Option(metavar="PATH", help="Labels for --eval.", rich_help_panel=DATA)]
Shape = Annotated[list[str] | None, shape(rich_help_panel=DATA)]
Seed = Annotated[int, typer.Option(metavar="N", min=0, help="Seed of random samples.", rich_help_panel=DATA)]

# ---- workers ----

MemoryBudget = Annotated[float, memory_budget(rich_help_panel=WORK)]
Workers = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Processes; one for each core unless given.", rich_help_panel=WORK),
]
Backend = Annotated[str, typer.Option(metavar="processes|dask|ray", help="Where evaluations run.", rich_help_panel=WORK)]
Address = Annotated[str | None, typer.Option(metavar="URL", help="Of the cluster.", rich_help_panel=WORK)]
Provider = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Execution provider of samples and times. Repeatable.", rich_help_panel=WORK),
]

# ---- latency ----

Threads = Annotated[
    int,
    typer.Option(metavar="N", min=0, help="With --latency: threads; 0: ONNX Runtime's own choice.", rich_help_panel=LATENCY),
]
BatchSize = Annotated[
    int, typer.Option(metavar="N", min=1, help="With --latency: samples of a run.", rich_help_panel=LATENCY)
]
LatencyCache = Annotated[Path | None, latency_cache(rich_help_panel=LATENCY)]

# ---- files and output ----

Json = Annotated[bool, json(rich_help_panel=FILES)]
