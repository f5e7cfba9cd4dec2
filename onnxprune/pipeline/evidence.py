"""What criteria judge by: statistics of activations, gradients of gates, sensitivities, as far as one asks for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnxprune.budget.curves import calibrated, probed
from onnxprune.calibrate.batch import Samples, splits
from onnxprune.groups.classes import Ids
from onnxprune.groups.group import Group, Groups
from onnxprune.io.journal import Journal
from onnxprune.pipeline.stages import Progress
from onnxprune.prepare.prepare import Prepared
from onnxprune.select.allocate import Choice, Ranking
from onnxprune.select.context import Curve, ScoreContext
from onnxprune.select.criteria import find
from onnxprune.statistics.channels import channel_statistics
from onnxprune.statistics.expected import Expected, expected_statistics
from onnxprune.statistics.gate_gradients import GateGradients, gate_gradients
from onnxprune.statistics.providers import CPU, Providers
from onnxprune.statistics.removal import removal_effects
from onnxprune.statistics.sensitivity import output_sensitivity


@dataclass(frozen=True)
class Needs:
    """What has to be measured.

    Attributes:
        statistics: moments of what linear nodes read; expected ones where there are no samples.
        gradients: of gates on units.
        sensitivity: of the output to errors at the readers of each group.
        removals: of some units of each group, and what they do to the output.
    """

    statistics: bool
    gradients: bool
    sensitivity: bool
    removals: bool = False

    @classmethod
    def of(cls, criterion: str, *, merge: bool = False, ranking: Ranking = "local") -> Needs:
        """What a criterion asks for.

        Args:
            criterion: its name.
            merge: removed channels are folded into others by their statistics.
            ranking: which groups compete with each other.
        """
        asked = find(criterion)
        return cls(
            merge or asked.needs_data,
            asked.needs_gradients,
            ranking == "global" and asked.needs_data,
            ranking == "knapsack" and asked.needs_data,
        )


@dataclass
class Evidence:
    """What was measured; None, or empty, where it was not asked for."""

    expected: Expected | None = None
    gradients: GateGradients | None = None
    sensitivity: Mapping[str, float] = field(default_factory=dict)

    def context(self, groups: Groups, seed: int) -> ScoreContext:
        """What a criterion sees."""
        statistics = self.expected.statistics if self.expected else None
        return ScoreContext(groups, statistics, seed, dict(self.sensitivity), self.gradients)


def gather(
    reference: Prepared,
    groups: Groups,
    samples: Samples | None,
    needs: Needs,
    *,
    only: Sequence[Group] | None = None,
    seed: int = 0,
    budget: int = 1 << 30,
    providers: Providers = CPU,
    journal: Journal | None = None,
    progress: Callable[[str], Progress] = lambda stage: lambda what, done: None,
    clock: Callable[[str], None] = lambda stage: None,
) -> Evidence:
    """Measures what is needed.

    Args:
        reference: the model that samples run through.
        groups: its analysis.
        samples: calibration samples; without them statistics are those that the weights let one expect.
        needs: what to measure.
        only: groups that compete, for sensitivities; all where not given.
        seed: of drawn labels.
        budget: bytes of activations held in memory.
        providers: ONNX Runtime's execution providers.
        journal: finished results of a run that was cut off.
        progress: gives a stage's part of the progress.
        clock: called at the end of each stage.

    Raises:
        ModelError: ONNX Runtime can't run the model on the samples.
    """
    found = Evidence()
    if samples is None:
        if needs.statistics:
            found.expected = expected_statistics(reference.model, groups)
            clock("statistics")
        return found
    if needs.gradients:
        found.gradients = gate_gradients(
            reference.model, groups, samples, seed=seed, budget=budget, journal=journal, progress=progress("gradients")
        )
        clock("gradients")
    if needs.statistics:
        inner = progress("statistics")
        measured = channel_statistics(
            reference.model,
            groups,
            samples,
            apart=needs.removals and splits(samples),
            budget=budget,
            providers=providers,
            journal=journal,
            progress=inner,
        )
        found.expected = Expected(measured)
        clock("statistics")
    if needs.sensitivity:
        inner = progress("sensitivity")
        found.sensitivity = output_sensitivity(
            reference.model, groups, samples, only=only, providers=providers, journal=journal, progress=inner
        )
        clock("sensitivity")
    return found


def measured_curves(
    reference: Prepared,
    groups: Groups,
    samples: Samples,
    evidence: Evidence,
    choices: Sequence[Choice],
    curves: Mapping[str, Curve],
    *,
    providers: Providers = CPU,
    journal: Journal | None = None,
    progress: Progress = lambda what, done: None,
) -> dict[str, Curve]:
    """Curves that give what a few removals from each group were measured to do to the output.

    Where that can't be measured (no node with statistics reads the group) the group is as sensitive as the median one.

    Args:
        reference: the model that samples run through.
        groups: its analysis.
        samples: calibration samples.
        evidence: with statistics.
        choices: groups that compete, with the scores that say in which order their units go.
        curves: of the criterion.
        providers: ONNX Runtime's execution providers.
        journal: finished results of a run that was cut off.
        progress: of this stage.

    Raises:
        ModelError: ONNX Runtime can't run the model on the samples.
    """
    counts = probed(choices, curves)
    statistics = evidence.expected.statistics if evidence.expected else []
    gone: dict[str, list[Ids]] = {}
    for choice in choices:
        orders = [np.argsort(s, kind="stable").tolist() for s in choice.scores]
        for n in counts.get(choice.group.id, ()):
            part = Choice(choice.group, [order[:n] for order in orders], choice.scores)
            gone.setdefault(choice.group.id, []).append(part.classes)
    effects = removal_effects(
        reference.model, groups, samples, statistics, gone, providers=providers, journal=journal, progress=progress
    )
    found = {g: calibrated(curves[g], counts[g], errors) for g, errors in effects.items()}
    middle = [float(np.median(curve.sensitivity)) for curve in found.values()]
    others = (
        {g: replace(curves[g], sensitivity=float(np.median(middle))) for g in curves if g not in found} if middle else {}
    )
    return found | others
