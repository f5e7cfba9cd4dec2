"""A model at home with random samples: each channel is normalized as on real data, and the way back is exact."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune.calibrate.batch import Batch, Samples
from onnxprune.calibrate.read import read_samples
from onnxprune.prepare.prepare import prepare
from onnxprune.proof.session import run
from onnxprune.recover.normalization import at_home, brought_back

MODELS = Path(__file__).resolve().parents[2] / "models"


@pytest.fixture(scope="module")
def resnet():
    return prepare(onnx.load(MODELS / "resnet.onnx")).model


@pytest.fixture(scope="module")
def labelled():
    with np.load(MODELS / "fashion_mnist.npz") as held:
        images = ((held["images"][:600, None] / 255.0 - held["mean"]) / held["std"]).astype(np.float32)
        return images, held["labels"][:600]


def accuracy(model, labelled):
    (logits,) = run(model, {"image": labelled[0]}, ["logits"])
    return float((logits.argmax(1) == labelled[1]).mean())


def outputs_of_normalizations(model):
    return [n.output[0] for n in model.graph.node if n.op_type == "BatchNormalization"]


def test_every_channel_gets_the_moments_that_it_has_on_real_data(resnet):
    samples = read_samples(None, resnet, samples=32)
    home = at_home(resnet, samples)
    assert len(home.matches) == 15 and "15 BatchNormalization nodes" in home.text
    names = outputs_of_normalizations(resnet)
    feeds = {"image": np.concatenate([b.feeds["image"] for b in samples.batches])}
    tensors = {t.name: numpy_helper.to_array(t) for t in resnet.graph.initializer}
    tensors |= {n.output[0]: tensors[n.input[0]] for n in resnet.graph.node if n.op_type == "Identity"}
    found = run(with_outputs(home.model, names), feeds, names)
    before = run(with_outputs(resnet, names), feeds, names)
    off = []
    for node, at, away in zip([n for n in resnet.graph.node if n.output[0] in names], found, before, strict=True):
        scale, shift = tensors[node.input[1]], tensors[node.input[2]]
        wide = np.abs(scale) > 1e-2
        np.testing.assert_allclose(at.mean(axis=(0, 2, 3)), shift, atol=2e-3)
        np.testing.assert_allclose((at.std(axis=(0, 2, 3)) / np.abs(scale))[wide], 1, atol=0.05)
        off.append(np.abs((away.std(axis=(0, 2, 3)) / np.abs(scale))[wide] - 1).max())
    assert max(off) > 0.5  # which they have not by themselves


def test_images_are_closer_to_the_stored_statistics_than_noise(resnet):
    noise = np.random.default_rng(0).standard_normal((32, 1, 28, 28)).astype(np.float32)
    white = Samples([Batch({"image": noise}, 32)], 32, "noise", True, None)
    images = read_samples(None, resnet, samples=32)
    first = [at_home(resnet, s).matches[0] for s in (images, white)]
    assert first[0].spread < 0.8 * first[1].spread


def test_the_way_back_is_exact(resnet):
    home = at_home(resnet, read_samples(None, resnet, samples=32))
    back = brought_back(home.model, resnet)
    want, found = ({t.name: numpy_helper.to_array(t) for t in m.graph.initializer} for m in (resnet, back))
    assert want.keys() == found.keys()
    for name, array in want.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_a_shift_that_was_fitted_keeps_its_size_in_front_of_the_normalization(resnet):
    home = at_home(resnet, read_samples(None, resnet, samples=32))
    node = next(n for n in resnet.graph.node if n.op_type == "BatchNormalization")
    changed = onnx.ModelProto()
    changed.CopyFrom(home.model)
    tensors = {t.name: t for t in changed.graph.initializer}
    scale, shift, _, variance = (numpy_helper.to_array(tensors[n]) for n in node.input[1:5])
    tensors[node.input[2]].CopyFrom(numpy_helper.from_array(shift + 0.5 * scale / np.sqrt(variance + 1e-5), node.input[2]))
    back = {t.name: numpy_helper.to_array(t) for t in brought_back(changed, resnet).graph.initializer}
    stored = {t.name: numpy_helper.to_array(t) for t in resnet.graph.initializer}
    expected = stored[node.input[2]] + 0.5 * scale / np.sqrt(stored[node.input[4]] + 1e-5)
    np.testing.assert_allclose(back[node.input[2]], expected, rtol=1e-3, atol=1e-5)


def test_models_without_stored_statistics_stay_as_they_are():
    model = prepare(onnx.load(MODELS / "resnet_folded.onnx")).model
    home = at_home(model, read_samples(None, model, samples=4))
    assert home.model is model and home.text == ""


def test_without_data_half_of_the_inner_channels_go_at_little_loss(labelled):
    options = {"ratio": 0.5, "only": ["blocks.*.bn1.weight"], "check": False}
    by_weights = onnxprune.prune(MODELS / "resnet.onnx", **options)
    found = onnxprune.prune(MODELS / "resnet.onnx", data="synthetic", samples=96, **options)
    assert "matched" in found.report.calibration
    assert accuracy(by_weights.model, labelled) < 0.75
    assert accuracy(found.model, labelled) > 0.88


def test_without_data_and_without_normalizations(labelled):
    options = {"ratio": 0.5, "only": [f"onnx::Conv_{n}" for n in (151, 157, 163, 172, 178, 187)], "check": False}
    by_weights = onnxprune.prune(MODELS / "resnet_folded.onnx", **options)
    found = onnxprune.prune(MODELS / "resnet_folded.onnx", data="synthetic", samples=96, **options)
    assert accuracy(by_weights.model, labelled) < 0.4
    assert accuracy(found.model, labelled) > 0.8


def with_outputs(model, names):
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.output[:]
    result.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in names)
    return result
