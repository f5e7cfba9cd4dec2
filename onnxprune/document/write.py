"""Result files in, one document out; its form is told by the suffix."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from onnxprune.document.build import build
from onnxprune.document.parts import Document
from onnxprune.document.read import read_results
from onnxprune.errors import UsageError

SUFFIXES = (".html", ".md", ".csv", ".png", ".svg")


def check_suffix(path: str | os.PathLike[str]) -> str:
    """The suffix in lower case.

    Raises:
        UsageError: no document has it, or it is a picture and matplotlib is missing.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"{path}: the suffix tells the form of a report, one of {', '.join(SUFFIXES)}")
    if suffix in (".png", ".svg"):
        from onnxprune.report.plot import check_installed

        check_installed()
    return suffix


def write_report(
    files: Iterable[str | os.PathLike[str]], output: str | os.PathLike[str], *, title: str = "", command: str = ""
) -> Document:
    """Writes a report: one HTML page, Markdown, CSV, or the plots as PNG or SVG.

    Args:
        files: results of `onnxprune prune --report-out`, `bench -o`, `profile --json`, `compare --json` and `search`, in any
            order; models that several of them tell of are told by content or path.
        output: its suffix decides: `.html`, `.md`, `.csv`, `.png`, `.svg`. PNG and SVG need matplotlib.
        title: of the report; names of the models unless given.
        command: that it comes from, to be shown.

    Returns:
        What the report holds, as plain data.

    Raises:
        ModelError: a file is no result, is damaged or of a later version; or there is nothing to draw.
        UsageError: the suffix is none of these, matplotlib is missing, there is no file, or `output` can't be written.
    """
    suffix = check_suffix(output)
    paths = list(files)
    if not paths:
        raise UsageError("a report needs at least one result file")
    document = build(read_results(paths), title=title, command=command)
    _save(document, suffix, Path(output))
    return document


def _save(document: Document, suffix: str, output: Path) -> None:
    from onnxprune.io.save import save_bytes, save_text

    if suffix in (".png", ".svg"):
        from onnxprune.document.pictures import to_picture

        save_bytes(to_picture(document, suffix.removeprefix(".")), output)
        return
    if suffix == ".html":
        from onnxprune.document.page import to_html as text_of
    elif suffix == ".md":
        from onnxprune.document.markdown import to_markdown as text_of
    else:
        from onnxprune.document.lines import to_csv as text_of
    save_text(text_of(document), output)
