"""What a pass is, and the order in which passes run.

A pass makes one kind of simplification. It is a function of `Work` and one node (`node_pass`), called for every node of its
operators, or of `Work` alone (`model_pass`). Its docstring is its contract: the algebra, then the legal cases by number.

    @node_pass("double-transpose", phase="normalize", ops=("Transpose",))
    def double_transpose(work: Work, node: ir.Node) -> bool:
        \"\"\"Transpose(Transpose(x, p), q) = Transpose(x, p[q]).

        1. The inner one may have other readers: it stays for them.
        \"\"\"
        inner = work.producer(node.inputs[0], "Transpose")
        if inner is None:
            return False  # not the pattern
        if work.attribute(inner, "perm") is None:
            raise Declined("a Transpose without perm of a tensor of unknown rank")  # the pattern, but not legal
        ...
        work.replace(node, "Transpose", [inner.inputs[0]], {"perm": perm})
        return True

A pass either changes the graph and returns true (or how many changes it made), or leaves it alone. Nothing may be edited
before the last `Declined`. Dead nodes need no care: they are removed after every pass that changed something.

All passes run in the order (phase, module, position in the module), again and again until none of them changes anything. So
every pass has to make progress by some measure that no other pass undoes: fewer nodes, else fewer bytes, else a normal form.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxprune.cleanup.work import Work

Phase: TypeAlias = Literal["fold", "clean", "fuse", "normalize", "absorb", "share"]
"""When a pass runs in a round.

* fold: what is computed from constants and shapes alone becomes a constant
* clean: nodes that do nothing, branches that are never taken
* fuse: several nodes become the one operator that they spell out
* normalize: moves (Reshape, Transpose, Slice) in their one shortest form
* absorb: arithmetic goes into weights, padding into attributes
* share: equal nodes and equal constants become one
"""

PHASES: tuple[Phase, ...] = ("fold", "clean", "fuse", "normalize", "absorb", "share")
NodeFunction: TypeAlias = "Callable[[Work, ir.Node], bool]"
ModelFunction: TypeAlias = "Callable[[Work], int]"


class Declined(Exception):  # noqa: N818 - nothing went wrong
    """A pass found its pattern, but the rewrite would not be legal; the text says why, and what would help."""


@dataclass(frozen=True)
class Pass:
    """One simplification.

    Attributes:
        name: what `--passes` and `--skip` call it.
        phase: when it runs in a round.
        contract: the docstring of its function.
        ops: operators that a node pass looks at, with their domain (`com.microsoft::Gelu`) where it is not ONNX's.
        since: the opset that its result needs.
        node: the function of a node pass.
        model: the function of a model pass; it returns how many changes it made.
    """

    name: str
    phase: Phase
    contract: str
    ops: tuple[str, ...] = ()
    since: int = 0
    node: NodeFunction | None = None
    model: ModelFunction | None = None


_PASSES: dict[str, Pass] = {}


def node_pass(name: str, *, phase: Phase, ops: Sequence[str], since: int = 0) -> Callable[[NodeFunction], NodeFunction]:
    """Registers a function that is called for every node with one of these operators, in all graphs and functions."""

    def register(function: NodeFunction) -> NodeFunction:
        _add(Pass(name, phase, function.__doc__ or "", tuple(ops), since, node=function))
        return function

    return register


def model_pass(name: str, *, phase: Phase) -> Callable[[ModelFunction], ModelFunction]:
    """Registers a function that is called once a round; it returns how many changes it made."""

    def register(function: ModelFunction) -> ModelFunction:
        _add(Pass(name, phase, function.__doc__ or "", model=function))
        return function

    return register


def all_passes() -> list[Pass]:
    """Every pass, in the order in which they run."""
    from onnxprune.cleanup import passes

    for module in sorted(m.name for m in pkgutil.iter_modules(passes.__path__)):
        importlib.import_module(f"{passes.__name__}.{module}")
    return sorted(_PASSES.values(), key=lambda p: PHASES.index(p.phase))  # stable: module, then position


def _add(new: Pass) -> None:
    if new.name in _PASSES:
        raise ValueError(f"two passes are called {new.name!r}")
    _PASSES[new.name] = new
