import numpy as np
import pytest

from onnxprune.calibrate.read import read_samples
from onnxprune.io.load import load_model
from onnxprune.pipeline.stages import analysed
from onnxprune.proof.session import open_session
from onnxprune.recover.merge import merge_channels
from onnxprune.search.stitched import OutputError, Stitched, judged
from onnxprune.select.context import ScoreContext
from onnxprune.select.criteria import score
from onnxprune.statistics.channels import channel_statistics
from onnxprune.statistics.removal import SAMPLES as REMOVED
from onnxprune.statistics.removal import removal_effects
from onnxprune.surgery.apply import apply_alive
from tests.search.conftest import DATA, MODELS


class Setting:
    def __init__(self, name, samples=24):
        model = load_model(MODELS / f"{name}.onnx")
        self.prepared, self.groups = analysed(model, width=False, shapes=None)
        self.samples = read_samples(DATA, model, samples=samples)
        self.statistics = channel_statistics(self.prepared.model, self.groups, self.samples)
        self.scores = score(ScoreContext(self.groups, self.statistics), "obs")
        self.stitched = Stitched(self.prepared.model, self.groups, self.statistics)
        self.errors = OutputError(self.stitched, judged(self.prepared.model, self.samples, samples), self.samples.mask)

    def half(self, *ids):
        pairs = zip(self.groups.groups, self.scores, strict=True)
        return {
            g.id: [np.sort(np.argsort(v, kind="stable")[: g.units // 2]).tolist() for v in values]
            for g, values in pairs
            if g.id in ids
        }

    def by_surgery(self, removed, *, repair):
        """The same error of a model that was really cut, and merged."""
        by_id = {g.id: g for g in self.groups.groups}
        gone = np.concatenate([by_id[g].buckets[b][k] for g, rows in removed.items() for b, r in enumerate(rows) for k in r])
        alive = self.groups.alive_labels(gone)
        model = apply_alive(self.prepared.model, self.groups, alive)
        if repair:
            model = merge_channels(self.prepared, self.groups, alive, model, self.statistics, correct=False).model
        session, held = open_session(model, optimize=True)
        total = np.zeros(2)
        for batch, rows in self.errors.batches:
            feeds = {i.name: batch.feeds[i.name] for i in session.get_inputs()}
            (after,) = session.run(self.stitched.outputs, feeds)
            before = self.stitched.run(batch, self.stitched.feeds({}))[self.stitched.outputs[0]]
            total += ((after - before)[rows] ** 2).sum(), (before[rows] ** 2).sum()
        assert held
        return total[0] / total[1]


# A residual width and an inner one; depthwise convolutions; heads, their dimensions and an MLP; a recurrent layer.
@pytest.mark.parametrize(
    ("name", "groups"),
    [("resnet", ("g0", "g8")), ("mobilenet", ("g2", "g5")), ("vit_legacy", ("g0", "g2", "g4")), ("gru", ("g0", "g1"))],
)
def test_a_candidate_computes_what_surgery_and_merging_give(name, groups):
    setting = Setting(name, 256 if name == "gru" else 24)  # one row of each sample there, for 96 channels
    assert setting.errors.of({}) == 0
    for ids in [(g,) for g in groups] + [groups]:
        removed = setting.half(*ids)
        for repair in (False,) if name == "gru" else (False, True):  # merging leaves recurrent nodes alone
            found = setting.errors.of(removed, repair=repair)
            assert found == pytest.approx(setting.by_surgery(removed, repair=repair), rel=2e-3, abs=1e-9)
    halves = [setting.half(g.id) for g in setting.groups.groups]
    plain, repaired = (sum(setting.errors.of(half, repair=repair) for half in halves) for repair in (False, True))
    assert repaired < 0.7 * plain


@pytest.mark.parametrize("group", ["g0", "g1"])
def test_recurrent_readers_make_up_for_a_removal_as_is_foretold(group):
    setting = Setting("gru", 64)
    removed = setting.half(group)
    own = next(g for g in setting.groups.groups if g.id == group)
    gone = np.concatenate([own.buckets[b][k] for b, rows in enumerate(removed[group]) for k in rows])
    given = setting.prepared.model, setting.groups, setting.samples, setting.statistics
    foretold = removal_effects(*given, {group: [gone]})[group][0]
    errors = OutputError(setting.stitched, judged(setting.prepared.model, setting.samples, REMOVED), None)
    assert errors.of(removed) == pytest.approx(foretold, rel=0.05)  # merging has a larger ridge
    assert errors.of(removed) < 0.3 * errors.of(removed, repair=False)


def test_the_bank_is_a_memory_and_nothing_else():
    setting = Setting("unet", 8)
    ids = [g.id for g in setting.groups.groups]
    first = {g: setting.errors.of(setting.half(g)) for g in ids}
    together = setting.errors.of(setting.half(*ids))
    assert len(setting.stitched._bank) == len(ids)
    assert {g: setting.errors.of(setting.half(g)) for g in reversed(ids)} == first
    assert together == setting.errors.of(setting.half(*ids))
    setting.stitched._bank.clear()
    assert together == setting.errors.of(setting.half(*ids))
    dense = Setting("unet", 8).stitched.feeds({})
    assert all(np.array_equal(dense[n], a) for n, a in setting.stitched.feeds({}).items())
