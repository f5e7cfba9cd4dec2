"""Reverse mode on a real model against torch's own gradients; where torch is not installed, differences have to do."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxprune.calibrate.read import read_samples
from onnxprune.pipeline.stages import analysed
from onnxprune.statistics.gate_gradients import gate_gradients

torch = pytest.importorskip("torch")
MODELS = Path(__file__).resolve().parents[2] / "models"


def network(model):
    """The network that the file was exported from, with its weights."""
    spec = importlib.util.spec_from_file_location("architectures", MODELS / "architectures.py")
    module = sys.modules["architectures"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.ResNet()
    weights = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in model.graph.initializer}
    aliases = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "Identity"}
    state = {n: weights[aliases.get(n, n)] for n in found.state_dict() if "num_batches" not in n}
    found.load_state_dict(state, strict=False)
    return found.eval()


def test_squared_gradients_of_inner_channels():
    model = onnx.load(MODELS / "resnet.onnx")
    prepared, groups = analysed(model, width=False, shapes=None)
    labels = np.random.default_rng(0).integers(0, 10, 1024)
    data = read_samples(MODELS / "fashion_mnist.npz", model, samples=40, labels=labels)
    found = gate_gradients(prepared.model, groups, data)
    net = network(model)
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    images = torch.from_numpy(np.concatenate([b.feeds["image"] for b in data.batches])).requires_grad_()
    read = {}

    def keep(name):
        def hook(module, inputs):
            inputs[0].retain_grad()
            read[name] = inputs[0]

        return hook

    for k, block in enumerate(net.blocks):
        block.conv2.register_forward_pre_hook(keep(f"blocks.{k}.bn1.weight"))
    torch.nn.functional.cross_entropy(net(images), torch.from_numpy(labels[:40]), reduction="sum").backward()
    assert len(read) == 6
    for name, x in read.items():
        (group,) = (g for g in groups.groups if (name, 0) in g.members)
        by_sample = (x * x.grad).sum(dim=(2, 3)).detach().double().numpy()
        np.testing.assert_allclose(found.squares[group.id], np.square(by_sample).mean(axis=0), rtol=1e-3, atol=1e-8)
        np.testing.assert_allclose(found.magnitudes[group.id], np.abs(by_sample).mean(axis=0), rtol=1e-3, atol=1e-5)
