"""Every error is one line on stderr with its exit code, and leaves nothing behind."""

import os
import zipfile

import numpy as np
import onnx
import pytest

from onnxprune import cli
from tests.cli.conftest import CONVS, make


def complains(outcome, code: int, *words: str) -> None:
    assert outcome.code == code
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1 and outcome.err.endswith("\n")
    assert "Traceback" not in outcome.err
    for word in words:
        assert word in outcome.err


def save(path, data: bytes):
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: b"", ["empty"]),
        (lambda data: data[: len(data) // 2], ["truncated"]),
        (lambda data: b"not a model at all", ["not an ONNX model"]),
        (lambda data: b"PK\x03\x04" + data, ["zip"]),
    ],
)
@pytest.mark.parametrize("command", ["prune", "inspect"])
def test_broken_files(invoke, model, tmp_path, command, damage, words):
    broken = save(tmp_path / "broken.onnx", damage(model.read_bytes()))
    out = tmp_path / "out.onnx"
    arguments = ["-o", out] if command == "prune" else []
    complains(invoke(command, broken, *arguments), 1, str(broken), *words)
    assert not out.exists()


def test_a_missing_file(invoke, tmp_path):
    complains(invoke("prune", tmp_path / "no.onnx", "-o", tmp_path / "out.onnx"), 1, "no.onnx", "no such file")


def test_a_model_that_breaks_the_specification(invoke, tmp_path):
    model = make(CONVS, w1=(16, 1, 3, 3), w2=(4, 16, 3, 3))
    model.graph.node[1].input[0] = "nowhere"
    path = tmp_path / "bad.onnx"
    onnx.save(model, path)
    complains(invoke("prune", path, "-o", tmp_path / "out.onnx"), 1, "nowhere")


def test_external_data_that_is_not_there(invoke, model, tmp_path):
    whole = onnx.load(model)
    path = tmp_path / "external.onnx"
    onnx.save(whole, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").unlink()
    complains(invoke("prune", path, "-o", tmp_path / "out.onnx"), 1, "weights.bin")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ratio", "1.5"], ["--ratio 1.5"]),
        (["--ratio", "-0.1"], ["--ratio -0.1"]),
        (["--ratio", "nan"], ["--ratio nan"]),
        (["--ratio", "half"], ["--ratio half"]),
        (["--ratio", "w1=2"], ["w1=2"]),
        (["--ratio", "0.1", "--ratio", "0.2"], ["one ratio"]),
        (["--ratio", "nosuch*=0.2"], ["nosuch*", "inspect"]),
        (["--ignore", "nosuch*"], ["nosuch*", "inspect"]),
        (["--only", "nosuch*"], ["nosuch*", "inspect"]),
        (["--criterion", "l7"], ["l7", "l1, l2"]),
        (["--ranking", "worldwide"], ["worldwide", "local, global"]),
        (["--attention", "tails"], ["tails", "head-dim"]),
        (["--round-to", "0"], ["--round-to"]),
        (["--min-channels", "0"], ["--min-channels"]),
        (["--min-channels", "w1=x"], ["w1=x", "GLOB=NUMBER"]),
        (["--min-channels", "nosuch*=2"], ["nosuch*", "inspect"]),
        (["--target", "macs=2%"], ["macs=2%", "drop=1%"]),
        (["--target", "size=10"], ["size=10", "needs a unit"]),
        (["--target", "drop=1%"], ["--eval"]),
        (["--closest"], ["--closest", "--target"]),
        (["--shape", "x"], ["NAME=N,N"]),
        (["--shape", "x=1,0,8,8"], ["NAME=N,N"]),
        (["--seed", "x"], ["--seed"]),
        (["--samples", "8", "--reconstruct", "none"], ["--samples has no effect"]),
        (["--samples", "8", "--lossless"], ["--samples has no effect"]),
        (["--samples", "8", "--merge"], ["--samples has no effect"]),
        (["--lossless", "--merge"], ["leave out --ratio"]),
        (["--wat"], ["--wat"]),
    ],
)
def test_wrong_options(invoke, model, tmp_path, options, words):
    complains(invoke("prune", model, "-o", tmp_path / "out.onnx", *options), 2, *words)
    assert not (tmp_path / "out.onnx").exists()


def test_a_wrong_command_line(invoke, model):
    complains(invoke("prune", model), 2, "--output")
    complains(invoke("prun", model), 2, "prun")


def test_an_input_shape_that_does_not_fit(invoke, model, tmp_path):
    complains(invoke("prune", model, "-o", tmp_path / "out.onnx", "--shape", "x=1,1,9,9"), 1, "'x'")
    complains(invoke("prune", model, "-o", tmp_path / "out.onnx", "--shape", "z=1,1,8,8"), 1, "'z'")


@pytest.mark.parametrize("option", ["-o", "--plan-out", "--report-out"])
def test_outputs_that_would_overwrite_an_input(invoke, model, tmp_path, option):
    before = model.read_bytes()
    others = [] if option == "-o" else ["-o", tmp_path / "out.onnx"]
    complains(invoke("prune", model, option, model, *others), 2, "used twice")
    (tmp_path / "link.onnx").symlink_to(model)
    complains(invoke("prune", tmp_path / "link.onnx", option, model, *others), 2, "used twice")
    os.link(model, tmp_path / "hard.onnx")
    complains(invoke("prune", tmp_path / "hard.onnx", option, model, *others), 2, "used twice")
    assert model.read_bytes() == before


def test_two_outputs_in_one_file(invoke, model, tmp_path):
    out = tmp_path / "out.onnx"
    complains(invoke("prune", model, "-o", out, "--plan-out", out), 2, "used twice")


def test_output_folders(invoke, model, tmp_path):
    complains(invoke("prune", model, "-o", tmp_path / "no" / "out.onnx"), 2, "does not exist")
    complains(invoke("prune", model, "-o", tmp_path), 2, "is a directory")
    complains(invoke("prune", model, "-o", model / "out.onnx"), 2, "model.onnx is a file, not a folder")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("option", ["-o", "--plan-out", "--report-out"])
def test_an_output_that_is_no_file(invoke, model, tmp_path, option):
    """A new file is renamed into place, which would take a pipe or a device such as /dev/null away."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    others = [] if option == "-o" else ["-o", tmp_path / "out.onnx"]
    complains(invoke("prune", model, option, pipe, *others), 2, "not a regular file")
    assert pipe.is_fifo()


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that nobody can write to")
def test_a_folder_that_nobody_can_write_to(invoke, model):
    complains(invoke("prune", model, "-o", "/proc/self/out.onnx"), 2, "not writable")


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() == 0, reason="root may write everywhere")
def test_a_read_only_folder(invoke, model, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    complains(invoke("prune", model, "-o", folder / "out.onnx"), 2, "not writable")


def test_a_disk_that_is_full(invoke, model, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("onnxprune.io.save.os.fsync", full)
    complains(invoke("prune", model, "-o", tmp_path / "out.onnx", "--no-latency"), 2, "no space left")
    assert sorted(os.listdir(tmp_path)) == ["model.onnx"]


def test_evaluation_data(invoke, model, tmp_path):
    data = tmp_path / "data.npz"
    arguments = ("prune", model, "-o", tmp_path / "out.onnx", "--eval", data)
    complains(invoke(*arguments), 1, "data.npz", "no such file")
    data.write_bytes(b"junk")
    complains(invoke(*arguments), 1, "data.npz")
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("x.npy", b"junk")
    complains(invoke(*arguments), 1, "data.npz")
    np.savez(data, z=np.zeros((3, 1, 8, 8), np.float32))
    complains(invoke(*arguments), 1, "'z'", "'x'")
    np.savez(data, x=np.zeros((3, 1, 9, 9), np.float32))
    complains(invoke(*arguments), 1, "[3, 1, 9, 9]", "[N, 1, 8, 8]")
    np.savez(data, x=np.zeros((3, 1, 8, 8), np.float32), labels=np.zeros(4, int))
    complains(invoke(*arguments), 1, "same number of samples")
    np.savez(data, x=np.zeros((3, 1, 8, 8), np.float32))
    complains(invoke(*arguments), 1, "labels")
    assert not (tmp_path / "out.onnx").exists()


def test_an_internal_error_asks_for_a_report(invoke, model, monkeypatch):
    def broken(*_, **__):
        raise KeyError("oops\nand more")

    monkeypatch.setattr("onnxprune.api.analyze", broken)
    complains(invoke("inspect", model), cli.INTERNAL_ERROR, "KeyError", "report", "--debug")


def test_debug_shows_the_traceback(invoke, tmp_path):
    with pytest.raises(Exception, match="no such file"):
        invoke("inspect", tmp_path / "no.onnx", "--debug")


def test_resume_needs_samples_and_a_folder(invoke, model, tmp_path):
    done = invoke("prune", model, "-o", tmp_path / "out.onnx", "--reconstruct", "none", "--resume", tmp_path / "work")
    assert done.code == 2 and "give --data" in done.err and not (tmp_path / "work").exists()
    (tmp_path / "file").write_text("")
    done = invoke("prune", model, "-o", tmp_path / "out.onnx", "--data", "synthetic", "--resume", tmp_path / "file")
    assert done.code == 2 and len(done.err.strip().splitlines()) == 1 and "can't be made" in done.err


def test_a_provider_that_is_not_there(invoke, model, tmp_path):
    common = ["prune", model, "-o", tmp_path / "out.onnx"]
    done = invoke(*common, "--data", "synthetic", "--provider", "nothing")
    assert done.code == 2 and "'nothing'" in done.err and "cpu" in done.err and len(done.err.strip().splitlines()) == 1
    assert invoke(*common, "--merge", "--provider", "cpu").code == 2
    assert invoke(*common, "--data", "synthetic", "--samples", "4", "--provider", "CPU", "--no-latency").code == 0
