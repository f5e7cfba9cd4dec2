"""Reconstruction: fits every linear node behind a removal to what the dense model computes there.

Node by node in graph order: the input comes from the pruned model with all earlier nodes fitted already, the output from the
dense one. Both models run once over the samples, piece by piece (`onnxprune.statistics.stream`).

Source: the layer-wise least squares of He et al. 2017, "Channel Pruning for Accelerating Very Deep Neural Networks", section
3.2, over all taps of a kernel, with statistics of the pruned prefix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import onnx
from numpy.typing import NDArray

from onnxprune.calibrate.batch import Batch, Samples
from onnxprune.groups.classes import Mask
from onnxprune.groups.group import Groups
from onnxprune.io.journal import Journal
from onnxprune.prepare.prepare import Prepared
from onnxprune.recover.attention import find_values
from onnxprune.recover.fit import Fit
from onnxprune.recover.job import LARGEST
from onnxprune.recover.linear import fit_linear
from onnxprune.recover.order import Step, steps, steps_behind
from onnxprune.recover.recurrent import fit_recurrent
from onnxprune.recover.repair import Repairs
from onnxprune.recover.resume import Steps
from onnxprune.recover.slots import drop_zeros, give_slots, give_vectors, write_weights
from onnxprune.recover.solve import Mode
from onnxprune.recover.state import State
from onnxprune.statistics.effort import fit_seconds, matrix_size, recurrent_seconds, run_seconds
from onnxprune.statistics.flow import Flow, lift
from onnxprune.statistics.linear import Declined, Linear, find_linear
from onnxprune.statistics.providers import CPU, Providers
from onnxprune.statistics.recurrent import Recurrent, with_states
from onnxprune.statistics.stream import Stream

Progress = Callable[[str, float], None]
Watch = Callable[[Batch, Mapping[str, NDArray[Any]], Mapping[str, NDArray[Any]]], None]


@dataclass
class Reconstruction:
    """Result of `reconstruct`: the model with new weights, and one line for each node behind a removal that it fits."""

    model: onnx.ModelProto
    fits: list[Fit] = field(default_factory=list)


def reconstruct(
    prepared: Prepared,
    groups: Groups,
    alive: Mask,
    pruned: onnx.ModelProto,
    samples: Samples,
    *,
    mode: Mode = "lsq",
    budget: int = 1 << 30,
    providers: Providers = CPU,
    journal: Journal | None = None,
    progress: Progress = lambda stage, done: None,
    watch: Watch | None = None,
) -> Reconstruction:
    """New weights for a pruned model. Neither model is changed.

    Args:
        prepared: the source as it was traced.
        groups: its analysis.
        alive: for each label whether it stays.
        pruned: result of the removal.
        samples: calibration samples.
        mode: `bias` shifts outputs, `affine` scales them too, `lsq` fits all weights; `channel` rebuilds input channels.
        budget: bytes of activations held in memory, for each of the two models; the largest matrices come off it.
        providers: that the models run on.
        journal: where finished fits lie; its key is all of the above.
        progress: called with the stage and the share that is done.
        watch: called for each batch with the outputs of the source and of the result, when everything is fitted.

    Raises:
        ModelError: ONNX Runtime can't run a model on the samples.
    """
    section = None
    if journal is not None:
        section = journal.section("fits", prepared.model, alive, pruned, samples, mode, budget, asdict(providers))
    result = onnx.ModelProto()
    result.CopyFrom(pruned)
    dense = Stream(with_states(lift(prepared.model)), samples, budget, providers)
    work = with_states(lift(result))
    shape_of = groups.trace.shape_of
    behind = steps_behind(Flow(work), dense.flow, shape_of)
    added = give_slots(result, work, [x for x in behind if isinstance(x, Linear)], groups)
    if mode != "none":
        give_vectors(result, prepared.model, groups, alive)
    sliced = Stream(with_states(lift(result)), samples, budget, providers)
    touched = {x.y for x in behind}
    order = [x for x in steps(sliced.flow, shape_of) if x.y in touched]
    for stream in (dense, sliced):
        stream.shelf.budget = max(budget - _matrices(order) // 2, budget // 8)
    state = State(groups, alive, samples, mode, dense, sliced, find_linear(sliced.flow, shape_of))
    ways = find_values(sliced.flow, state.linears, groups, alive) if mode == "lsq" else []
    state.attention = {way.output.y: way for way in ways}
    state.pin()
    if watch is not None and _output_bytes(state) <= budget // 8:
        dense.pinned |= dense.flow.outputs
    state.repairs = Repairs(state, state.linears, [x for x in order if isinstance(x, Linear)])
    fits = _fit_all(state, order, Steps(state, section, progress), progress)
    if watch is not None:
        _show_outputs(state, watch)
    write_weights(result, sliced.weights)
    drop_zeros(result, added)
    return Reconstruction(result, fits)


def _fit_all(state: State, order: list[Step], once: Steps, progress: Progress) -> list[Fit]:
    """Fits everything in graph order; the new weights are in the pruned stream then."""
    repairs = state.repairs
    assert repairs is not None
    costs = {x.node: _cost(state, x) for x in order}
    total = sum(costs.values()) or 1.0
    fits: list[Fit] = []
    pending = list(order)
    while pending:
        first = pending[0]
        together = _together(first, pending)
        start, stop = (1 - sum(costs[x.node] for x in left) / total for left in (pending, _without(pending, together)))
        state.tell = _part(progress, f"reconstructing {first.name}", start, stop)
        state.tell(0.0)

        def fit(first: Step = first, together: list[Step] = together, pending: list[Step] = pending) -> list[Fit]:
            return [*repairs.before(first.node), *_fit(state, first, together, pending)]

        fits += once(f"{first.node} {first.name}", fit, start)
        pending = [x for x in _without(pending, together) if x.node not in state.fitted]
    fits += once("behind the last node", lambda: repairs.before(len(state.pruned.flow.nodes)), 1.0)
    once.finish()
    return fits


def _output_bytes(state: State) -> int:
    """Of the source's outputs for all samples, about."""
    batch = next(iter(state.samples.batches))
    values = [state.values.get(n) for n in state.dense.flow.outputs]
    traced = max((v.shape[0] for n in batch.feeds if (v := state.values.get(n)) and v.shape), default=1)
    return sum(4 * math.prod(v.sizes) for v in values if v and v.shape) * state.samples.count // max(traced, 1)


def _show_outputs(state: State, watch: Watch) -> None:
    """Runs both models to their ends: most of the way lies behind them, where the source's outputs were kept."""
    names = [o.name for o in state.dense.model.graph.output]
    state.tell = lambda done: None
    for before, after in state.views(names, names):
        watch(before.batch, *({n: view.get(n) for n in names} for view in (before, after)))


def _together(first: Step, pending: Sequence[Step]) -> list[Step]:
    """What is fitted in one step: linear nodes that read the same tensor in the same way, or a node by itself."""
    if not isinstance(first, Linear):
        return [first]
    return [x for x in pending if isinstance(x, Linear) and x.x == first.x and x.form == first.form]


def _without(steps: Sequence[Step], some: Sequence[Step]) -> list[Step]:
    return [x for x in steps if x not in some]


def _fit(state: State, first: Step, together: Sequence[Step], pending: Sequence[Step]) -> list[Fit]:
    """One step."""
    state.pin()
    if isinstance(first, Declined):
        return [Fit(first.name, first.weight, "none", reason=first.reason)]
    if isinstance(first, Recurrent):
        return [fit_recurrent(state, first)]
    return fit_linear(state, [x for x in together if isinstance(x, Linear)], pending)


def _matrices(order: Sequence[Step]) -> int:
    """Bytes for the largest fit: moments that fit and that judge, and the matrix that is solved."""
    sizes = [matrix_size(x) for x in order if isinstance(x, Linear)]
    return max((24 * g * k * (k + m) for g, k, m in sizes if k <= LARGEST), default=0)


def _cost(state: State, step: Step) -> float:
    """Seconds for one node, about."""
    if isinstance(step, Recurrent):
        return recurrent_seconds(step, state.samples)
    if isinstance(step, Declined):
        return 0.0
    return 2 * run_seconds(state.pruned.flow, state.groups, step, state.samples) + fit_seconds(
        matrix_size(step), state.samples
    )


def _part(progress: Progress, stage: str, start: float, stop: float) -> Callable[[float], None]:
    return lambda done: progress(stage, min(start + (stop - start) * done, stop))
