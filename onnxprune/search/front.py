"""A family of pruned models: cards, and which of them no other beats."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.resources import files
from typing import Any

FORMAT = "onnxprune.front/1"
CARD = "onnxprune.card/1"
_ALIKE = 0.02  # latencies that differ by less are the same
_COSTS = ("macs", "params", "size", "latency")


@dataclass(frozen=True)
class Card:
    """What there is to know of one model of a family.

    Attributes:
        name: of its files, without ending; `dense` for the source.
        share: of the target that was asked for; 1 for the source.
        figures: `macs`, `params`, `size` in bytes, `latency` p50 in ms where it was timed.
        worth: figure on the evaluation data, or relative error of the outputs on calibration samples.
        interval: 95 % interval of what the figure changed from the source; None where it has none.
        dominated: another model is no worse in anything, and better in something.
        failed: why there is no model.
        details: plan, widths, verification, likeness, evaluation and what else is told of it.
    """

    name: str
    share: float
    figures: dict[str, float | None]
    worth: float | None = None
    interval: tuple[float, float] | None = None
    dominated: bool = False
    failed: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data by the schema."""
        plain = asdict(self)
        return {"format": CARD, **{n: v for n, v in plain.items() if n != "details"}, **plain["details"]}


@dataclass(frozen=True)
class Front:
    """A family.

    Attributes:
        dense: the source.
        cards: pruned models, the largest first.
        target: quantity that they are spread over.
        worth_title: what `worth` is.
        unit: of it: `percent` or `plain`.
        higher_is_better: of it.
        details: of the study: files, hash, data, options, time.
    """

    dense: Card
    cards: Sequence[Card]
    target: str
    worth_title: str
    unit: str
    higher_is_better: bool
    details: dict[str, Any] = field(default_factory=dict)

    def worth_text(self, worth: float) -> str:
        """The figure for people."""
        if self.worth_title.startswith("output error"):
            return f"{worth:.1%}"
        return f"{worth:.2f} %" if self.unit == "percent" else f"{worth:.4g}"

    def to_dict(self) -> dict[str, Any]:
        """The index, as plain data by the schema; details of models are in their cards."""
        return {
            "format": FORMAT,
            "target": self.target,
            "worth": {"title": self.worth_title, "unit": self.unit, "higher_is_better": self.higher_is_better},
            **self.details,
            "models": [_entry(c) for c in (self.dense, *self.cards)],
        }


def _entry(card: Card) -> dict[str, Any]:
    plain = {n: v for n, v in asdict(card).items() if n != "details"}
    made = not card.failed and card.name != "dense"
    return {**plain, "files": {"model": f"{card.name}.onnx", "plan": f"{card.name}.plan.json"} if made else {}}


def marked(front: Front) -> Front:
    """The same with dominated models marked; the source competes too."""
    models = [front.dense, *front.cards]
    sign = 1.0 if front.higher_is_better else -1.0

    def beats(a: Card, b: Card) -> bool:
        if a.failed or a.worth is None or b.worth is None:
            return False
        pairs = [(a.figures.get(n), b.figures.get(n), _ALIKE if n == "latency" else 0.0) for n in _COSTS]
        known = [(x, y, slack) for x, y, slack in pairs if x is not None and y is not None]
        no_worse = sign * a.worth >= sign * b.worth and all(x <= y * (1 + slack) for x, y, slack in known)
        return no_worse and (sign * a.worth > sign * b.worth or any(x < y * (1 - slack) for x, y, slack in known))

    def mark(card: Card) -> Card:
        return replace(card, dominated=not card.failed and any(beats(o, card) for o in models if o is not card))

    return replace(front, dense=mark(front.dense), cards=[mark(c) for c in front.cards])


@cache
def schema(name: str) -> dict[str, Any]:
    """The JSON Schema of an index (`front`) or of a `card`."""
    return dict(json.loads(files("onnxprune.search").joinpath(f"{name}.schema.json").read_text("utf-8")))
