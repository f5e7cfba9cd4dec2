"""`onnxprune report` on the command line."""

import pytest


@pytest.fixture
def pruned(invoke, model, tmp_path):
    path = tmp_path / "prune.json"
    done = invoke("prune", model, "-o", tmp_path / "small.onnx", "--reconstruct", "none", "--report-out", path)
    assert done.code == 0, done.err
    return path


@pytest.mark.parametrize("suffix", ["html", "md", "csv"])
def test_forms(invoke, pruned, tmp_path, suffix):
    done = invoke("report", pruned, "-o", tmp_path / f"report.{suffix}", "--title", "Night run <1>")
    assert done.code == 0 and not done.err and "Night run <1>" in done.out
    text = (tmp_path / f"report.{suffix}").read_text("utf-8")
    assert "small.onnx" in text and "Night run <1>" not in text


def test_one_line_errors(invoke, pruned, model, tmp_path):
    out = tmp_path / "report.html"
    cases = [
        (("report", pruned, "-o", tmp_path / "report.pdf"), 2, "the suffix tells the form"),
        (("report", model, "-o", out), 1, "is no JSON"),
        (("report", tmp_path / "none.json", "-o", out), 1, "can't be read"),
        (("report", pruned, "-o", tmp_path / "none" / "report.html"), 2, "does not exist"),
        (("report", "-o", out), 2, "Missing argument"),
    ]
    for arguments, code, said in cases:
        done = invoke(*arguments)
        assert (done.code, said in done.err, done.err.count("\n")) == (code, True, 1), done.err
        assert not out.exists()


def test_an_input_is_never_replaced(invoke, pruned, tmp_path):
    page = tmp_path / "x.html"
    page.write_bytes(pruned.read_bytes())
    done = invoke("report", page, "-o", page)
    assert done.code == 2 and "used twice" in done.err and page.read_bytes() == pruned.read_bytes()


def test_files_of_other_commands(invoke, pruned, model, tmp_path):
    """What profile and compare print today is read, and is of the same models as the pruning."""
    small, files = tmp_path / "small.onnx", [pruned]
    for k, arguments in enumerate((("profile", model), ("profile", small), ("compare", model, small))):
        done = invoke(*arguments, "--json")
        files.append(tmp_path / f"{k}.json")
        files[-1].write_text(done.out, "utf-8")
        assert '"format": "onnxprune.' in done.out, done.err
    done = invoke("report", *files, "-o", tmp_path / "report.html")
    assert done.code == 0, done.err
    text = (tmp_path / "report.html").read_text("utf-8")
    assert f"{model.name} → small.onnx" in text
    assert "Comparison of" in text and "MACs of layers" in text
