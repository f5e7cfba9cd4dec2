"""A figure of a ranking: sorted scores of every group, and where the parameters are."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onnxprune.errors import UsageError
from onnxprune.report.ranking import GroupRanking
from onnxprune.select.context import Floats

FORMATS = (".png", ".svg")
_COLUMNS = 200
_TICKS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20)


def check_format(path: Path) -> None:
    """Raises `UsageError` unless the name ends in a format that can be drawn."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{path}: a plot is one of {', '.join(FORMATS)}")


def check_installed() -> None:
    """Raises `UsageError` where matplotlib is missing; says what to install."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UsageError("a plot needs matplotlib: pip install 'onnxprune[plot]'") from None


def ranking_plot(rows: Sequence[GroupRanking], criterion: str, title: str, form: str) -> bytes:
    """The figure as a file of the format `form`, `png` or `svg`.

    Args:
        rows: groups, one line of the picture each.
        criterion: its name.
        title: of the figure.
        form: file format.

    Raises:
        UsageError: matplotlib is not installed.
    """
    check_installed()
    from matplotlib import rc_context
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "onnxprune", "text.parse_math": False}):
        height = 1.6 + 0.24 * max(len(rows), 3)
        figure = Figure(figsize=(10, height), dpi=120, layout="constrained")
        heat, share = figure.subplots(1, 2, width_ratios=(5, 1), sharey=True)
        figure.suptitle(title)
        picture = np.array([_line(row) for row in rows] or [np.ones(_COLUMNS)])
        image = heat.imshow(
            picture,
            aspect="auto",
            interpolation="nearest",
            norm=LogNorm(0.05, 20),
            cmap="RdYlBu_r",
            extent=(0, 100, len(picture) - 0.5, -0.5),
        )
        heat.set_xlabel("units of the group, the least important first (%)")
        heat.set_yticks(range(len(rows)), [f"{row.id}  {row.units} {row.kind}" for row in rows])
        bar = figure.colorbar(image, ax=heat, label=f"{criterion} / median of the group", extend="both", pad=0.01)
        bar.set_ticks(_TICKS, labels=[f"{tick:g}" for tick in _TICKS])
        bar.minorticks_off()
        share.barh(range(len(rows)), [row.params * 100 for row in rows], color="#707070")
        share.set_xlabel("parameters (%)")
        share.tick_params(labelleft=False)
        file = io.BytesIO()
        figure.savefig(file, format=form, metadata={"Date": None} if form == "svg" else None)
    return file.getvalue()


def _line(row: GroupRanking) -> Floats:
    """Sorted scores over their median, stretched to the width of the picture."""
    every = np.sort(np.concatenate(row.scores))
    middle = row.spread[1] or float(every.max()) or 1.0
    place = np.minimum((np.arange(_COLUMNS) + 0.5) / _COLUMNS * every.size, every.size - 1).astype(np.int64)
    return np.maximum(every[place] / middle, 1e-9)
