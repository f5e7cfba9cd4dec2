"""`onnxprune score`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from onnxprune.cli import options, values
from onnxprune.cli.data import Data
from onnxprune.cli.screen import Screen
from onnxprune.errors import UsageError

if TYPE_CHECKING:
    from onnxprune.report.ranking import GroupRanking, InitializerRanking


def score(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="MODEL", help="Model to look at.", show_default=False)],
    criterion: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Importance of a unit; obs with data, l2 without.", show_default=False),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Unlabelled samples: npz, folder, file.py:function, or 'synthetic'."),
    ] = None,
    samples: Annotated[int, typer.Option(metavar="N", min=1, help="Use at most N samples.")] = 512,
    preprocess: Annotated[str | None, options.preprocess()] = None,
    mask: Annotated[str | None, options.mask()] = None,
    top: Annotated[int, typer.Option(metavar="N", min=0, help="Name the N least and most important of each.")] = 3,
    width: Annotated[bool, options.width()] = False,
    shape: Annotated[list[str] | None, options.shape()] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of criteria that draw numbers.")] = 0,
    plot: Annotated[Path | None, typer.Option(metavar="PNG|SVG", help="Write a figure (needs matplotlib).")] = None,
    json: Annotated[bool, options.json()] = False,
) -> None:
    """Rank the channels of every group and initializer."""
    screen = cast(Screen, context.obj)
    shapes = values.shapes(shape or [])
    criterion = criterion or ("l2" if data is None else "obs")
    _check_criterion(criterion)
    values.check_plot(plot)
    values.check_outputs([source], [plot])
    if (preprocess or mask) and data is None:
        raise UsageError("--preprocess and --mask need samples: give --data PATH")
    from onnxprune.io.load import load_model
    from onnxprune.pipeline.evidence import Needs, gather
    from onnxprune.pipeline.stages import analysed, part
    from onnxprune.report.ranking import rank_groups, rank_initializers
    from onnxprune.select.criteria import score as score_units

    model = load_model(source)
    with screen.progress() as progress:
        progress("analysing", 0.0)
        prepared, units = analysed(model, width=width, shapes=shapes or None)
        given = None if data is None else Data(data, samples, preprocess, mask, shapes, seed).read(model)
        needs = Needs.of(criterion) if given is not None else Needs(False, False, False)
        evidence = gather(prepared, units, given, needs, seed=seed, progress=lambda stage: part(progress, (0.1, 0.8)))
        progress(f"scoring by {criterion}", 0.8)
        seen = evidence.context(units, seed)
        groups = rank_groups(seen, score_units(seen, criterion))
        initializers = rank_initializers(seen)
    if plot:
        _draw(groups, criterion, source, plot)
    if json:
        screen.document({"model": str(source), "criterion": criterion, **_document(groups, initializers)})
    else:
        _show(screen, groups, initializers, criterion, top)


def _check_criterion(name: str) -> None:
    from onnxprune.select.criteria import criteria

    values.check_choice("--criterion", name, criteria())


def _draw(groups: Sequence[GroupRanking], criterion: str, source: Path, plot: Path) -> None:
    from onnxprune.io.save import save_bytes
    from onnxprune.report.plot import ranking_plot

    save_bytes(ranking_plot(groups, criterion, source.name, values.form_of(plot)), plot)


def _show(
    screen: Screen, groups: Sequence[GroupRanking], initializers: Sequence[InitializerRanking], criterion: str, top: int
) -> None:
    from rich.text import Text

    from onnxprune.report.ranking import groups_ranking_table, initializers_ranking_table, ranking_notes
    from onnxprune.report.tables import notes_table

    if groups:
        screen.show(Text(f"groups by {criterion}", "bold"), groups_ranking_table(groups, top))
    if initializers:
        table = initializers_ranking_table(initializers, top, verbose=screen.verbose)
        screen.show(Text("initializers by themselves", "bold"), table)
    screen.show(notes_table(ranking_notes(groups, initializers, verbose=screen.verbose)))


def _document(groups: Sequence[GroupRanking], initializers: Sequence[InitializerRanking]) -> dict[str, Any]:
    return {
        "groups": [{**asdict(g), "ranked": g.ranked} for g in groups],
        "initializers": [{**asdict(i), "ranked": [int(k) for k in i.ranked]} for i in initializers],
    }
