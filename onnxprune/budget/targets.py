"""Targets: what users ask for, as limits of costs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from onnxprune.errors import UsageError

Quantity = Literal["latency", "macs", "params", "size", "memory", "drop"]
_COUNT = {"k": 1e3, "M": 1e6, "G": 1e9}
_BYTES = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
UNITS: dict[str, dict[str, float]] = {
    "latency": {"us": 1e-3, "ms": 1.0, "s": 1e3},
    "macs": _COUNT,
    "params": _COUNT,
    "size": _BYTES,
    "memory": _BYTES,
    "drop": {"%": 1.0},
}
_EXAMPLES = "latency=0.55, latency=8ms, macs=0.5, params=5M, size=10MB, memory=20MB, drop=1%"


@dataclass(frozen=True)
class Target:
    """What a model may cost or lose.

    Attributes:
        quantity: which cost; `drop` is what the metric may lose.
        value: a share of the source, or a number of ms, multiply-accumulates, parameters or bytes. Of a drop: percent,
            or a number of the metric.
        share: it is a share (a drop: in percent).
    """

    quantity: Quantity
    value: float
    share: bool

    def __str__(self) -> str:
        if self.quantity == "drop":
            return f"drop={self.value:g}{'%' if self.share else ''}"
        return f"{self.quantity}={self.value:g}" if self.share else f"{self.quantity}={amount(self.quantity, self.value)}"

    def most(self, dense: float) -> float:
        """The limit, of a source that costs `dense`."""
        return self.value * dense if self.share else self.value

    def allowed(self, figure: float, *, percent: bool) -> float:
        """What a figure of the metric may lose: percent are points of a figure in percent, else a share of it."""
        return self.value if percent or not self.share else self.value / 100 * abs(figure)


def parse_target(text: str) -> Target:
    """A target such as `macs=0.5` (a share of the source, below 1), `params=5M` or `latency=8ms`.

    Raises:
        UsageError: the text is none.
    """
    found = re.fullmatch(r"([a-z]+)=(\d*\.?\d+(?:e\d+)?)([A-Za-z%]*)", text.strip())
    if not found or found[1] not in UNITS or found[3] not in {"", *UNITS[found[1]]}:
        raise UsageError(f"target {text!r} is none of the form {_EXAMPLES}")
    quantity: Quantity = next(q for q in get_args(Quantity) if q == found[1])
    return make_target(quantity, float(found[2]), found[3])


def make_target(quantity: Quantity, number: float, unit: str = "") -> Target:
    """A target from a number: without unit a share below 1, else multiply-accumulates, parameters or points.

    Raises:
        UsageError: the number is not above 0, or needs a unit.
    """
    if quantity not in UNITS:
        raise UsageError(f"target {quantity!r} is none of {', '.join(UNITS)}")
    text = f"{quantity}={number:g}{unit}"
    value = number * UNITS[quantity].get(unit, 1.0)
    if value <= 0:
        raise UsageError(f"target {text!r} has to be above 0")
    if quantity == "drop":
        return Target(quantity, value, unit == "%")
    share = not unit and number < 1
    if unit in _COUNT and value < 1:
        raise UsageError(f"target {text!r} is less than one")
    if not share and not unit and quantity not in ("macs", "params"):
        raise UsageError(f"target {text!r} needs a unit ({', '.join(UNITS[quantity])}), or a share below 1")
    return Target(quantity, value, share)


def read_targets(given: Mapping[Quantity, float | str] | Sequence[str | Target]) -> list[Target]:
    """Targets by quantity, or as texts; at most one of each quantity.

    Raises:
        UsageError: one is no target, or there are two for a quantity.
    """
    if isinstance(given, Mapping):
        texts = {q: v for q, v in given.items() if isinstance(v, str)}
        numbers = [make_target(q, float(v)) for q, v in given.items() if not isinstance(v, str)]
        found = numbers + [parse_target(f"{q}={v}") for q, v in texts.items()]
    else:
        found = [t if isinstance(t, Target) else parse_target(t) for t in given]
    for k, target in enumerate(found):
        if any(target.quantity == other.quantity for other in found[:k]):
            raise UsageError(f"target {str(target)!r}: there is one for {target.quantity} already")
    return found


def amount(quantity: str, value: float) -> str:
    """A number in a unit that fits, such as `5M` or `8ms`."""
    units = UNITS[quantity]
    names = [u for u in units if "i" not in u] if quantity in ("size", "memory") else list(units)
    fitting = [u for u in names if value >= units[u]]
    unit = max(fitting, key=units.__getitem__, default="" if quantity in ("macs", "params") else names[0])
    return f"{value / units.get(unit, 1.0):.4g}{unit}"
