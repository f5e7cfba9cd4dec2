"""Options that several commands have in the same words."""

from __future__ import annotations

from typing import Annotated

import typer

_DATA, _WORK = "Data", "Workers"

RoundTo = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Keep multiples of N channels; a target keeps those that suit kernels, unless given.",
        rich_help_panel="What goes",
        show_default=False,
    ),
]
Samples = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Use at most N samples; 512 unless given.", rich_help_panel=_DATA)
]
Preprocess = Annotated[
    str | None, typer.Option(metavar="KEY=VALUE,...", help="For images: size, mean, std ...", rich_help_panel=_DATA)
]
Mask = Annotated[str | None, typer.Option(metavar="INPUT", help="Input whose zeros mark padding.", rich_help_panel=_DATA)]
Metric = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="accuracy, top5, perplexity, mse, cosine or file.py:function.", rich_help_panel=_DATA),
]
Labels = Annotated[str | None, typer.Option(metavar="PATH", help="Labels for --eval.", rich_help_panel=_DATA)]
Shape = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=N,N,...", help="Shape of an input. Repeatable.", rich_help_panel=_DATA),
]
MemoryBudget = Annotated[
    float, typer.Option(metavar="GB", min=0.01, help="Activations held in memory.", rich_help_panel=_WORK)
]
Workers = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Processes; one for each core unless given.", rich_help_panel=_WORK),
]
Backend = Annotated[str, typer.Option(metavar="processes|dask|ray", help="Where evaluations run.", rich_help_panel=_WORK)]
Address = Annotated[str | None, typer.Option(metavar="URL", help="Of the cluster.", rich_help_panel=_WORK)]
