"""What is left of a model by its measured latency: all contestants that take a target, at all targets."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from accuracy.task import RANKINGS, Task

OURS = "knapsack"
FIGURES = {  # what latency is weighed against; MSE is better where it is less
    "agreement": "agreement with the source, %",
    "accuracy_10000": "top-1 % of 10,000 images",
    "accuracy": "top-1 %",
    "r1": "R@1 %",
    "r1_2000": "R@1 % of 2,000 nouns",
    "cosine": "cosine with the source",
    "mse_ratio": "MSE / that of the source",
}
LOWER = {"mse_ratio"}
NEAR = 0.05  # of the source's latency, within which a point has to lie to be compared
SAME = 0.01  # the same, for points that are taken for equally fast
DIGITS = {"cosine": 4}

Record = dict[str, Any]


@dataclass(frozen=True)
class Front:
    """Points of one contestant.

    Attributes:
        contestant: its name.
        points: latency as a share of the source's, and the figure; ascending, the source last. Slower ones are left out.
    """

    contestant: str
    points: list[tuple[float, float]]

    def at(self, latency: float) -> float | None:
        """The figure at a latency, on the line between the points on both sides.

        None where no point was measured within `NEAR` of it: what lies between points that are far apart is above the line.
        """
        xs, ys = np.array(self.points).T
        near = np.abs(xs[:-1] - latency).min() <= NEAR  # the source says nothing
        if latency < xs[0]:
            return float(ys[0]) if near and xs[0] - latency <= SAME else None
        return float(np.interp(latency, xs, ys)) if near else None


def fronts(task: Task, figure: str, results: Record) -> list[Front]:
    """Of the contestants that were measured at latencies with all samples; seeds of one setting are one point, their mean."""
    dense = results["tasks"][task.name]["figures"].get(figure, DENSE.get(figure))
    found = []
    for name in RANKINGS:
        points = []
        for setting in task.settings:
            own = [
                c
                for c in results["cases"].values()
                if (c["task"], c["setting"], c["contestant"], c["status"]) == (task.name, setting.name, name, "ok")
                and c["samples"] == task.samples
            ]
            if setting.latency and own and all(figure in c["figures"] for c in own):
                points.append((fmean(c["targets"]["latency"] for c in own), fmean(c["figures"][figure] for c in own)))
        if any(x < 1 for x, _ in points) and dense is not None:
            found.append(Front(name, [*sorted(p for p in points if p[0] < 1), (1.0, dense)]))
    return found


DENSE = {"agreement": 100.0, "cosine": 1.0, "mse_ratio": 1.0}


def shown(task: Task) -> tuple[str, ...]:
    """Figures that are drawn for a task."""
    if task.metric == "accuracy":
        return ("agreement", "accuracy_10000") if task.name != "efficientnet_lite0" else ("agreement", "accuracy")
    return ("cosine", "r1_2000") if task.metric == "r1" else ("mse_ratio",)


def markdown(task: Task, results: Record, folder: Path) -> str:
    """Our points beside what others have at the same latency, and a figure of all points, written into the folder."""
    lines = []
    drawn = []
    for figure in shown(task):
        own = fronts(task, figure, results)
        ours = next((f for f in own if f.contestant == OURS), None)
        if ours is None or len(own) < 2:
            continue
        drawn.append((figure, own))
        others = [f for f in own if f is not ours]
        head = [f"{OURS}: latency", FIGURES[figure], *[f.contestant for f in others]]
        rows = [
            [f"{x:.2f}", _figure(figure, y), *["" if (v := f.at(x)) is None else _figure(figure, v) for f in others]]
            for x, y in ours.points[:-1]
        ]
        lines.append("\n".join(f"| {' | '.join(row)} |" for row in [head, ["---:"] * len(head), *rows]) + "\n")
    if not drawn:
        return ""
    path = folder / f"front-{task.name}.png"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(plot(task.title, drawn))
    text = (
        "#### At equal latency\n\nOne thread, latency as a share of the source's. Others are read off the line between their own "
        "points, which flatters us a little; nothing where they have no point within 0.05.\n"
    )
    picture = f"![all points of {task.title}]({folder.name}/{path.name})\n"
    return "\n".join([text, *lines, picture])


def _figure(name: str, value: float) -> str:
    return f"{value:.{DIGITS.get(name, 2)}f}"


def plot(title: str, drawn: Sequence[tuple[str, Sequence[Front]]]) -> bytes:
    """All points, as PNG."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(4.8 * len(drawn), 3.8), dpi=110, layout="constrained")
    picture.suptitle(title, fontsize=11)
    for axes, (figure, own) in zip(picture.subplots(1, len(drawn), squeeze=False).flat, drawn, strict=True):
        for front in own:
            xs, ys = zip(*front.points, strict=True)
            bold = {"lw": 2.2, "zorder": 3} if front.contestant == OURS else {"lw": 1, "alpha": 0.8}
            axes.plot(xs, ys, "o-", ms=4, label=front.contestant, **bold)
        axes.set_xlabel("latency / that of the source, 1 thread")
        axes.set_ylabel(FIGURES[figure])
        axes.grid(alpha=0.3)
        if figure in LOWER:
            axes.set_yscale("log")
            axes.invert_yaxis()
    picture.axes[0].legend(fontsize=8)
    file = io.BytesIO()
    picture.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
