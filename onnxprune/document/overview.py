"""All models side by side: what they cost and what they are worth."""

from __future__ import annotations

from onnxprune.document.models import Models, Quantity
from onnxprune.document.parts import Cell, Column, Section, Table, name, number, upper
from onnxprune.document.scores import score_text
from onnxprune.document.summary import TEXTS
from onnxprune.document.tradeoff import tradeoff

_QUANTITIES: tuple[Quantity, ...] = ("bytes", "params", "macs", "latency")


def models_section(models: Models) -> Section:
    """One row for each model, and the trade-off between what they cost and what they are worth."""
    score = models.best("score")
    latency = models.best("latency")
    columns = [Column("model")] + [Column(t, True) for t in ("size", "parameters", "MACs", "latency p50")]
    columns.append(Column(score.label if score else "accuracy", True))
    rows = []
    for k in models:
        figures = (_figure(models, quantity, k) for quantity in _QUANTITIES)
        rows.append((name(models.name(k)), *figures, _score_cell(models, k)))
    macs = models.best("macs")
    told = [f"MACs: {macs.title}"] if macs else []
    told += [f"latency: {latency.title}"] if latency else []
    told += [f"{score.title}; in brackets the 95 % interval of the change, from the first model"] if score else []
    table = Table("figures", f"Models. {'. '.join(upper(t) for t in told)}.", tuple(columns), tuple(rows))
    return Section("models", "Models and trade-off", (table, tradeoff(models)), brief=True)


def _figure(models: Models, quantity: Quantity, k: int) -> Cell:
    basis = models.best(quantity)
    found = basis.figures.get(k) if basis else None
    return number(found.value if found else None, TEXTS[quantity](found.value) if found else "")


def _score_cell(models: Models, k: int) -> Cell:
    basis = models.best("score")
    found = basis.figures.get(k) if basis else None
    if basis is None or found is None:
        return number(None, "")
    shown = score_text(found.value, basis.percent)
    if found.low is not None and found.high is not None:
        shown += f" ({score_text(found.low, basis.percent).removesuffix(' %')} to {score_text(found.high, basis.percent)})"
    return number(found.value, shown)
