"""The search for the first difference, on the samples that are farthest apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibrate.batch import Batch, Samples, batch_size
from onnxprune.calibrate.signature import signature
from onnxprune.comparison.cause import part
from onnxprune.comparison.kept import kept_slices
from onnxprune.comparison.matching import FEW, Kept, Matching, match
from onnxprune.comparison.outputs import Differences, farthest
from onnxprune.comparison.pair import Pair
from onnxprune.comparison.probe import Probe
from onnxprune.comparison.result import Divergence, Trail
from onnxprune.comparison.search import Origin, search
from onnxprune.comparison.values import pairs_by_values

if TYPE_CHECKING:
    from onnxprune.plan.plan import Plan

_SAMPLES = 4


def find_trail(
    pair: Pair, samples: Samples, differences: Mapping[str, Differences], plan: Plan | None, *, memory: int
) -> Trail:
    """Finds where two models part.

    Args:
        pair: both models.
        samples: that their outputs were compared on.
        differences: of the outputs.
        plan: that the second model was pruned by.
        memory: bytes of tensors that are held at once.

    Raises:
        ModelError: the first model can't be run as it is written.
        PlanError: the plan is for another model.
    """
    batch = _hardest(pair, samples, {} if pair.failed else farthest(differences))
    feeds = batch.feeds
    theirs = {own: feeds[n] for n, own in pair.between.inputs.items() if n in feeds}
    kept = None if plan is None else _kept(pair, plan)
    matching = match(pair.first, pair.second, pair.between, feeds, kept)
    if matching.share < FEW:
        ours, others = (pair.first, matching.only_first, feeds), (pair.second, matching.only_second, pair.second.fed(theirs))
        matching.add(pairs_by_values(ours, others, matching.sizes, memory, pair.providers), "values")
    probe = Probe(pair.first, pair.second, matching, (feeds, pair.second.fed(theirs)), memory, pair.providers)
    outputs = [n for n in pair.between.outputs if n in matching.pairs]
    bound = _tolerance(pair, differences)
    found = search(probe, outputs, bound)
    return Trail(
        [_divergence(pair, matching, probe, o) for o in found.origins],
        found.error,
        found.left,
        found.tolerance,
        found.bound,
        [int(k) for k in batch.samples],
        matching.how,
        len(matching.pairs) + len(matching.only_first) + len(matching.resized),
        len(matching.only_first) + len(matching.resized),
        found.path,
        probe.runs,
        _note(found.error, bound, outputs, matching),
    )


def _note(error: float, bound: float, outputs: list[str], matching: Matching) -> str:
    if not outputs:
        return "no output could be matched: they do not depend on what is fed, or have other shapes"
    if error <= bound:
        return "the graphs agree as they are written: ONNX Runtime's own optimizations make the difference"
    if len(matching.resized) > len(matching.pairs):
        return "most tensors inside have other shapes, as weights have: a plan says which channels to compare (--plan)"
    return ""


def _tolerance(pair: Pair, differences: Mapping[str, Differences]) -> float:
    """Relative error of the outputs that counts as none: rounding, or a tenth of the differences where they are below."""
    most = max((d.found.max_rel for d in differences.values()), default=0.0)
    return pair.noise if pair.failed or most > 10 * pair.noise or not most else most / 10


def _hardest(pair: Pair, samples: Samples, errors: Mapping[int, float]) -> Batch:
    """The batch with the sample that is farthest apart, cut down to a few samples where the model takes fewer."""
    batches = samples.batches
    if not errors:
        return _cut(pair, batches[0], np.arange(_SAMPLES))
    worst = max(errors, key=lambda k: (errors[k], -k))
    for k, batch in enumerate(batches):
        own = batch.samples if pair.batched and len(batch.samples) else np.array([k])
        if worst in own:
            order = np.argsort([-errors.get(int(s), 0.0) for s in own], kind="stable")
            return _cut(pair, batch, np.sort(order[:_SAMPLES]))
    return _cut(pair, batches[0], np.arange(_SAMPLES))


def _cut(pair: Pair, batch: Batch, rows: NDArray[Any]) -> Batch:
    """Some samples of a batch, where the models take any number of them."""
    wanted, size = signature(pair.first.model), batch_size(batch)
    rows = rows[rows < batch.count]
    takes_any = all(signature(s.model).batch is None for s in (pair.first, pair.second))
    if not wanted.batched or not takes_any or any(not a.ndim or len(a) != size for a in batch.feeds.values()):
        return batch
    feeds = {n: np.ascontiguousarray(a[rows]) for n, a in batch.feeds.items()}
    return Batch(feeds, len(rows), batch.samples[rows] if len(batch.samples) else rows)


def _kept(pair: Pair, plan: Plan) -> Kept:
    from onnxprune.errors import PlanError
    from onnxprune.io.structure import sha256_model
    from onnxprune.pipeline.stages import analysed
    from onnxprune.plan.plan import alive_of

    source = pair.first.model
    if sha256_model(source) != plan.sha256:
        raise PlanError(f"the plan is for another model than {pair.first.name}: its hash begins with {plan.sha256[:12]}")
    _, groups = analysed(source, width=True, shapes=None)
    return kept_slices(groups.trace.values, alive_of(plan, groups))


def _divergence(pair: Pair, matching: Matching, probe: Probe, origin: Origin) -> Divergence:
    made = part(pair.first, pair.second, matching, pair.between.inputs, origin.tensor)
    failure = probe.failures.get(origin.tensor, "")
    return Divergence(
        origin.tensor,
        matching.pairs[origin.tensor],
        made.op,
        made.first,
        made.second,
        origin.error,
        origin.inputs,
        origin.explained,
        origin.group,
        made.causes,
        failure,
    )
