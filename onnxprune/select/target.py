"""Targets: the least ratio whose choice of units leaves no more multiply-accumulates or parameters than were asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from onnxprune.errors import BudgetError, UsageError
from onnxprune.groups.group import Groups
from onnxprune.report.report import count_params, total_macs
from onnxprune.select.allocate import Choice, Options, choose
from onnxprune.select.context import Scores

Quantity = Literal["macs", "params"]
_UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
_STEPS = 12  # of the bisection: the ratio to 0.0003
_MOST = 0.999


def parse_target(text: str) -> tuple[Quantity, float]:
    """`macs=0.5` (a share of the source, below 1), `macs=300M` or `params=5M` (absolute).

    Raises:
        UsageError: the text is none of these.
    """
    found = re.fullmatch(r"(macs|params)=(\d*\.?\d+)([kMG]?)", text.strip())
    if not found:
        raise UsageError(f"target {text!r} is not macs=N or params=N; N is a share such as 0.5, or absolute such as 5M")
    kind: Quantity = "macs" if found[1] == "macs" else "params"
    value = float(found[2]) * _UNITS[found[3]]
    if not value or (found[3] and value < 1):
        raise UsageError(f"target {text!r} has to be above 0")
    return kind, value


def choose_to_target(
    groups: Groups, options: Options, scores: Scores, target: Mapping[Quantity, float]
) -> tuple[list[Choice], float]:
    """The choice at the least ratio that meets all targets, and the ratio.

    Args:
        groups: result of `analyze`.
        options: what may go; its ratio does not count, ratios by glob do.
        scores: of `onnxprune.select.criteria.score`.
        target: for each quantity what stays: a share of the source below 1, else multiply-accumulates or parameters.

    Raises:
        BudgetError: no ratio meets them.
        UsageError: a glob matches nothing, or a quantity is not known.
    """
    whole = {q: _measure(groups, q, None) for q in target}
    limits = {q: value * whole[q] if value < 1 else value for q, value in target.items()}

    def attempt(ratio: float) -> tuple[list[Choice], dict[Quantity, float]]:
        choices = choose(groups, replace(options, ratio=ratio), scores)
        return choices, {q: _measure(groups, q, choices) for q in limits}

    def met(left: Mapping[Quantity, float]) -> bool:
        return all(left[q] <= limit for q, limit in limits.items())

    low, high = 0.0, _MOST
    best, left = attempt(high)
    if not met(left):
        worst = max(limits, key=lambda q: left[q] / limits[q])
        raise BudgetError(
            f"target {worst}={_short(target[worst])} can't be met: with all that these options let go, "
            f"{left[worst] / whole[worst]:.1%} of {worst} stay"
        )
    for _ in range(_STEPS):
        middle = (low + high) / 2
        choices, left = attempt(middle)
        if met(left):
            high, best = middle, choices
        else:
            low = middle
    return best, high


def _measure(groups: Groups, quantity: Quantity, choices: Sequence[Choice] | None) -> float:
    parts = [c.classes for c in choices or () if c.count]
    alive = groups.alive_labels(np.concatenate(parts)) if parts else None
    if quantity == "macs":
        return total_macs(groups, groups.trace.graph, alive)
    if quantity == "params":
        return count_params(groups, alive)
    raise UsageError(f"target {quantity!r} is none of macs, params")


def _short(value: float) -> str:
    return f"{value:g}" if value < 1000 else next(f"{value / f:g}{u}" for u, f in reversed(_UNITS.items()) if value >= f)
