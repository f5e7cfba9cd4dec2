"""What models cost against what they are worth, as a plot."""

from __future__ import annotations

from onnxprune.document.models import Basis, Models, Quantity
from onnxprune.document.parts import Note, Point, Tradeoff, upper

_UNITS: dict[Quantity, str] = {"latency": "latency p50 (ms)", "macs": "MACs (millions)", "bytes": "size (MB)"}
_SCALES: dict[Quantity, float] = {"latency": 1.0, "macs": 1e-6, "bytes": 1e-6}


def tradeoff(models: Models) -> Tradeoff | Note:
    """Accuracy by latency, the size as the area of marks; MACs or the size where there is no latency.

    Where nothing can be drawn: a note that says what is missing.
    """
    score = models.best("score")
    if score is None or len(score.figures) < 2:
        return _costs(models)
    for quantity in _UNITS:
        cost = _covering(models, quantity, score)
        if cost is not None:
            return _plot(models, quantity, cost, score)
    return Note(
        "No plot of the trade-off: no file tells latency, MACs or size of two models that were evaluated.", "warning"
    )


def _covering(models: Models, quantity: Quantity, score: Basis) -> Basis | None:
    """The basis that knows most of the evaluated models, if two."""
    found = models.bases.get(quantity, {}).values()
    best = max(found, key=lambda b: len(b.figures.keys() & score.figures.keys()), default=None)
    return best if best and len(best.figures.keys() & score.figures.keys()) > 1 else None


def _plot(models: Models, quantity: Quantity, cost: Basis, score: Basis) -> Tradeoff:
    sizes = models.best("bytes")
    scale = _SCALES[quantity]
    chosen = sorted(cost.figures.keys() & score.figures.keys())
    points = []
    for k in chosen:
        y = score.figures[k]
        size = sizes.figures[k].value if sizes and k in sizes.figures else None
        best = k not in models.beaten
        points.append(Point(models.name(k), cost.figures[k].value * scale, y.value, y.low, y.high, size, best))
    notes = [f"{'Higher' if score.higher_is_better else 'Lower'} and further left is better."]
    notes.append(f"{upper(_UNITS[quantity].partition(' (')[0])}: {cost.title}.")
    if all(p.size is not None for p in points):
        notes.append("The area of a mark is the size of the file.")
    if any(p.low is not None for p in points):
        notes.append("Bars are 95 % intervals of the change from the first model.")
    if len(points) > 2:
        notes.append("The dashed line joins models that no other beats in this plot.")
    if not all(p.best for p in points):
        notes.append("Hollow marks: another model is no worse in anything and better in something.")
    label = f"{score.label} (%)" if score.percent and "%" not in score.label else score.label
    title = f"{score.label} against {_UNITS[quantity].partition(' (')[0]}"
    return Tradeoff("tradeoff", upper(title), _UNITS[quantity], label, tuple(points), score.higher_is_better, tuple(notes))


def _costs(models: Models) -> Tradeoff | Note:
    """Without scores: size by latency."""
    missing = "accuracy was not measured of two models (onnxprune prune --eval, onnxprune compare --metric)"
    latency, size = models.best("latency"), models.best("bytes")
    both = sorted(latency.figures.keys() & size.figures.keys()) if latency and size else []
    if latency is None or size is None or len(both) < 2:
        return Note(f"No plot of the trade-off: {missing}.", "warning")
    points = tuple(
        Point(models.name(k), latency.figures[k].value, size.figures[k].value / 1e6, size=size.figures[k].value)
        for k in both
    )
    notes = (f"Lower and further left is better; {missing}.", f"Latency: {latency.title}.")
    return Tradeoff("tradeoff", "Size against latency", _UNITS["latency"], _UNITS["bytes"], points, False, notes)
