"""A run that is cut off anywhere goes on, and ends with the same bits as one that never was."""

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.calibrate.read import read_samples
from onnxprune.cli import run
from onnxprune.io.journal import Journal
from onnxprune.recover import reconstruct, repair
from onnxprune.recover.resume import Recorder
from onnxprune.statistics import gate_gradients
from onnxprune.statistics.flow import lift
from onnxprune.statistics.stream import Stream

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "models"


def prune(name, folder, count=16, cut_at=None, ratio=0.3):
    """Prunes; `cut_at`: an interrupt when the fit of that number begins, 0 within the statistics."""
    seen = []

    def progress(stage, share):
        if stage.startswith("reconstructing" if cut_at else "reading activations") and stage not in seen:
            seen.append(stage)
        if cut_at is not None and len(seen) == max(cut_at, 1):
            raise KeyboardInterrupt

    source = onnx.load(MODELS / f"{name}.onnx")
    data = read_samples(MODELS / "fashion_mnist.npz", source, samples=count)
    ranking = "global" if name == "vit_legacy" else "local"
    return onnxprune.prune(source, ratio=ratio, ranking=ranking, data=data, resume=folder, progress=progress, check=False)


def bits(result):
    return result.model.SerializeToString(deterministic=True), result.report.fits


@pytest.fixture(scope="module")
def whole():
    return {name: bits(prune(name, None)) for name in ("resnet", "vit_legacy")}


@pytest.mark.parametrize(("name", "cuts"), [("resnet", [0, 4]), ("vit_legacy", [9])])
def test_interrupts_change_nothing(tmp_path, whole, name, cuts):
    for cut in cuts:
        with pytest.raises(KeyboardInterrupt):
            prune(name, tmp_path, cut_at=cut)
    written = len(list(tmp_path.glob("fits-*/*.npz")))
    assert written == max(cuts) - 1
    assert bits(prune(name, tmp_path)) == whole[name]
    again = prune(name, tmp_path)
    assert bits(again) == whole[name] and again.report.resumed.endswith("0 new ones")


def test_what_does_not_fit_is_made_again(tmp_path, whole):
    """Another ratio shares the statistics only; a damaged fit is fitted anew, and so is what comes behind it."""
    prune("vit_legacy", tmp_path, ratio=0.5)
    assert bits(prune("vit_legacy", tmp_path)) == whole["vit_legacy"]
    assert len(list(tmp_path.glob("fits-*"))) == 2 and len(list(tmp_path.glob("statistics-*"))) == 1
    for files in (sorted(folder.glob("*.npz")) for folder in tmp_path.glob("fits-*")):
        files[3].write_bytes(files[3].read_bytes()[:100])
    assert bits(prune("vit_legacy", tmp_path)) == whole["vit_legacy"]


KILL = """
import os, signal, sys
from onnxprune.recover import resume
inner, left = resume.Recorder.finished, [int(sys.argv.pop(1))]
def finished(*arguments):
    entry = inner(*arguments)
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return entry
resume.Recorder.finished = finished
from onnxprune.cli import run
sys.exit(run(sys.argv[1:]))
"""
FITS = [(reconstruct, "fit_linear"), (reconstruct, "fit_recurrent"), (repair, "fit_logits"), (repair, "fit_scale")]


@pytest.fixture
def fitted(monkeypatch):
    """What was fitted: kind of the fit, and what it was given."""
    calls = []

    def noted(module, name):
        inner = getattr(module, name)

        def fit(state, what, *others):
            calls.append((name, repr(what)))
            return inner(state, what, *others)

        monkeypatch.setattr(module, name, fit)

    for module, name in FITS:
        noted(module, name)
    return calls


def killed(name, work, finished, *options):
    """The command line with 16 samples and a folder to resume from, killed behind a fit when so many are kept."""
    output = work.parent / "out.onnx"
    data = ["--data", str(MODELS / "fashion_mnist.npz"), "--samples", "16", "--resume", str(work)]
    arguments = ["prune", str(MODELS / f"{name}.onnx"), "-o", str(output), *data, "--no-verify", "--no-latency", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", KILL, str(finished), *arguments], env=environment, capture_output=True, text=True
    )


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize(("name", "options", "finished", "left"), [
    ("resnet", {}, 6, {"fit_linear": 9}),
    ("vit_legacy", {"attention": "head-dim"}, 5, {"fit_linear": 11, "fit_logits": 2}),  # queries, keys, values
    ("vit_legacy", {"width": True, "reconstruct": "affine"}, 9, {"fit_linear": 8, "fit_scale": 4}),
    ("gru", {}, 1, {"fit_linear": 1, "fit_recurrent": 1}),
])  # fmt: skip
def test_a_killed_process_goes_on(tmp_path, fitted, name, options, finished, left):
    """Killed after a fit, before anything of it was kept. All else is there: no step is fitted a second time."""
    given = [f"--{k}" if v is True else f"--{k}={v}" for k, v in options.items()]
    dead = killed(name, tmp_path / "work", finished, *given)
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    assert len(list((tmp_path / "work").glob("fits-*/*.npz"))) == finished
    source = onnx.load(MODELS / f"{name}.onnx")
    data = read_samples(MODELS / "fashion_mnist.npz", source, samples=16)
    whole = bits(onnxprune.prune(source, data=data, check=False, **options))
    all_of_it, fitted[:] = list(fitted), []
    assert bits(onnxprune.prune(source, data=data, check=False, resume=tmp_path / "work", **options)) == whole
    assert fitted == all_of_it[-len(fitted) :] and Counter(kind for kind, _ in fitted) == left
    fitted.clear()
    assert bits(onnxprune.prune(source, data=data, check=False, resume=tmp_path / "work", **options)) == whole
    assert not fitted


def test_calls_that_are_repeated_lead_to_the_same_state(tmp_path):
    """Weights that come and go, pins, nodes that run again: a stream holds the same tensors then, and no others."""
    source = onnx.load(MODELS / "resnet.onnx")
    samples = read_samples(MODELS / "fashion_mnist.npz", source, samples=4)
    first, second = (Stream(lift(source), samples) for _ in range(2))
    flow = first.flow
    nodes = [k for k, node in enumerate(flow.nodes) if node.op_type == "Conv"]
    names = [flow.nodes[k].output[0] for k in nodes]
    weights = [flow.nodes[k].input[1] for k in nodes]
    recorder = Recorder({"one": first})
    recorder.start()
    first.pinned |= {names[1]}
    first.compute([names[2]])
    first.weights[weights[2]] = 2 * flow.constant(weights[2])
    first.weights[weights[4]] = 0 * flow.constant(weights[4])
    first.redo([nodes[2]])
    for _ in first.walk([names[3]]):
        pass
    entries = [recorder.finished({})]
    first.pinned = {flow.nodes[nodes[3]].input[0]}
    del first.weights[weights[4]]
    first.compute([names[5]])
    first.pinned |= {names[6]}
    entries.append(recorder.finished({}))
    section = Journal(tmp_path).section("test", 1)
    told = []
    for k, entry in enumerate(entries):
        section.put(str(k), entry)
        Recorder({"one": second}).repeat(section.get(str(k)), told.append)
    assert first.pinned == second.pinned and first.done == second.done and first.shelf.bytes == second.shelf.bytes > 0
    assert told == [1 / 4, 2 / 4, 3 / 4, 1, 1 / 2, 1]
    for one, two in ((first.weights, second.weights), (first.held, second.held)):
        assert one.keys() == two.keys() and all(np.array_equal(one[n], two[n]) for n in one)


def test_the_command_line_tells_what_it_took_over(tmp_path, capsys):
    data = ["--data", str(MODELS / "fashion_mnist.npz"), "--samples", "16", "--resume", str(tmp_path / "work")]
    told = []
    for _ in range(2):
        run(["prune", str(MODELS / "gru.onnx"), "-o", str(tmp_path / "out.onnx"), *data, "--no-verify", "--no-latency"])
        told.append(capsys.readouterr().out)
    assert " 0 results of" in told[0] and " 0 new ones" in told[1] and " 0 results of" not in told[1]


def test_gradients_are_kept(tmp_path, monkeypatch):
    """All that they follow from is in the key: other labels make other ones."""
    source = onnx.load(MODELS / "resnet.onnx")
    data = read_samples(MODELS / "fashion_mnist.npz", source, samples=8)
    runs = []
    inner = gate_gradients._Pass.run
    monkeypatch.setattr(gate_gradients._Pass, "run", lambda *a: runs.append(1) or inner(*a))
    settings = dict(data=data, criterion="fisher", reconstruct="none", check=False)
    whole = onnxprune.prune(source, **settings)
    once, again = (onnxprune.prune(source, resume=tmp_path, **settings) for _ in range(2))
    assert len(runs) == 2 and bits(whole) == bits(once) == bits(again)
    assert whole.report.gradients == again.report.gradients and whole.plan == again.plan
    onnxprune.prune(source, resume=tmp_path, labels=list(range(8)), **settings)
    onnxprune.prune(source, resume=tmp_path, seed=1, **settings)
    assert len(runs) == 4
