"""The plan of a pruning: JSON by the schema beside this file, bound to its source model by a hash."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import PlanError
from onnxprune.groups.classes import Mask
from onnxprune.groups.group import Group, Groups
from onnxprune.select.allocate import Choice
from onnxprune.surgery.weights import keep_of

FORMAT = "onnxprune.plan/1"
Removed = list[int] | list[list[int]]


@dataclass
class Plan:
    """What goes from a model.

    Attributes:
        sha256: content hash of the source.
        initializers: tensor name -> `shape` and `removed`: axis -> indices into the source tensor, or one list of them for
            each equal block of axis 0.
        groups: what was chosen, by group, for people.
        frozen: what can't go and why, for people.
        constants: summand of a block that goes as a whole -> the constant that takes its place. Initializers are those
            of the model without these blocks.
        low_rank: nodes that are two in the result, with weights that no plan holds: `node`, `weight` and `rank`.
    """

    sha256: str
    initializers: dict[str, dict[str, Any]]
    groups: list[dict[str, Any]] = field(default_factory=list)
    frozen: list[dict[str, Any]] = field(default_factory=list)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    low_rank: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain data by the schema."""
        blocks = {"blocks": {n: _written(a) for n, a in self.constants.items()}} if self.constants else {}
        return {
            "format": FORMAT,
            "source": {"sha256": self.sha256},
            **blocks,
            "initializers": self.initializers,
            "groups": self.groups,
            "frozen": self.frozen,
            **({"low_rank": self.low_rank} if self.low_rank else {}),
        }

    def to_json(self) -> str:
        """JSON text, lists of numbers on one line."""
        import re

        text = json.dumps(self.to_dict(), indent=1)
        return re.sub(r"\[\s+((?:-?\d+,\s+)*-?\d+)\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", text) + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the plan, aside first, then renamed."""
        from onnxprune.io.save import save_text

        save_text(self.to_json(), path)


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema of a plan."""
    return dict(json.loads(files("onnxprune.plan").joinpath("plan.schema.json").read_text("utf-8")))


def parse(data: object) -> Plan:
    """A plan from plain data.

    Raises:
        PlanError: it does not follow the schema; names the place.
    """
    from jsonschema import Draft202012Validator

    problems = sorted(Draft202012Validator(schema()).iter_errors(data), key=lambda e: len(e.absolute_path))
    if problems:
        place = "/".join(str(p) for p in problems[0].absolute_path) or "top level"
        raise PlanError(f"plan is not valid at {place}: {problems[0].message[:200]}")
    assert isinstance(data, dict)
    lists = {name: data.get(name, []) for name in ("groups", "frozen", "low_rank")}
    constants = {n: _read(entry) for n, entry in data.get("blocks", {}).items()}
    return Plan(data["source"]["sha256"], data["initializers"], constants=constants, **lists)


def _written(array: NDArray[Any]) -> dict[str, Any]:
    return {"type": str(array.dtype), "shape": list(array.shape), "values": [float(x) for x in array.ravel()]}


def _read(entry: dict[str, Any]) -> NDArray[Any]:
    values = np.array(entry["values"], entry["type"])
    if values.size != math.prod(entry["shape"]):
        raise PlanError(f"plan is not valid at blocks: {values.size} values do not have the shape {entry['shape']}")
    return values.reshape(entry["shape"])


def load_plan(path: str | os.PathLike[str]) -> Plan:
    """Reads a plan.

    Raises:
        PlanError: no such file, not JSON, or not by the schema.
    """
    try:
        data = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise PlanError(f"can't read plan {os.fspath(path)!r}: {error.strerror}") from error
    except ValueError as error:
        raise PlanError(f"plan {os.fspath(path)!r} is not JSON: {error}") from error
    return parse(data)


def make_plan(sha256: str, groups: Groups, choices: Sequence[Choice], alive: Mask) -> Plan:
    """The plan of a selection."""
    initializers: dict[str, dict[str, Any]] = {}
    for weight in groups.trace.weights.values():
        keep = keep_of(weight, alive)
        if keep:
            removed = {str(a): _indices(~m) for a, m in sorted(keep.items())}
            initializers[weight.name] = {"shape": list(weight.shape), "removed": removed}
    rows = [_row(c) for c in choices if c.count]
    return Plan(sha256, initializers, rows, [asdict(f) for f in groups.frozen])


def _indices(mask: Mask) -> Removed:
    if mask.ndim == 1:
        return [int(k) for k in np.flatnonzero(mask)]
    return [[int(k) for k in np.flatnonzero(row)] for row in mask]


def _row(choice: Choice) -> dict[str, Any]:
    group: Group = choice.group
    return {
        "id": group.id,
        "kind": group.kind,
        "exact": group.exact,
        "units": group.units,
        "removed": choice.removed[0] if len(choice.removed) == 1 else choice.removed,
        "members": [[w, a] for w, a in group.members],
        "reason": group.note,
    }


def alive_of(plan: Plan, groups: Groups) -> Mask:
    """Which labels of an analysed model stay under a plan.

    Raises:
        PlanError: an unknown tensor, another shape, an index out of range, a frozen slice, or a removal that leaves behind
            what is tied to it; names tensor, axis and index.
    """
    classes, weights = groups.classes, groups.trace.weights
    dead = np.zeros(classes.count, np.bool_)
    for name, entry in plan.initializers.items():
        weight = weights.get(name)
        if weight is None:
            raise PlanError(f"the model has no prunable tensor {name!r}")
        if list(weight.shape) != list(entry["shape"]):
            raise PlanError(f"{name!r} has shape {list(weight.shape)}, the plan is for {entry['shape']}")
        for axis, removed in entry["removed"].items():
            labels = weight.labels.get(int(axis))
            if labels is None:
                raise PlanError(f"axis {axis} of {name!r} can't shrink")
            ids = _picked(classes.of_label[labels], removed, name, axis)
            held = ids[classes.frozen[ids] >= 0]
            if held.size:
                raise PlanError(f"axis {axis} of {name!r} can't lose these slices: {classes.reason(held)}")
            dead[ids] = True
    _spread(groups, dead)
    alive = ~dead[classes.of_label]
    _check_complete(plan, groups, alive)
    problems = groups.violations(alive)
    if problems:
        raise PlanError(f"the plan breaks up a tensor: {problems[0]}")
    return np.asarray(alive)


def _picked(ids: Any, removed: Removed, name: str, axis: str) -> Any:
    rows = removed if removed and isinstance(removed[0], list) else [removed]
    table = np.atleast_2d(ids)
    if len(rows) != len(table):
        raise PlanError(f"axis {axis} of {name!r} needs one list of indices for each of its {len(table)} blocks")
    picked = []
    for row, own in zip(rows, table, strict=True):
        assert isinstance(row, list)
        for k in row:
            if not isinstance(k, int) or not 0 <= k < own.size:
                raise PlanError(f"axis {axis} of {name!r} has {own.size} slices, there is none with index {k}")
        picked.append(own[np.asarray(row, np.int64)])
    return np.concatenate(picked)


def _spread(groups: Groups, dead: Mask) -> None:
    """A hyperplane is dead when all its cells are, and its cells are when it is."""
    changed = True
    while changed:
        changed = False
        for grid in groups.classes.grids:
            cells = dead[grid.cells]
            for axis, own in enumerate(grid.axis_classes):
                if own is None:
                    continue
                plane = cells.all(axis=tuple(a for a in range(cells.ndim) if a != axis))
                inside = np.compress(dead[own], grid.cells, axis=axis).ravel()
                new = np.concatenate([own[plane & ~dead[own]], inside[~dead[inside]]])
                if new.size:
                    dead[new] = True
                    changed = True


def _check_complete(plan: Plan, groups: Groups, alive: Mask) -> None:
    for weight in groups.trace.weights.values():
        for axis, labels in weight.labels.items():
            expected = _indices(~alive[labels])
            given = plan.initializers.get(weight.name, {}).get("removed", {}).get(str(axis), [])
            if not given and not np.any(~alive[labels]):
                continue
            if _sorted(given) != expected:
                missing = (
                    [k for k in np.ravel(np.flatnonzero(~alive[labels])).tolist() if k not in np.ravel(given)]
                    if labels.ndim == 1
                    else expected
                )
                raise PlanError(
                    f"the plan must also remove {missing} of axis {axis} of {weight.name!r}: "
                    "they are tied to slices that it removes elsewhere"
                )


def _sorted(removed: Any) -> Any:
    if removed and isinstance(removed[0], list):
        return [sorted(r) for r in removed]
    return sorted(removed)
