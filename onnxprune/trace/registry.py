"""Rules: what an operator family does to labels. One decorator registers ours and anybody's.

    from onnxprune import rule

    @rule("MyRelu", domain="com.acme")
    def my_relu(op):
        op.pointwise(zero=all)

A package offers its rules by an entry point in the group `onnxprune.rules` that names a module which registers them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxprune.trace.op import Op

Rule = Callable[["Op"], None]
Layout = Callable[["dict[str, object]", int, "tuple[int, ...]"], "dict[int, int]"]


@dataclass(frozen=True)
class _Entry:
    since: int
    rule: Rule


_rules: dict[tuple[str, str], list[_Entry]] = {}
_layouts: dict[tuple[str, str], Layout] = {}


def rule(*op_types: str, domain: str = "", since: int = 1) -> Callable[[Rule], Rule]:
    """Registers a rule for operators of a domain from an opset version on.

    Args:
        *op_types: operator names; a later registration of the same name and version replaces the earlier one.
        domain: operator domain, "" for the ONNX one.
        since: first opset version of the domain in which the rule holds.
    """

    def register(function: Rule) -> Rule:
        for op_type in op_types:
            entries = [e for e in _rules.get((domain, op_type), []) if e.since != since]
            _rules[domain, op_type] = sorted([*entries, _Entry(since, function)], key=lambda e: -e.since)
        return function

    return register


def layout(*op_types: str, domain: str = "") -> Callable[[Layout], Layout]:
    """Registers which axes of an operator's weights hold one set of channels per block of axis 0.

    The function gets the attributes, the input's position and its shape, and returns `{axis: number of blocks}`.
    """

    def register(function: Layout) -> Layout:
        for op_type in op_types:
            _layouts[domain, op_type] = function
        return function

    return register


def find(domain: str, op_type: str, version: int) -> Rule | None:
    """The rule for an operator, or None."""
    load_all()
    entries = _rules.get(("" if domain == "ai.onnx" else domain, op_type), [])
    return next((e.rule for e in entries if e.since <= version), None)


def find_layout(domain: str, op_type: str) -> Layout | None:
    """The weight layout of an operator, or None."""
    load_all()
    return _layouts.get(("" if domain == "ai.onnx" else domain, op_type))


def registered() -> list[tuple[str, str, int]]:
    """All (domain, operator, since version) that have a rule."""
    load_all()
    return sorted((d, o, e.since) for (d, o), entries in _rules.items() for e in entries)


@cache
def load_all() -> None:
    """Loads the rules of this package, then those of entry points."""
    from importlib import import_module
    from importlib.metadata import entry_points
    from pkgutil import iter_modules

    from onnxprune.trace import rules

    for module in iter_modules(rules.__path__):
        import_module(f"{rules.__name__}.{module.name}")
    for entry in entry_points(group="onnxprune.rules"):
        entry.load()
