"""The document as one HTML file that loads nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from functools import cache
from importlib.resources import files

import jinja2
from markupsafe import Markup

from onnxprune.document.parts import Command, Document, Note, Spreads, Table, Tradeoff
from onnxprune.document.svg import Picture, draw

WIDE, NARROW = 720.0, 340.0  # CSS pixels


def to_html(document: Document) -> str:
    """The page. Styles and the script are inside; a policy in it forbids to load or to run anything else."""
    style, script = _asset("page.css"), _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:"
    return templates().get_template("page.html.j2").render(
        document=document, style=Markup(style), script=Markup(script), policy=policy, pictures=_pictures
    )  # fmt: skip


def _pictures(chart: Tradeoff | Spreads) -> list[tuple[str, Picture]]:
    """For screens and for phones: text keeps its size, so that both are drawn."""
    return [("wide", draw(chart, WIDE)), ("narrow", draw(chart, NARROW))]


@cache
def templates() -> jinja2.Environment:
    """Templates of this package; all that comes from files is escaped."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("onnxprune.document"),
        autoescape=lambda name: name is None or not name.endswith(".md.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    for kind in (Table, Note, Command, Tradeoff, Spreads):
        made.tests[kind.__name__.lower()] = _test(kind)
    return made


def _test(kind: type) -> Callable[[object], bool]:
    return lambda block: isinstance(block, kind)


def _asset(name: str) -> str:
    return files("onnxprune.document").joinpath("templates", name).read_text("utf-8")
