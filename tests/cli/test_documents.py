"""Every command and every Python example of the README and of docs/ runs as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import ROOT

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Commands that install: .ci/run runs them, in a copy of the repository and an environment of their own.
INSTALLS = re.compile(r"<!-- ci: \w+ -->\n```sh\n(.*?)\n```", re.DOTALL)


def blocks(path: Path, language: str) -> list[str]:
    text = INSTALLS.sub("", path.read_text("utf-8"))
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.fixture
def place(tmp_path, environment, monkeypatch) -> tuple[Path, dict[str, str]]:
    """A folder that looks like the root of the repository, and an environment where `onnxprune` is a command."""
    root = tmp_path / "root"
    root.mkdir()
    for entry in ROOT.iterdir():
        if not entry.name.startswith(".") and entry.suffix != ".onnx":
            (root / entry.name).symlink_to(entry)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, start in (("onnxprune", f'"{sys.executable}" -m onnxprune'), ("python", f'"{sys.executable}"')):
        script = programs / name
        script.write_text(f'#!/bin/sh\nexec {start} "$@"\n')
        script.chmod(0o755)
    environment["PATH"] = f"{programs}:{environment['PATH']}"
    return root, environment


@pytest.mark.skipif(sys.platform == "win32", reason="needs sh")
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_commands(document, place):
    root, environment = place
    commands = [line for block in blocks(document, "sh") for line in block.splitlines() if line and line[0] != "#"]
    if document.name == "README.md":
        assert len(commands) > 5
    for command in commands:
        done = subprocess.run(command, shell=True, cwd=root, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_python_examples(document, place):
    root, environment = place
    for block in blocks(document, "python"):
        done = subprocess.run([sys.executable, "-c", block], cwd=root, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"


def test_the_readme_has_two_commands_for_a_fresh_machine():
    lines = [match.splitlines() for match in INSTALLS.findall((ROOT / "README.md").read_text("utf-8"))]
    assert [len(block) for block in lines] == [1, 1]
    assert "pip install" in lines[0][0] and "models/resnet.onnx" in lines[0][0]
    assert "pip install" in lines[1][0] and "pytest" in lines[1][0]


def test_links_of_the_readme_lead_somewhere():
    text = (ROOT / "README.md").read_text("utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / target).exists(), target


def test_the_readme_lists_the_exit_codes():
    from onnxprune import cli, errors

    text = (ROOT / "README.md").read_text("utf-8")
    codes = {c.exit_code for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.OnnxPruneError)}
    for code in {0, *codes, cli.INTERNAL_ERROR, cli.INTERRUPTED}:
        assert re.search(rf"^\| {code} \|", text, re.MULTILINE)


def test_the_readme_sections_for_figures_are_marked():
    text = (ROOT / "README.md").read_text("utf-8")
    assert text.index("<!-- coverage:begin -->") < text.index("<!-- coverage:end -->")
