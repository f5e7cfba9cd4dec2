"""Samples run on the providers that are asked for, or an error says why not; moments are the same wherever they are taken."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxprune
from onnxprune.calibrate.read import read_samples
from onnxprune.errors import UsageError
from onnxprune.pipeline import pruning
from onnxprune.pipeline.stages import analysed
from onnxprune.statistics.channels import channel_statistics
from onnxprune.statistics.providers import CPU, Providers, parse_providers
from onnxprune.statistics.stream import Stream

MODELS = Path(__file__).resolve().parents[2] / "models"
NAMES = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.mark.parametrize("text", ["cpu", "CPU", "CPUExecutionProvider", "cpuexecutionprovider"])
def test_names(text):
    assert parse_providers([text]) == CPU and parse_providers([]) == CPU and CPU.device == ("cpu", 0)


def test_options_and_order(monkeypatch):
    monkeypatch.setattr(ort, "get_available_providers", lambda: NAMES)
    found = parse_providers(["cuda:device_id=1, gpu_mem_limit=1000", "cpu"])
    assert found.chosen == (
        ("CUDAExecutionProvider", (("device_id", "1"), ("gpu_mem_limit", "1000"))),
        ("CPUExecutionProvider", ()),
    )
    assert found.device == ("cuda", 1) and found.in_graph and not parse_providers(["cpu", "cuda"]).in_graph


@pytest.mark.parametrize(
    ("text", "message"),
    [("cuda", "it has .*cpu"), ("cpu:device_id", "NAME=VALUE"), ("cpu:device_id=x", "is a number"), ("", "it has")],
)
def test_wrong_ones(monkeypatch, text, message):
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(UsageError, match=message):
        parse_providers([text])


def test_a_provider_that_does_not_start_is_noticed():
    """ONNX Runtime would warn and go on with the CPU."""
    model = onnx.load(MODELS / "resnet.onnx")
    samples = read_samples(MODELS / "fashion_mnist.npz", model, samples=2)
    absent = Providers((("CUDAExecutionProvider", ()), ("CPUExecutionProvider", ())))
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("it is there")
    with pytest.raises(UsageError, match="'cuda' .* did not start.*cpu"), pytest.warns(UserWarning):
        Stream(model, samples, providers=absent).compute([model.graph.output[0].name])


@pytest.mark.parametrize("name", ["resnet", "vit_legacy", "gru"])
def test_statistics_are_those_of_the_host(name):
    prepared, groups = analysed(onnx.load(MODELS / f"{name}.onnx"), width=False, shapes=None)
    samples = read_samples(MODELS / "fashion_mnist.npz", prepared.model, samples=16, batch=6)
    host, device = (
        channel_statistics(prepared.model, groups, samples, providers=Providers(in_graph=g)) for g in (False, True)
    )
    assert len(host) == len(device) > 2
    for one, two in zip(host, device, strict=True):
        scale = np.sqrt(np.diag(one.covariance)) + 1e-30
        assert (one.tensor, one.rows) == (two.tensor, two.rows)
        assert (np.abs(one.covariance - two.covariance) <= 1e-5 * scale[:, None] * scale).all()
        assert (np.abs(one.mean - two.mean) <= 1e-5 * (np.abs(one.mean) + scale)).all()
        assert np.abs(one.zeros - two.zeros).max() <= 1e-3  # of values that are 0 but for rounding


def test_whatever_reads_samples_runs_on_them(monkeypatch):
    """Statistics, sensitivity, reconstruction and the comparison of outputs."""
    source = onnx.load(MODELS / "resnet.onnx")
    samples = read_samples(MODELS / "fashion_mnist.npz", source, samples=4)
    opened = []
    inner = Providers.open
    monkeypatch.setattr(Providers, "open", lambda self, *others: opened.append(self) or inner(self, *others))
    given = ["cpu:use_arena=1"]
    onnxprune.prune(source, ratio=0.3, ranking="global", data=samples, providers=given, check=False)
    assert set(opened) == {parse_providers(given)} and len(opened) > 4


@pytest.mark.parametrize("name", ["vit_legacy", "mobilenet"])
def test_fits_are_those_of_the_host(monkeypatch, name):
    """The whole way, with residual sums, attention, grouped and strided convolutions."""
    source = onnx.load(MODELS / f"{name}.onnx")
    samples = read_samples(MODELS / "fashion_mnist.npz", source, samples=24)
    found = []
    for in_graph in (False, True):
        monkeypatch.setattr(pruning, "parse_providers", lambda names, g=in_graph: Providers(in_graph=g))
        found.append(onnxprune.prune(source, ratio=0.3, criterion="l2", data=samples, check=False).report.fits)
    assert len(found[0]) == len(found[1]) > 2
    for one, two in zip(*found, strict=True):
        assert (one.node, one.reason) == (two.node, two.reason)
        assert one.lost_after == pytest.approx(two.lost_after, rel=1e-3, abs=1e-5)
        assert one.lost_before == pytest.approx(two.lost_before, rel=1e-3, abs=1e-5)
