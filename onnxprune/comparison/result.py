"""What a comparison found, as data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from onnxprune.comparison.cause import Constants
from onnxprune.comparison.outputs import DEFAULT_ATOL, OutputDifference, Tolerance
from onnxprune.errors import UsageError
from onnxprune.report.evaluation import Evaluation

FORMAT = "onnxprune.compare/1"


@dataclass(frozen=True)
class Thresholds:
    """What has to hold; nothing where nothing is given.

    Attributes:
        rtol: relative part of the tolerance of an element, by output; `""` stands for all outputs that are not named.
        atol: absolute part; where `rtol` alone is given it is 1e-5, where `atol` alone is given there is no relative part.
        max_drop: how much worse the metric of the second model may be, in points where it is in percent.
        min_agreement: share (0..1) of samples with the same k largest elements, of every output `(N, classes)`.
    """

    rtol: Mapping[str, float] = field(default_factory=dict)
    atol: Mapping[str, float] = field(default_factory=dict)
    max_drop: float | None = None
    min_agreement: float | None = None

    def tolerance(self, output: str) -> Tolerance | None:
        """Of an output; None where there is none."""
        rtol, atol = (held.get(output, held.get("")) for held in (self.rtol, self.atol))
        if rtol is None and atol is None:
            return None
        return Tolerance(rtol or 0.0, DEFAULT_ATOL if atol is None else atol)

    def check(self, outputs: Mapping[str, str], *, scored: bool) -> None:
        """Makes sure that every threshold is about something.

        Raises:
            UsageError: it names no output, is out of range, or needs what is not given.
        """
        for name in [*self.rtol, *self.atol]:
            if name and name not in outputs:
                raise UsageError(
                    f"tolerance for {name!r}: there is no such output; there are {', '.join(map(repr, outputs))}"
                )
        if any(not v >= 0 for v in [*self.rtol.values(), *self.atol.values()]):
            raise UsageError("a tolerance has to be 0 or more")
        if self.min_agreement is not None and not 0 <= self.min_agreement <= 1:
            raise UsageError(f"the least agreement is a share from 0 to 1, not {self.min_agreement:g}")
        if self.max_drop is not None and not scored:
            raise UsageError("the largest drop is one of a metric: it needs data to evaluate on")

    @property
    def any(self) -> bool:
        """Something has to hold."""
        return bool(self.rtol or self.atol) or self.max_drop is not None or self.min_agreement is not None


@dataclass
class Divergence:
    """A tensor at which the models part: what it is computed from agrees, and it does not.

    Attributes:
        tensor: its name in the first model.
        other: its name in the second model.
        op: operator that makes it in the first model.
        nodes: of the first model between the last tensors that agree and this one, the one that makes it last.
        other_nodes: the same of the second model.
        error: largest difference over the largest magnitude of the first model's tensor; infinite where shapes differ or the
            second model can't compute it.
        inputs: the same of the matched tensors that it is computed from.
        explained: share of the outputs' error that is gone when this tensor, and the others of its group, are replaced by
            those of the first model.
        group: tensors of one group were found together; those of group 1 differ when group 0 is replaced, and so on.
        causes: attributes, constants and wiring that differ; empty where nothing does.
        failure: why the second model can't compute it; empty where it can.
    """

    tensor: str
    other: str
    op: str
    nodes: list[str]
    other_nodes: list[str]
    error: float
    inputs: float
    explained: float
    group: int
    causes: list[str] = field(default_factory=list)
    failure: str = ""


@dataclass
class Trail:
    """Result of the search for where the models part.

    Attributes:
        divergences: in the order they were found.
        error: largest relative error of an output, of both graphs as they are written.
        left: the same once all divergences are replaced by what the first model computes.
        tolerance: error of an output that counts as none: the cause is proven where `left` is below.
        bound: error from which on a tensor counted as different.
        samples: positions of the samples that were looked at.
        matched: pairs of tensors that were found by `name`, `structure`, `weights` and `values`.
        tensors: number of tensors of the first model that depend on what is fed.
        unmatched: how many of them have no partner, or one of another shape.
        path: relative error at the tensors that were measured, in the order of the graph.
        runs: of both models.
        note: why little or nothing can be found; empty where it can.
    """

    divergences: list[Divergence] = field(default_factory=list)
    error: float = 0.0
    left: float = 0.0
    tolerance: float = 0.0
    bound: float = 0.0
    samples: list[int] = field(default_factory=list)
    matched: dict[str, int] = field(default_factory=dict)
    tensors: int = 0
    unmatched: int = 0
    path: list[tuple[str, float]] = field(default_factory=list)
    runs: int = 0
    note: str = ""

    @property
    def proven(self) -> bool:
        """With the divergences replaced, the outputs agree."""
        return bool(self.divergences) and self.left <= self.tolerance


@dataclass
class Comparison:
    """Two models on the same samples.

    Attributes:
        first: name of the model that is compared with.
        second: name of the other one.
        data: the samples in words.
        outputs: one for each output that both have.
        constants: stored tensors by name.
        notes: what was matched other than by name.
        evaluation: scores of both; None where no evaluation was asked for.
        trail: where the models part; None where it was not asked for, or the outputs agree.
        thresholds: what has to hold.
        failed: why the second model can't be run; empty where it can.
    """

    first: str
    second: str
    data: str
    outputs: list[OutputDifference]
    constants: Constants
    notes: list[str] = field(default_factory=list)
    evaluation: Evaluation | None = None
    trail: Trail | None = None
    thresholds: Thresholds = field(default_factory=Thresholds)
    failed: str = ""

    @property
    def exceeded(self) -> list[str]:
        """What does not hold, one line each; also that the second model can't be run, or has outputs of other shapes."""
        found = [f"{self.second} can't be run: {self.failed}"] if self.failed else []
        for o in self.outputs:
            found += [f"output {o.output!r}: {o.message}"] if o.message else []
            if o.tolerance and o.outside:
                bound = f"{o.tolerance.atol:g} + {o.tolerance.rtol:g} |a|"
                found.append(f"output {o.output!r}: {_percent(o.outside)} of its elements differ by more than {bound}")
            least = self.thresholds.min_agreement
            if least is not None and o.agreement is not None and o.agreement < least:
                text = f"the same top {o.top_k} on {o.agreement * 100:.2f} % of the samples, less than {least * 100:.2f} %"
                found.append(f"output {o.output!r}: {text}")
        if self.thresholds.min_agreement is not None and not found and all(o.agreement is None for o in self.outputs):
            found.append("no output has scores of classes (N, classes) for each sample, so none can agree on the largest")
        return found + self._drop()

    def _drop(self) -> list[str]:
        most, evaluation = self.thresholds.max_drop, self.evaluation
        if evaluation is None:
            return []
        if evaluation.change is None:
            return [f"{self.second} can't be evaluated: {evaluation.failed}"] if not self.failed else []
        drop = -evaluation.change.value if evaluation.before.higher_is_better else evaluation.change.value
        if most is None or drop <= most:
            return []
        return [f"{evaluation.before.title}: worse by {drop:.4g}, more than {most:g}"]

    @property
    def passed(self) -> bool:
        """Everything holds that has to."""
        return not self.exceeded

    def to_dict(self) -> dict[str, Any]:
        """Plain data by the schema `onnxprune/comparison/compare.schema.json`; not finite numbers become null in JSON."""
        return {
            "format": FORMAT,
            "first": self.first,
            "second": self.second,
            "data": self.data,
            "passed": self.passed,
            "exceeded": self.exceeded,
            "thresholds": {
                **asdict(self.thresholds),
                "rtol": dict(self.thresholds.rtol),
                "atol": dict(self.thresholds.atol),
            },
            "outputs": [o.to_dict() for o in self.outputs],
            "constants": asdict(self.constants),
            "evaluation": self.evaluation and self.evaluation.to_dict(),
            "trail": self.trail and {**asdict(self.trail), "proven": self.trail.proven},
            "notes": self.notes,
            "failed": self.failed,
        }


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema of a comparison."""
    return dict(json.loads(files("onnxprune.comparison").joinpath("compare.schema.json").read_text("utf-8")))
