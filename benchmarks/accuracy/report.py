"""The results as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from accuracy import fronts
from accuracy.contestants import CONTESTANTS, Contestant
from accuracy.task import Setting, Task

BEGIN, END = "<!-- figures: written by benchmarks/accuracy.py --report -->", "<!-- end of figures -->"
LABELS = {
    "accuracy": "top-1 %",
    "top5": "top-5 %",
    "drop": "drop, points",
    "agreement": "agreement %",
    "cosine": "cosine",
    "mse": "MSE",
    "mse_ratio": "MSE / dense",
    "r1": "R@1 %",
    "mrr": "MRR",
    "perplexity": "perplexity",
    "perplexity_ratio": "perplexity / dense",
    "top1": "next token %",
    "cer": "CER %",
    "cer_rise": "CER rise, points",
    "exact": "exact %",
    "cer_small": "CER % (small)",
    "exact_small": "exact % (small)",
}
DIGITS = {"cosine": 4, "mse": 5, "mse_ratio": 2, "mrr": 3, "perplexity": 2, "perplexity_ratio": 2}
SLACK = 0.02  # of the share of multiply-accumulates that counts as the same

Record = dict[str, Any]


def into(text: str, results: Record, tasks: Sequence[Task], folder: Path) -> str:
    """A document with the figures between its two marks, which are added at the end where it lacks them.

    Args:
        text: of the document.
        results: all that was measured.
        tasks: to show.
        folder: beside the document, for pictures.
    """
    if BEGIN not in text:
        text = f"{text.rstrip()}\n\n{BEGIN}\n{END}\n"
    head, rest = text.split(BEGIN, 1)
    return f"{head}{BEGIN}\n\n{markdown(results, tasks, folder)}\n{END}{rest.split(END, 1)[1]}"


def markdown(results: Record, tasks: Sequence[Task], folder: Path) -> str:
    """A section for each task that was measured, a table for each setting."""
    sections = [_environment(results), _legend()]
    sections += [
        _task(task, results) + fronts.markdown(task, results, folder) for task in tasks if task.name in results["tasks"]
    ]
    return "\n".join(sections)


def _environment(results: Record) -> str:
    cases = results["cases"].values()
    machine = results["environment"]
    packages = ", ".join(f"{k} {v}" for k, v in machine.items() if v and k not in ("cores", "threads", "machine"))
    tools = ", ".join(sorted({f"{c['tool']} {c['version']}" for c in cases}))
    sources = {c["source"] for c in cases if c.get("source")}
    text = f"Measured with {tools or 'nothing yet'}, on {machine['cores']} cores ({machine['machine']}), {packages}."
    if len(sources) > 1:
        text += f" The figures of onnxprune come from {len(sources)} states of its source; `--changed` brings them together."
    return text + "\n"


def _legend() -> str:
    rows = "\n".join(f"| {c.name} | {c.text} |" for c in CONTESTANTS)
    return f"| contestant | what it does |\n|---|---|\n{rows}\n"


def _task(task: Task, results: Record) -> str:
    dense = results["tasks"][task.name]
    own = ", ".join(_named(name, dense["figures"][name]) for name in (task.metric, *task.shown) if _tells(name))
    data = ", ".join(f"{k} {v}" for k, v in dense["data"].items())
    lines = [
        f"### {task.title}\n",
        f"Dense: {own}; {dense['macs'] / 1e6:,.1f} M multiply-accumulates, {dense['params'] / 1e6:,.3f} M parameters."
        + (f" Data: {data}." if data else "")
        + "\n",
    ]
    measured = {c["setting"] for c in results["cases"].values() if c["task"] == task.name}
    lines += [_setting(task, setting, results) for setting in task.settings if setting.name in measured]
    return "\n".join(lines)


def _tells(name: str) -> bool:
    """A figure that says something about the dense model alone."""
    return name not in ("drop", "agreement", "cosine", "mse_ratio", "perplexity_ratio", "cer_rise")


def _setting(task: Task, setting: Setting, results: Record) -> str:
    ratio = results["ratios"].get(f"{task.name}/{setting.name}", {}).get("ratio")
    targets = ", ".join(f"{LABELS[t.figure]} {t.relation} {t.bound:g}" for t in setting.targets)
    said = f"#### {setting.name}" + (f" (ratio {ratio:.3f})" if setting.macs and ratio else "")
    columns = [LABELS[name] for name in (task.metric, *task.shown)]
    timed = ["latency"] if setting.latency else []
    head = ["contestant", "samples", *columns, *timed, "MACs", "parameters", "seconds", "peak MB", "target"]
    dense = results["tasks"][task.name]
    ours = [
        c["macs"] / dense["macs"]
        for c in results["cases"].values()
        if c["status"] == "ok" and (c["task"], c["setting"], c["tool"]) == (task.name, setting.name, "onnxprune")
    ]
    reference = min(ours, default=1.0)
    rows = [
        _row(task, setting, contestant, cases, dense, reference)
        for contestant in CONTESTANTS
        for cases in _by_samples(task, setting, contestant, results)
    ]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])
    return f"{said}\n\n" + (f"Deployment target: {targets}.\n\n" if targets else "") + f"{table}\n"


def _by_samples(task: Task, setting: Setting, contestant: Contestant, results: Record) -> list[list[Record]]:
    """Cases of the same number of samples, one for each seed; most samples first."""
    wanted = (task.name, setting.name, contestant.name)
    found: dict[int, list[Record]] = {}
    for case in results["cases"].values():
        if (case["task"], case["setting"], case["contestant"]) == wanted:
            found.setdefault(case["samples"], []).append(case)
    return [found[n] for n in sorted(found, reverse=True)]


def _row(
    task: Task, setting: Setting, contestant: Contestant, cases: list[Record], dense: Record, reference: float
) -> list[str]:
    name, samples = contestant.name, str(cases[0]["samples"] or "-")
    good = [c for c in cases if c["status"] == "ok"]
    width = len((task.metric, *task.shown))
    if not good:
        text = f"{cases[0]['status']}: {cases[0]['error'][:90]}".replace("|", "/")
        return [name, samples, text, *[""] * (width + 4 + bool(setting.latency))]
    cells = [_spread(figure, [c["figures"][figure] for c in good]) for figure in (task.metric, *task.shown)]
    met = [all(c["met"].values()) for c in good if c["met"]]
    share = fmean(c["macs"] for c in good) / dense["macs"]
    verdict = ("yes" if all(met) else f"{sum(met)} of {len(met)}" if any(met) else "no") if met else ""
    if met and share > reference + SLACK:
        verdict = "removes less"
    return [
        name,
        samples,
        *cells,
        *([_spread("latency", [c["targets"]["latency"] for c in good])] if setting.latency else []),
        f"{share:.3f}",
        f"{fmean(c['params'] for c in good) / dense['params']:.3f}",
        f"{fmean(c['seconds'] for c in good):.1f}",
        f"{max(c['peak_mb'] for c in good):,}",
        verdict,
    ]


def _spread(figure: str, values: list[float]) -> str:
    """The mean, and the range where there are several seeds."""
    digits = DIGITS.get(figure, 2)
    text = f"{fmean(values):.{digits}f}"
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return text if low == high else f"{text} ({low} to {high})"


def _named(name: str, value: float) -> str:
    return f"{LABELS[name]} {value:.{DIGITS.get(name, 2)}f}"
