"""A comparison for people."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from onnxprune.comparison.outputs import OutputDifference
from onnxprune.comparison.result import Comparison, Divergence, Trail
from onnxprune.report.evaluation import Evaluation
from onnxprune.report.outcome import agreement_text, evaluation_notes, score_rows, share_text
from onnxprune.report.tables import Note, plural

_NODES = 3
_CAUSES = 5
_FOUND = 5


def outputs_table(outputs: Sequence[OutputDifference]) -> Table:
    """One row for each output."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("output", overflow="fold")
    k = max((o.top_k for o in outputs if o.agreement is not None), default=0)
    bounded = any(o.tolerance for o in outputs)
    columns = ["max abs", "max rel", "error", "cosine", *[f"same top-{k} (95 %)"] * bool(k), *["beyond"] * bounded]
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for o in outputs:
        name = o.output if o.output == o.other else f"{o.output} / {o.other}"
        if o.message:
            table.add_row(Text(name), Text(o.message, "bold red"), *[""] * (len(columns) - 1))
            continue
        cosine = "" if o.cosine is None else f"{o.cosine:.6f}"
        cells = [f"{o.max_abs:.3g}", f"{o.max_rel:.3g}", f"{o.relative_error:.3g}", cosine]
        cells += [agreement_text(o.agreement, o.interval)] * bool(k)
        cells += ["" if o.outside is None else share_text(o.outside)] * bounded
        table.add_row(Text(name), *cells)
    return table


def score_table(evaluation: Evaluation) -> Table:
    """The metric of both models."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for name in ("first", "second", "change"):
        table.add_column(name, justify="right")
    for row in score_rows(evaluation):
        table.add_row(*row)
    return table


def worst_samples_table(outputs: Sequence[OutputDifference]) -> Table:
    """The samples that are farthest apart."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("farthest in", overflow="fold")
    table.add_column("sample", justify="right")
    table.add_column("max rel", justify="right")
    table.add_column("file", overflow="fold")
    for o in outputs:
        for w in o.worst:
            table.add_row(Text(o.output), f"{w.sample:,}", f"{w.error:.3g}", Text(w.file))
    return table


def path_table(trail: Trail) -> Table:
    """Errors of the tensors that were measured, in the order of the graph."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("tensor", overflow="fold")
    table.add_column("max rel", justify="right", no_wrap=True)
    for name, error in trail.path:
        table.add_row(Text(name), _error(error), style="bold" if any(d.tensor == name for d in trail.divergences) else "")
    return table


def _error(error: float) -> str:
    return "not comparable" if math.isinf(error) else f"{error:.2g}" if error else "0"


def notes(found: Comparison, *, verbose: bool) -> list[Note]:
    """What was compared, where the models part and why, and whether everything holds that has to."""
    result = [Note("compared", found.data)] + [Note("matched", text) for text in found.notes]
    held = found.constants
    text = f"{held.equal:,} of {held.equal + len(held.different):,} tensors of the same name are equal"
    if held.only_first or held.only_second:
        text += f"; {held.only_first:,} in the first model only, {held.only_second:,} in the second only"
    result.append(Note("weights", text))
    result += evaluation_notes(found.evaluation)
    if found.failed:
        result.append(Note("failed", f"{found.second} can't be run: {found.failed}", "bold red"))
    if found.trail is not None:
        result += trail_notes(found.trail, verbose=verbose)
    if found.thresholds.any:
        result += [Note("exceeded", text, "bold red") for text in found.exceeded]
        if found.passed:
            result.append(Note("passed", "every threshold holds", "bold green"))
    return result


def trail_notes(trail: Trail, *, verbose: bool) -> Iterator[Note]:
    """Where the models part."""
    if trail.note:
        yield Note("search", trail.note, "bold yellow")
    shown = trail.divergences if verbose else trail.divergences[:_FOUND]
    for k, each in enumerate(shown):
        again = k and each.group > shown[k - 1].group
        yield Note("then at" if again else "part at" if not k else "and at", _place(each), "bold red")
        for cause in each.causes[: None if verbose else _CAUSES]:
            yield Note("", cause)
        if len(each.causes) > _CAUSES and not verbose:
            yield Note("", f"and {len(each.causes) - _CAUSES} more differences")
        if not each.causes and not each.failure:
            yield Note("", "no attribute, constant or input differs there: what computes it does, or only rounding")
    if len(trail.divergences) > len(shown):
        yield Note("", f"and at {len(trail.divergences) - len(shown)} more tensors")
    if trail.divergences:
        yield Note("proof", _proof(trail), "bold green" if trail.proven else "bold yellow")
    if not trail.tensors:
        return
    ways = ", ".join(f"{n:,} by {how}" for how, n in trail.matched.items() if n)
    matched = f"{trail.tensors - trail.unmatched:,} of {plural(trail.tensors, 'tensor')} inside have a partner"
    runs = f"both models run {trail.runs:,} times on {plural(len(trail.samples), 'sample')}"
    yield Note("search", f"{matched} ({ways or 'outputs only'}); {runs}")


def _place(each: Divergence) -> str:
    name = each.tensor if each.tensor == each.other else f"{each.tensor} / {each.other}"
    node = each.nodes[-1] if each.nodes else ""
    many = ""
    if len(each.nodes) != 1 or len(each.other_nodes) != 1:
        texts = [_listed(nodes) for nodes in (each.nodes, each.other_nodes)]
        many = f"; made by {texts[0]} here and by {texts[1]} there"
    where = f"{each.op} {node!r}: " if node else ""
    if each.failure:
        return f"{where}{name} can't be computed by the second model: {each.failure}{many}"
    apart = "has another shape or type, or is not finite" if math.isinf(each.error) else f"differs by {each.error:.2g}"
    return f"{where}{name} {apart}, its inputs by {_error(each.inputs)}{many}"


def _listed(nodes: Sequence[str]) -> str:
    if len(nodes) <= _NODES:
        return ", ".join(nodes)
    return f"{', '.join(nodes[:_NODES])} and {len(nodes) - _NODES} more nodes"


def _proof(trail: Trail) -> str:
    given = "with these tensors from the first model"
    left, error = _error(trail.left), _error(trail.error)
    if trail.proven:
        return f"{given}, the outputs of the second agree (largest relative error {left} instead of {error})"
    if trail.left == trail.error:
        return "none: what lies before these tensors has no partner to compare with, or rounding is all that differs there"
    return f"{given}, {left} of the outputs' relative error {error} is left: there are other causes, or many small ones"
