"""Latency as a cost, from what the user says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxprune.bench.inputs import check_batch, of_one_run
from onnxprune.budget.axes import Axes
from onnxprune.calibrate.batch import Samples
from onnxprune.groups.group import Groups
from onnxprune.latency.cost import Latency
from onnxprune.latency.machine import Runtime
from onnxprune.latency.measure import Comparison
from onnxprune.latency.sample import Sampler
from onnxprune.latency.store import Store
from onnxprune.latency.table import Progress, build_table
from onnxprune.latency.timing import Timing
from onnxprune.prepare.prepare import Prepared
from onnxprune.select.allocate import Choice
from onnxprune.statistics.providers import parse_providers


def latency_cost(
    prepared: Prepared,
    groups: Groups,
    choices: Sequence[Choice],
    axes: Axes,
    timing: Timing,
    *,
    providers: Sequence[str] = (),
    shapes: Mapping[str, Sequence[int]] | None = None,
    samples: Samples | None = None,
    progress: Progress | None = None,
    seed: int = 0,
) -> Latency:
    """Latency as a cost: measures what was not measured before.

    Args:
        prepared: the model.
        groups: its analysis.
        choices: groups that compete, with the scores by which their units go.
        axes: of these groups.
        timing: how the model will be run.
        providers: execution providers, as the user named them.
        shapes: of inputs that the model leaves open.
        samples: that tell how large inputs usually are.
        progress: called with the stage and the share that is done.
        seed: of widths and inputs.

    Raises:
        ModelError: ONNX Runtime can't run the model.
        UsageError: a provider is absent, or the model fixes another batch.
    """
    runtime = Runtime(parse_providers(providers), timing.threads)
    feeds = of_one_run(prepared.model, timing.batch, shapes, samples, seed)
    if timing.batch > 1:
        check_batch(prepared.model, timing.batch, feeds, shapes)
    sampler = Sampler(prepared, groups, choices, feeds, runtime, Store(timing.folder, runtime))
    table = build_table(sampler, axes, progress or (lambda stage, share: None), seed=seed)
    return Latency(table, axes, Comparison(prepared.model, feeds, runtime), timing)
