"""The document as Markdown of GitHub, for pull requests: what matters first, long tables folded."""

from __future__ import annotations

import re

from onnxprune.document.page import templates
from onnxprune.document.parts import Cell, Document, Table

LONGEST = 65_536  # characters that GitHub takes in a comment
_ROWS = (40, 20, 10, 5, 2)  # of one table, as many as fit
# What Markdown or HTML could read as a mark; a low line within a word is none. Entities are text wherever they stand.
_MARKS = re.compile(r"[^\w\s.,;:'()%+/=→…–—-]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.", re.IGNORECASE)
_LISTS = re.compile(r"^(\s*)([-+](?=\s|$)|\d+[.)](?=\s|$)|[=-]+(?=\s*$))")
# GitHub looks for # and @ once entities are resolved; a comment behind them stops that.
_MENTIONS = re.compile(r"&#(35|64);")


def to_markdown(document: Document) -> str:
    """Text that GitHub shows; tables show fewer rows where the whole would be too long for a comment."""
    made = ""
    for rows in _ROWS:
        made = _render(document, rows)
        if len(made) <= LONGEST:
            break
    return made


def _render(document: Document, rows: int) -> str:
    page = templates().get_template("page.md.j2")

    def table(found: Table, brief: bool) -> str:
        return _table(found, brief, rows)

    made = page.render(document=document, sections=document.sections, md=escape, table=table, fenced=_fenced)
    return re.sub(r"\n{3,}", "\n\n", made)


def escape(text: str) -> str:
    """Text in which nothing is a mark, a list, a mention or a link."""
    flat = " ".join(text.split())
    safe = _MARKS.sub(lambda m: f"&#{ord(m[0])};", flat)
    safe = _MENTIONS.sub(lambda m: f"{m[0]}<!-- -->", safe)
    return _LISTS.sub(lambda m: f"{m[1]}{m[2][:-1]}&#{ord(m[2][-1])};", safe)


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>" if text else ""


def _table(table: Table, brief: bool, most: int) -> str:
    shown, hidden = table.rows[:most], len(table.rows) - most
    lines = [escape(table.caption), ""]
    lines.append(f"| {' | '.join(escape(c.title) for c in table.columns)} |")
    lines.append(f"| {' | '.join('--:' if c.number else ':--' for c in table.columns)} |")
    lines += [f"| {' | '.join(_cell(c) for c in row)} |" for row in shown]
    if hidden > 0:
        lines += ["", f"{hidden:,} more rows: `onnxprune report -o report.html` shows them."]
    text = "\n".join([*lines, ""])
    if brief:
        return text
    return text if not table.folded else f"<details><summary>{escape(table.caption)}</summary>\n\n{text}\n</details>\n"


def _cell(cell: Cell) -> str:
    return _code(cell.text) if cell.code else escape(cell.text)


def _fenced(text: str) -> str:
    """A block of code whose fence is longer than any row of backticks in it."""
    longest = max((len(m) for m in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{text}\n{fence}"
