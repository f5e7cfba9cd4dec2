"""Units planted into the trained models, which have none: all are found, nothing else is, and no output changes."""

from pathlib import Path

import onnx
import pytest

from onnxprune.lossless.find import find_lossless
from tests.lossless.plants import Planted, outcome, unit_of

MODELS = Path(__file__).resolve().parents[2] / "models"
NAMES = ["gru", "mobilenet", "resnet", "resnet_folded", "unet", "vit_dynamo", "vit_legacy"]
ROUNDING = 1e-6


def homogeneous(plants: Planted, group) -> bool:
    """What the group writes passes nothing but Relu and sums: by the node that reads its first weight."""
    first = group.members[0][0]
    node = next(n for n in plants.groups.trace.graph.nodes if first in [t.name for t in n.inputs])
    return node.op in ("Conv", "ConvTranspose") and not any(x in node.name for x in ("stem.0", "expand.0", "head"))


@pytest.mark.parametrize("name", NAMES)
def test_trained_models_have_none_and_all_plants_are_found(name):
    plants = Planted(onnx.load(MODELS / f"{name}.onnx"))
    trained = find_lossless(plants.prepared, plants.groups)
    assert (trained.units, trained.refused, trained.edits) == ([], [], {})
    expected: dict[tuple[str, int], tuple[str, int]] = {}  # unit -> kind, and the other unit that may go instead
    for group in plants.groups.groups:
        if group.kind == "head-dim":
            continue
        few = group.units < 8
        plants.unread(unit_of(group, 1))
        expected[group.id, 1] = ("unread", 1)
        plants.multiple(unit_of(group, 2), unit_of(group, 3))
        expected[group.id, 3] = ("duplicate", 2)
        if few:
            continue
        plants.zero(unit_of(group, 5))
        expected[group.id, 5] = ("zero", 5)
        if name not in ("gru", "vit_dynamo", "vit_legacy") and homogeneous(plants, group):
            plants.multiple(unit_of(group, 6), unit_of(group, 7), 1.7)
            expected[group.id, 7] = ("multiple", 6)
    pruned, found, groups, error = outcome(plants.build())
    buckets = {g.id: len(g.buckets) for g in groups.groups}
    units = {(u.group, u.bucket, u.index): u.kind for u in found.units}
    for (group, k), (kind, other) in expected.items():
        for b in range(buckets[group]):
            assert units.pop((group, b, k), None) or units.pop((group, b, other), None) == kind, (group, b, k, kind)
    assert units == {}
    assert error < ROUNDING


def test_head_dimensions():
    """One of each head: the key and the value are 0."""
    plants = Planted(onnx.load(MODELS / "vit_dynamo.onnx"))
    for group in [g for g in plants.groups.groups if g.kind == "head-dim"][:2]:
        plants.zero(unit_of(group, 3))
    _, found, groups, error = outcome(plants.build())
    assert {u.group for u in found.units} == {g.id for g in groups.groups if g.kind == "head-dim"} - {"g7", "g10"}
    assert {u.index for u in found.units} == {3}
    assert error < ROUNDING


def test_constants_of_a_batch_norm():
    """A scale of 0 and a shift that the Relu cuts off is 0; one that it lets through meets the padding of what follows."""
    plants = Planted(onnx.load(MODELS / "resnet.onnx"))
    group = next(g for g in plants.groups.groups if ("blocks.0.bn1.weight", 0) in g.members)
    for k, shift in ((4, -0.5), (9, 0.5)):
        for name, index in plants.slices(unit_of(group, k), reading=False):
            if name.startswith("blocks.0.bn1."):
                plants.change(name, index, {"weight": 0.0, "bias": shift}.get(name.split(".")[-1], 1.0))
    _, found, _, error = outcome(plants.build())
    assert [(u.index, u.kind) for u in found.units] == [(4, "zero")]
    assert [(r[2], r[3]) for r in found.refused] == [
        (9, "Conv '/blocks/blocks.0/conv2/Conv' pads, so that a constant of 0.5 is another one at the borders")
    ]
    assert error < ROUNDING


def test_constants_fold_into_the_bias():
    """Before a convolution with one tap and one without padding."""
    for name, reader in (("unet", "out.weight"), ("mobilenet", "blocks.1.se.expand.weight")):
        plants = Planted(onnx.load(MODELS / f"{name}.onnx"))
        group = next(g for g in plants.groups.groups if (reader, 1) in g.members)
        for weight, index in plants.slices(unit_of(group, 2), reading=False):
            plants.change(weight, index, 0.0 if plants.weights[weight].ndim > 1 else 0.75)
        _, found, _, error = outcome(plants.build())
        assert [(u.group, u.index, u.kind) for u in found.units] == [(group.id, 2, "constant")]
        assert reader.replace("weight", "bias") in found.edits
        assert error < ROUNDING
