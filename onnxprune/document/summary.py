"""What changed, whether it is faster beyond noise, and what it costs in accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from onnxprune.bench.statistics import NO_DIFFERENCE
from onnxprune.bench.tables import speedup_text
from onnxprune.document.models import Models, Quantity, configuration_title
from onnxprune.document.parts import NOT_MEASURED, Fact, Note, Tone, upper
from onnxprune.document.read import ResultFile, Results
from onnxprune.document.scores import Evaluated, confidence_text, share_text
from onnxprune.report.tables import percent, plural, si

_MOST_VERDICTS = 6
_TONES: dict[str, Tone] = {"better": "good", "faster": "good", "worse": "bad", "slower": "bad"}  # of verdicts


def size_text(count: float) -> str:
    """Bytes with a prefix."""
    return f"{si(count)}B"


def ms_text(value: float) -> str:
    """Milliseconds, three digits."""
    return f"{value:.3g} ms" if value < 100 else f"{value:,.0f} ms"


def count_text(count: float) -> str:
    """A count with a prefix."""
    return si(count).strip()


TEXTS: dict[str, Callable[[float], str]] = {
    "bytes": size_text,
    "params": lambda n: f"{n:,.0f}",
    "macs": count_text,
    "latency": ms_text,
}
_TITLES: dict[Quantity, str] = {"macs": "MACs", "params": "Parameters", "bytes": "File size"}


# ---- figures ----


def facts(models: Models, results: Results) -> Iterator[Fact]:
    """The figures that matter most, where there are two models; of more the table of models tells."""
    if len(models) != 2:
        return
    yield _score_fact(results)
    yield _latency_fact(models, results)
    for quantity, title in _TITLES.items():
        yield _size_fact(models, quantity, title)
    pruned = results.of("prune")
    if pruned:
        yield _proof_fact(pruned[0].data["report"])


def _score_fact(results: Results) -> Fact:
    for found in evaluations(results):
        if found.after is None:
            return Fact(found.title, "failed", found.failed or found.figures, "bad")
        tone = _TONES.get(found.verdict, "plain")
        verdict = f": {found.verdict}" if found.verdict == "within noise" else f": {found.verdict} beyond noise"
        return Fact(found.title, found.change, f"{found.figures}; {found.ends}{verdict if found.verdict else ''}", tone)
    return Fact("Accuracy", NOT_MEASURED, "needs data to evaluate on: onnxprune prune --eval", "warning")


def _latency_fact(models: Models, results: Results) -> Fact:
    for _, benchmark in results.benchmarks:
        for configuration in benchmark.configurations:
            compared = [m for m in configuration.measurements if m.speedup]
            if not compared or not compared[0].speedup:
                continue
            found = compared[0].speedup
            same = found.verdict == NO_DIFFERENCE
            value = NO_DIFFERENCE if same else speedup_text(found).partition(" (")[0]
            title = configuration_title(configuration.provider, configuration.batch, configuration.threads)
            times = f"p50 {ms_text(configuration.measurements[0].times.p50)} before, {ms_text(compared[0].times.p50)} after"
            ends = speedup_text(found).partition(" (")[2].rstrip(")").replace("..", " to ")
            detail = f"{times}; {confidence_text(found.confidence)} interval of the ratio {ends}; {title}"
            return Fact("Latency", value, detail, "plain" if same else "good" if found.verdict == "faster" else "bad")
    basis = models.best("latency")
    if basis is None or len(basis.figures) < 2:
        return Fact("Latency", NOT_MEASURED, "onnxprune bench measures it", "warning")
    before, after = (basis.figures[k].value for k in (0, 1))
    return Fact(
        "Latency",
        _times(before, after),
        f"p50 {ms_text(before)} before, {ms_text(after)} after; {basis.title}, not judged against noise",
        "warning",
    )


def _times(before: float, after: float) -> str:
    return f"{before / after:.2f}x faster" if after <= before else f"{after / before:.2f}x slower"


def _size_fact(models: Models, quantity: Quantity, title: str) -> Fact:
    basis = models.best(quantity)
    if basis is None or len(basis.figures) < 2:
        return Fact(title, NOT_MEASURED, "no file tells it of both models", "warning")
    before, after = (basis.figures[k].value for k in (0, 1))
    shown = TEXTS[quantity]
    tone: Tone = "good" if after < before else "plain" if after == before else "bad"
    run = f"; {basis.title}" if quantity == "macs" else ""
    return Fact(title, percent(before, after), f"{shown(before)} before, {shown(after)} after{run}", tone)


def _proof_fact(report: Mapping[str, Any]) -> Fact:
    found = report.get("verification")
    if found is None:
        return Fact("Surgery", "not verified", report.get("unverified", ""), "warning")
    error = "infinite" if found["error"] is None else f"{found['error']:.1e}"
    detail = f"largest relative error {error}, tolerance {found['tolerance']:.0e}"
    return Fact("Surgery", "verified", detail, "good") if found["passed"] else Fact("Surgery", "failed", detail, "bad")


def evaluations(results: Results) -> list[Evaluated]:
    """All scores, of prunings first."""
    files = [*results.of("prune"), *results.of("compare")]
    found = [Evaluated.of(f.data.get("evaluation")) for f in files]
    return [e for e in found if e is not None]


# ---- sentences ----


def findings(models: Models, results: Results) -> Iterator[Note]:
    """What the figures mean."""
    for file in results.of("prune"):
        yield from _pruning(models, file.data)
    yield from _speed(results)
    for file in results.of("front"):
        yield from _family(file)
    for file in results.of("compare"):
        yield _comparison(file.data)
    for path in models.replaced:
        yield Note(
            f"The files tell of different contents of {path}: it was written again in between. Compare them with care.",
            "warning",
        )


def _pruning(models: Models, data: Mapping[str, Any]) -> Iterator[Note]:
    report = data["report"]
    cut = [g for g in report["groups"] if g["removed"]]
    units, of = sum(g["removed"] for g in cut), sum(g["units"] for g in report["groups"])
    own = models.name(models.add(data["output"], (data.get("sha256") or {}).get("output", "")))
    ranked = f", ranked by {report['criterion']}" if report.get("criterion") else ""
    calibration = f" Calibration: {report['calibration']}." if report.get("calibration") else ""
    cut_of = f"{len(cut):,} of {plural(len(report['groups']), 'group')}"
    yield Note(f"{own}: {units:,} of {of:,} units in {cut_of} were removed{ranked}.{calibration}")

    blocks = (report.get("blocks") or {}).get("gone", ())
    if blocks:
        yield Note(
            f"{plural(len(blocks), 'block')} went as a whole: {', '.join(b['reader'] for b in blocks)} add constants now."
        )

    found = Evaluated.of(data.get("evaluation"))
    if found is not None:
        yield _accuracy(own, found)
    fits = [f for f in report.get("fits", ()) if not f.get("reason") and f.get("lost_before") is not None]
    fitted = [f for f in fits if f["kind"] != "none" and f.get("lost_after") is not None]
    if fitted:
        before, after = (sum(f[side] for f in fitted) / len(fitted) for side in ("lost_before", "lost_after"))
        yield Note(
            f"Reconstruction fitted {plural(len(fitted), 'node')}: on average, held-out samples show {share_text(before)} "
            f"of the variance of their outputs lost before and {share_text(after)} after."
        )
    yield from _targets(report)
    for back in report.get("put_back", ()):
        yield Note(
            f"Group {back['group']} stays as it was: {back['reason']}. That is a bug of onnxprune, please report it.", "bad"
        )
    for failure in report["failures"]:
        yield Note(f"A rule failed: {failure}. That is a bug of onnxprune, please report it.", "bad")
    for op, nodes in report["unknown_ops"].items():
        yield Note(f"Operator {op} has no rule ({plural(len(nodes), 'node')}): what it touches stays as it was.", "warning")


def _targets(report: Mapping[str, Any]) -> Iterator[Note]:
    """What was asked for, and what came of it."""
    for found in report.get("targets", ()):
        shown = TEXTS.get({"size": "bytes"}.get(found["quantity"], found["quantity"]), count_text)
        figures = (
            f"{shown(found['before'])} before, at most {shown(found['limit'])} asked for, {shown(found['after'])} after"
        )
        met = "met" if found["met"] else "missed"
        yield Note(f"Target {found['target']}: {met}; {figures}.", "good" if found["met"] else "bad")
    if report.get("unmet"):
        yield Note(f"The targets can't be met: {report['unmet']}. This is the closest model.", "bad")


def _accuracy(own: str, found: Evaluated) -> Note:
    if found.after is None:
        return Note(f"{own} was not evaluated: {found.failed}", "bad")
    verdict = {"within noise": "a change within noise", "worse": "worse beyond noise", "better": "better beyond noise"}
    worth = f"{found.ends}: {verdict[found.verdict]}" if found.verdict else "one figure for the whole run, without interval"
    seen = f" {found.seen:,} of the samples were calibrated on: the figures flatter." if found.seen else ""
    held = " None of the samples was calibrated on." if found.seen == 0 else ""
    tone = "warning" if found.seen else _TONES.get(found.verdict, "plain")
    figures = f"{found.figures}, {found.change} ({worth})"
    return Note(f"{upper(found.title)} of {own} on {found.data}: {figures}.{seen}{held}", tone)


def _speed(results: Results) -> Iterator[Note]:
    said = 0
    for _, benchmark in results.benchmarks:
        for configuration in benchmark.configurations:
            title = configuration_title(configuration.provider, configuration.batch, configuration.threads)
            first = configuration.measurements[0].model
            for each in configuration.measurements:
                if each.speedup is None:
                    continue
                said += 1
                if said > _MOST_VERDICTS:
                    continue
                ratio = speedup_text(each.speedup).replace("..", " to ")
                tone = _TONES.get(each.speedup.verdict, "plain")
                beyond = "" if each.speedup.verdict == NO_DIFFERENCE else " beyond noise"
                against = f"against {first}" if each.speedup.verdict == NO_DIFFERENCE else f"than {first}"
                value, _, ends = ratio.partition(" (")
                sure = f"{confidence_text(each.speedup.confidence)} interval {ends}"
                yield Note(f"{each.model}: {value} {against}{beyond} on {title} ({sure}.", tone)
            if configuration.noise and said <= _MOST_VERDICTS:
                more = f" ({len(configuration.noise) - 1} more under Latency)" if len(configuration.noise) > 1 else ""
                yield Note(f"The measurement on {title} was noisy: {configuration.noise[0]}{more}.", "warning")
    if said > _MOST_VERDICTS:
        yield Note(f"{said - _MOST_VERDICTS} more comparisons stand under Latency.")


def _family(file: ResultFile) -> Iterator[Note]:
    """How many models there are, and the smallest one that is no worse beyond noise."""
    data, pruned = file.data, [m for m in file.data["models"][1:] if not m["failed"]]
    beaten = sum(m["dominated"] for m in pruned)
    title = data["worth"]["title"]
    calibration = f" Calibration: {data['calibration']}." if data.get("calibration") else ""
    others = f"; {beaten} of them are beaten by another model in everything that counts" if beaten else ""
    yield Note(f"A family of {plural(len(pruned), 'model')} pruned for {data['target']}{others}.{calibration}")
    sign = 1.0 if data["worth"]["higher_is_better"] else -1.0
    alike = [m for m in pruned if m["interval"] and max(sign * end for end in m["interval"]) >= 0]
    judged = any(m["interval"] for m in pruned)
    if alike:
        least = min(alike, key=lambda m: m["share"])
        yield Note(
            f"{least['name']} is the smallest model whose {title} is not worse than that of the source beyond noise.", "good"
        )
    elif judged:
        yield Note(f"The {title} of all of them is worse than that of the source beyond noise.", "bad")
    for m in data["models"]:
        if m["failed"]:
            yield Note(f"{m['name']} was not made: {m['failed']}", "warning")


def _comparison(data: Mapping[str, Any]) -> Note:
    pair = f"{data['second']} against {data['first']} on {data['data']}"
    if data["exceeded"]:
        return Note(f"{pair}: {'; '.join(data['exceeded'])}.", "bad")
    if not data["passed"]:
        return Note(f"{pair}: the comparison failed.", "bad")
    if any(o.get("passed") is not None for o in data["outputs"]) or data.get("evaluation"):
        return Note(f"{pair}: all thresholds hold.", "good")
    errors = [f"{o['output']} {share_text(o['relative_error'])}" for o in data["outputs"] if o["relative_error"] is not None]
    return Note(f"{pair}: relative error of outputs {', '.join(errors[:3]) or 'infinite'}; no threshold was asked for.")
