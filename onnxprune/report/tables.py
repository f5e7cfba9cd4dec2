"""Tables and notes for people. They hold plain text only: names of a model are never read as markup."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from onnxprune.groups.group import Frozen, Group, Groups
from onnxprune.proof.oracle import Verification

if TYPE_CHECKING:
    from onnxprune.bench.timing import Times
    from onnxprune.report.evaluation import Evaluation
    from onnxprune.report.report import Report

_REASONS = 5
_NAMED = re.compile(r"'[^']*'|\"[^\"]*\"")
# Positions of a kernel are no channels: nobody expects them to go.
_EXPECTED = "slides over it"


@dataclass(frozen=True)
class Note:
    """One thing the user should know.

    Attributes:
        topic: one or two words.
        text: the rest of the line.
        style: of the topic, as rich names it.
    """

    topic: str
    text: str
    style: str = "bold"


# ---- prune ----


def result_table(report: Report, latency: tuple[Times, Times] | None = None, evaluation: Evaluation | None = None) -> Table:
    """Before, after and change of everything that was measured."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for name in ("before", "after", "change"):
        table.add_column(name, justify="right")
    table.add_row("size", *_row(report.bytes_before, report.bytes_after, lambda n: f"{si(n)}B"))
    table.add_row("parameters", *_row(report.params_before, report.params_after, lambda n: f"{n:,.0f}"))
    table.add_row("MACs", *_row(report.macs_before, report.macs_after, si))
    if latency:
        before, after = (each.p50 for each in latency)
        faster = f"{before / after:.2f}x faster" if after <= before else f"{after / before:.2f}x slower"
        table.add_row("latency p50", f"{before:.3g} ms", f"{after:.3g} ms", faster)
    if evaluation:
        from onnxprune.report.outcome import score_rows

        for row in score_rows(evaluation):
            table.add_row(*row)
    return table


def _row(before: float, after: float, text: Callable[[float], str]) -> tuple[str, str, str]:
    return text(before), text(after), percent(before, after)


def result_notes(report: Report, *, verbose: bool, width: bool) -> list[Note]:
    """What was removed, what was not touched and why, what went wrong, and what the verification said.

    Args:
        report: of one pruning.
        verbose: all reasons instead of the most frequent ones.
        width: inexact groups were asked for, so there is no need to point at them.
    """
    cut = [g for g in report.groups if g.removed]
    units, of = sum(g.removed for g in cut), sum(g.units for g in cut)
    notes = [Note("removed", f"{units:,} of {of:,} units in {plural(len(cut), 'group')}")] if cut else []
    notes += block_notes(report, verbose=verbose) + target_notes(report)
    if report.low_rank is not None:
        from onnxprune.lowrank.figures import low_rank_notes

        notes += low_rank_notes(report.low_rank, verbose=verbose)
    notes += recovery_notes(report) + merge_notes(report)
    notes.append(Note("MACs", f"of one run with {shapes_text(report.shapes)}"))
    notes += frozen_notes(report.frozen, verbose=verbose, width=width)
    notes += trouble_notes(report.unknown_ops, report.failures)
    for back in report.put_back:
        text = f"group {back.group} stays as it was: {back.reason} (a bug of onnxprune, please report it)"
        notes.append(Note("put back", text, "bold red"))
    if report.verification is None:
        return [*notes, Note("not verified", report.unverified, "bold yellow")]
    notes.append(verification_note(report.verification))
    inexact = [g.id for g in cut if not g.exact]
    if inexact:
        text = f"{', '.join(inexact)}: they change a statistic, so that the result was run, but is not comparable"
        notes.append(Note("not verified", text, "bold yellow"))
    return notes


def target_notes(report: Report) -> list[Note]:
    """What was asked for and what the result has."""
    from onnxprune.latency.figures import latency_notes

    notes = []
    for r in report.targets:
        after, limit = (
            f"{x:.4g} ms" if r.unit == "ms" else f"{si(x)}{'B' if r.unit == 'bytes' else ''}" for x in (r.after, r.limit)
        )
        text = f"{r.target}: {after} of at most {limit}, {r.after / r.before:.1%} of the source"
        notes.append(Note("target" if r.met else "target missed", text, "bold" if r.met else "bold yellow"))
        if r.quantity == "latency" and report.latency is not None:
            notes += latency_notes(report.latency)
    if report.trials:
        allowed = report.trials[0].allowed
        tried = "; ".join(f"{t.target} loses {max(t.lost, 0):.3g}" for t in report.trials)
        notes.append(Note("drop", f"at most {allowed:.3g} of the metric in {plural(len(report.trials), 'trial')}: {tried}"))
    return notes


def block_notes(report: Report, *, verbose: bool) -> list[Note]:
    """Which blocks went as a whole, and what that was foretold to lose."""
    blocks = report.blocks
    if blocks is None:
        return []
    notes = [Note("blocks", f"{len(blocks.gone)} of {plural(blocks.candidates, 'block')} dropped")]
    for block in blocks.gone:
        text = (
            f"{block.reader!r} adds a constant now: {plural(len(block.nodes), 'node')} with weights, {si(block.macs)} MACs"
        )
        notes.append(Note("", f"{text}, {si(block.params)} parameters; alone it loses {block.loss:.1%} of the outputs"))
    told = [f"{f.blocks}: {'out of reach' if f.loss is None else f'{f.loss:.1%}'}" for f in blocks.foretold]
    notes.append(Note("foretold", f"loss of the outputs before any repair, by blocks dropped: {', '.join(told)}"))
    if blocks.repaired:
        told = [f"{n}: {error:.1%}" for n, error in sorted(blocks.repaired.items())]
        notes.append(Note("", f"error of the outputs after it, which decides: {', '.join(told)}"))
    for tensor, reason in blocks.put_back.items():
        text = f"the block that ends in {tensor!r} stays: {reason} (a bug of onnxprune, please report it)"
        notes.append(Note("put back", text, "bold red"))
    refused = list(blocks.refused.items())[: None if verbose else 0]
    return notes + [Note("stays", f"{tensor!r}: {reason}") for tensor, reason in refused]


def recovery_notes(report: Report) -> list[Note]:
    """What the samples were, and how much of the outputs behind a removal is lost before and after reconstruction."""
    if report.lossless is not None:
        kinds: Counter[str] = Counter()
        for counts in report.lossless.values():
            kinds.update(counts)
        return [Note("lossless", ", ".join(f"{n:,} {kind}" for kind, n in kinds.most_common()))]
    if not report.calibration:
        return []
    notes = [Note("calibration", f"{report.calibration}; ranked by {report.criterion}")]
    notes += [Note("gradients", report.gradients)] if report.gradients else []
    fitted = [f for f in report.fits if f.kind != "none"]
    if fitted:
        before, after = (median(getattr(f, name) for f in fitted) for name in ("lost_before", "lost_after"))
        worst = max(fitted, key=lambda f: f.lost_after)
        text = (
            f"{len(fitted)} of {plural(len(report.fits), 'node')} fitted; output variance lost on held-out samples: "
            f"median {before:.1%} before, {after:.1%} after; most at {worst.node!r}: {worst.lost_after:.1%}"
        )
        notes.append(Note("recovered", text))
    refused = [f for f in report.fits if f.reason]
    if refused:
        notes.append(Note("not fitted", f"{plural(len(refused), 'node')}: {refused[0].reason}"))
    return notes


def merge_notes(report: Report) -> list[Note]:
    """How much of what the removed channels did is folded into others, where it is not, and what is stored once now."""
    notes = []
    merged = [m for m in report.merges or () if not m.reason]
    if merged:
        channels, nodes = sum(m.channels for m in merged), plural(len(merged), "linear node")
        explained, correlation, gain = (
            sum(getattr(m, name) * m.channels for m in merged) / channels for name in ("explained", "correlation", "gain")
        )
        text = (
            f"{channels:,} channels that {nodes} read; kept ones stand for {explained:.0%} of their variance"
            f"{'' if report.calibration else ' as far as weights tell'}, mean correlation with the nearest "
            f"{correlation:.2f}, mean gain {gain:.2f}"
        )
        notes.append(Note("merged", text))
    left = [m for m in report.merges or () if m.reason]
    if left:
        notes.append(Note("not merged", f"{plural(len(left), 'linear node')}, such as {left[0].node!r}: {left[0].reason}"))
    if report.shared:
        notes.append(Note("shared", f"{plural(len(report.shared), 'tensor')} that equal another one"))
    return notes


def verification_note(found: Verification) -> Note:
    """One line about a comparison of two models."""
    figures = f"largest relative error {found.error:.1e}, tolerance {found.tolerance:.0e}"
    if found.noise:
        figures += f" (one unit in the last place of the input moves the source by {found.noise:.1e})"
    if found.rewritten:
        figures += f" (the graph as written: ONNX Runtime's own optimizations change this model by {found.rewritten:.1e})"
    outputs = plural(len(found.outputs), "output")
    if found.before:
        outputs += f" and {plural(len(found.before), 'input')} of discrete operators"
    text = f"{figures}; {outputs} on random inputs: {shapes_text(found.shapes)}"
    if found.passed:
        return Note("verified", text, "bold green")
    return Note("failed", f"{found.message}; {text}" if found.message else text, "bold red")


def frozen_notes(frozen: Sequence[Frozen], *, verbose: bool, width: bool) -> list[Note]:
    """Why axes were not touched, the most frequent reasons first."""
    counted = frozen_reasons(f for f in frozen if verbose or not f.reason.endswith(_EXPECTED))
    shown = counted if verbose else counted[:_REASONS]
    notes = []
    for k, (reason, axes) in enumerate(shown):
        hint = " (try --width)" if is_inexact(reason) and not width else ""
        notes.append(Note("" if k else "not touched", f"{plural(axes, 'axis', 'axes')}: {reason}{hint}"))
    if len(counted) > len(shown):
        rest = sum(axes for _, axes in counted[len(shown) :])
        notes.append(Note("", f"{plural(rest, 'axis', 'axes')} for other reasons (-v lists them)"))
    return notes


def trouble_notes(unknown: Mapping[str, Sequence[str]], failures: Sequence[str]) -> list[Note]:
    """Operators without a rule, and rules that failed."""
    notes = [
        Note("unknown op", f"{op} ({plural(len(nodes), 'node')}): what it touches stays as it was", "bold yellow")
        for op, nodes in unknown.items()
    ]
    notes += [Note("failure", f"{text} (a bug of onnxprune, please report it)", "bold red") for text in failures]
    return notes


def frozen_reasons(frozen: Iterable[Frozen]) -> list[tuple[str, int]]:
    """Reasons with the number of axes they hold; those that differ in names only are one, with dots for the names."""
    found: dict[str, list[str]] = {}
    for f in frozen:
        found.setdefault(_NAMED.sub("'...'", f.reason), []).append(f.reason)
    merged = [(key if len(set(reasons)) > 1 else reasons[0], len(reasons)) for key, reasons in found.items()]
    return sorted(merged, key=lambda pair: -pair[1])


def is_inexact(reason: str) -> bool:
    """The axis could go with `--width`: all that holds it is a statistic."""
    return " computes " in reason and reason.endswith(" over it")


def notes_table(notes: Iterable[Note]) -> Table:
    """Notes below each other, their topics in a column of their own."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for note in notes:
        table.add_row(Text(note.topic, note.style), Text(note.text))
    return table


# ---- inspect ----


def groups_table(groups: Groups, *, verbose: bool) -> Table:
    """One row for each group."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("group", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    for name in ("units", "params/unit", "MACs/unit"):
        table.add_column(name, justify="right", no_wrap=True)
    # Folded, not cut off: the names are what --ignore and --only take.
    table.add_column("tensor:axis +others", overflow="fold")
    for group in groups.groups:
        kind = group.kind if group.exact else f"{group.kind} *"
        costs = (f"{group.units:,}", si(group.unit_params, 4), si(group.unit_macs, 4))
        table.add_row(group.id, kind, *costs, Text(_members(group, verbose=verbose)))
    return table


def groups_notes(groups: Groups, *, verbose: bool) -> list[Note]:
    """Totals, what the marks mean, and what can't go."""
    kinds = {kind: sum(g.kind == kind for g in groups.groups) for kind in dict.fromkeys(g.kind for g in groups.groups)}
    notes = [Note("groups", ", ".join(f"{n} {kind}" for kind, n in kinds.items()) or "none: nothing can be removed")]
    inexact: dict[str, list[str]] = {}
    for g in groups.groups:
        if not g.exact:
            inexact.setdefault(_NAMED.sub("'...'", g.note), []).append(g.id)
    notes += [Note("* inexact", f"{', '.join(ids)}: {note}") for note, ids in inexact.items()]
    ways = dict.fromkeys(tuple(sorted([g.id, *g.alternatives], key=_number)) for g in groups.groups if g.alternatives)
    if ways:
        text = ", ".join("/".join(ids) for ids in ways)
        notes.append(Note("either", f"{text} cut the same weights in different ways; --attention chooses"))
    notes += frozen_notes(groups.frozen, verbose=verbose, width=groups.width)
    return notes + trouble_notes(groups.trace.unknown, groups.trace.failures)


def _number(group_id: str) -> int:
    return int(group_id.lstrip("g"))


def frozen_table(frozen: Sequence[Frozen]) -> Table:
    """One row for each axis that can't shrink, or only in part."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("frozen tensor", overflow="fold")
    for name in ("axis", "slices"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("reason", overflow="fold")
    for f in frozen:
        slices = f"{f.slices:,}" if f.slices == f.of else f"{f.slices:,}/{f.of:,}"
        table.add_row(Text(f.weight), str(f.axis), slices, Text(f.reason))
    return table


def _members(group: Group, *, verbose: bool) -> str:
    names = [f"{weight}:{axis}" for weight, axis in group.members]
    if verbose or len(names) == 1:
        return ", ".join(names)
    return f"{names[0]} +{len(names) - 1}"


# ---- numbers ----


def shapes_text(shapes: Mapping[str, Sequence[int]]) -> str:
    """Input shapes, such as `image 1x3x224x224`."""
    return ", ".join(f"{name} {'x'.join(map(str, shape)) or 'scalar'}" for name, shape in shapes.items())


def si(number: float, digits: int = 3) -> str:
    """A number with a unit prefix: `4.09 G`; the space stays where there is none, so that a unit can follow."""
    for prefix, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            value = number / size
            return f"{value:.{max(digits - len(str(int(value))), 0)}f} {prefix}"
    return f"{number:.4g} "


def percent(before: float, after: float) -> str:
    """The change in percent."""
    if not before:
        return "" if not after else "from 0"
    times = after / before
    return f"{(times - 1) * 100:+.1f} %" if times < 10 else f"{times:,.0f}x"


def plural(count: int, one: str, many: str | None = None) -> str:
    """`1 axis`, `2 axes`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
