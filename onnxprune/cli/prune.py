"""`onnxprune prune`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from onnxprune.cli import values
from onnxprune.cli.options import RoundTo
from onnxprune.cli.screen import Screen, to_json
from onnxprune.errors import BudgetError, ModelError, NothingToPruneError, UsageError, VerificationError

if TYPE_CHECKING:
    import onnx

    from onnxprune.api import PruneResult
    from onnxprune.bench.timing import Times
    from onnxprune.calibrate.batch import Samples
    from onnxprune.report.evaluation import Evaluation, Evaluator
    from onnxprune.select.allocate import Attention, Ranking

_CHOICE = "What goes"
_DATA = "Calibration and recovery"
_CHECKS = "Checks and measurements"
_FILES = "Files and output"


def prune(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="IN", help="Model to prune; stays as it is.", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="Pruned model.", rich_help_panel=_FILES)],
    ratio: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RATIO",
            help="Share of each group's units that goes, 0.5 unless given; GLOB=RATIO for some. Repeatable.",
            rich_help_panel=_CHOICE,
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="QUANTITY=N",
            help="What may stay of macs, params, size, memory, latency: macs=0.5, size=10MB; drop=1%: lost of the metric. "
            "Repeatable.",
            rich_help_panel=_CHOICE,
            show_default=False,
        ),
    ] = None,
    closest: Annotated[
        bool,
        typer.Option("--closest", help="If a target can't be met, write the closest model.", rich_help_panel=_CHOICE),
    ] = False,
    criterion: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Importance of a unit; obs with samples or --merge, l2 without, unless given.",
            rich_help_panel=_CHOICE,
            show_default=False,
        ),
    ] = None,
    ranking: Annotated[
        str | None,
        typer.Option(
            metavar="local|global|isomorphic|knapsack",
            help="Rank within each group, all groups together, or like ones; knapsack spends a target, and is what does "
            "with samples unless given.",
            rich_help_panel=_CHOICE,
            show_default=False,
        ),
    ] = None,
    round_to: RoundTo = None,
    min_channels: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N", help="Keep at least N units of a group; GLOB=N for some. Repeatable.", rich_help_panel=_CHOICE
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Groups, initializers or nodes that stay. Repeatable.", rich_help_panel=_CHOICE),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Groups, initializers or nodes that may go. Repeatable.", rich_help_panel=_CHOICE),
    ] = None,
    attention: Annotated[
        str,
        typer.Option(metavar="heads|head-dim|both|off", help="What goes of attention.", rich_help_panel=_CHOICE),
    ] = "heads",
    width: Annotated[
        bool,
        typer.Option("--width", help="Also groups that a statistic runs over (inexact).", rich_help_panel=_CHOICE),
    ] = False,
    depth: Annotated[
        bool,
        typer.Option("--depth", help="A target may drop whole blocks, too; needs --data.", rich_help_panel=_CHOICE),
    ] = False,
    lossless: Annotated[
        bool,
        typer.Option("--lossless", help="Remove only what provably does nothing.", rich_help_panel=_CHOICE),
    ] = False,
    low_rank: Annotated[
        bool,
        typer.Option(
            "--low-rank", help="With --target: wide nodes may become two of a lower rank.", rich_help_panel=_CHOICE
        ),
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Unlabelled samples: npz, folder, file.py:function; random ones ('synthetic') unless given.",
            rich_help_panel=_DATA,
            show_default=False,
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Use at most N samples; 512 unless given, random ones by the size of the model.",
            rich_help_panel=_DATA,
            show_default=False,
        ),
    ] = None,
    preprocess: Annotated[
        str | None,
        typer.Option(metavar="KEY=VALUE,...", help="For images: size, mean, std ...", rich_help_panel=_DATA),
    ] = None,
    mask: Annotated[
        str | None, typer.Option(metavar="INPUT", help="Input whose zeros mark padding.", rich_help_panel=_DATA)
    ] = None,
    reconstruct: Annotated[
        str | None,
        typer.Option(
            metavar="none|bias|affine|channel|lsq",
            help="Fit what stays to what the source computes; lsq unless given, none without samples.",
            rich_help_panel=_DATA,
            show_default=False,
        ),
    ] = None,
    merge: Annotated[
        bool,
        typer.Option(
            "--merge", help="Fold what goes into what stays; needs no data. Equal tensors become one.", rich_help_panel=_DATA
        ),
    ] = False,
    simplify: Annotated[
        bool,
        typer.Option(
            "--simplify/--no-simplify", help="Write the smallest graph that computes the same.", rich_help_panel=_FILES
        ),
    ] = False,
    memory_budget: Annotated[
        float, typer.Option(metavar="GB", min=0.01, help="Activations held in memory.", rich_help_panel=_DATA)
    ] = 2.0,
    provider: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Execution provider: cpu, cuda:device_id=1. Repeatable.", rich_help_panel=_DATA),
    ] = None,
    threads: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Threads for a latency target; 0: ORT's own choice.", rich_help_panel=_CHECKS),
    ] = 0,
    batch: Annotated[
        int, typer.Option(metavar="N", min=1, help="Samples of a run, for a latency target.", rich_help_panel=_CHECKS)
    ] = 1,
    latency_cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep measured times here; the user's cache folder unless given.",
            rich_help_panel=_CHECKS,
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep finished fits here; go on from them.", rich_help_panel=_DATA),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=N,N,...", help="Shape of an input. Repeatable.", rich_help_panel=_CHECKS),
    ] = None,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Prove the surgery.", rich_help_panel=_CHECKS)] = True,
    latency: Annotated[
        bool, typer.Option("--latency/--no-latency", help="Time both models.", rich_help_panel=_CHECKS)
    ] = True,
    evaluation: Annotated[
        str | None,
        typer.Option(
            "--eval", metavar="PATH", help="Score both models on this data, in any form of --data.", rich_help_panel=_CHECKS
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="accuracy, top5, perplexity, mse, cosine or file.py:function; by the data, unless given.",
            rich_help_panel=_CHECKS,
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Labels for --eval: npy, npz, csv, txt, or an array of the data.",
            rich_help_panel=_CHECKS,
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the random inputs.", rich_help_panel=_CHECKS)] = 0,
    plan_out: Annotated[
        Path | None, typer.Option(metavar="JSON", help="Write what was removed.", rich_help_panel=_FILES)
    ] = None,
    report_out: Annotated[
        Path | None, typer.Option(metavar="JSON", help="Write all figures.", rich_help_panel=_FILES)
    ] = None,
    copy_if_nothing: Annotated[
        bool, typer.Option("--copy-if-nothing", help="Write IN to OUT if nothing can go.", rich_help_panel=_FILES)
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document instead of tables.", rich_help_panel=_FILES)
    ] = False,
) -> None:
    """Prune a model, verify the result and measure it."""
    from onnxprune.budget.targets import read_targets
    from onnxprune.latency.timing import Timing

    overall, by_glob = values.ratios(ratio or [])
    floors = values.floors(min_channels or [])
    shapes = values.shapes(shape or [])
    targets = read_targets(target or [])
    _check_choices(criterion, ranking, attention, reconstruct)
    given = [Path(p) for p in (evaluation, labels) if p]
    values.check_outputs([source, *given], [output, plan_out, report_out])
    by_weights = data is None and (lossless or reconstruct == "none" or (merge and reconstruct is None))
    timed = any(t.quantity == "latency" for t in targets)
    if by_weights and (resume is not None or (provider and not timed)):
        raise UsageError("--resume and --provider are about samples, and this goes by weights alone: give --data PATH")
    if (preprocess or mask) and data is None and evaluation is None:
        raise UsageError("--preprocess and --mask need samples: give --data PATH or --eval PATH")
    if (metric or labels) and evaluation is None:
        raise UsageError("--metric and --labels need data to evaluate on: give --eval PATH")
    if lossless and (ratio or target or criterion or data is not None or merge or reconstruct not in (None, "none")):
        others = "--ratio, --target, --criterion, --data, --merge and --reconstruct"
        raise UsageError(f"--lossless decides by itself what goes: leave out {others}")
    if evaluation is None and any(t.quantity == "drop" for t in targets):
        raise UsageError("--target drop is about a metric: give --eval PATH")
    if (threads or batch != 1 or latency_cache) and not timed:
        raise UsageError("--threads, --batch and --latency-cache are about a latency target: give --target latency=N")
    if depth and (not targets or data is None):
        raise UsageError("--depth lets a target choose which blocks go, by what samples say: give --target and --data PATH")
    if closest and not targets:
        raise UsageError("--closest is about a target: give --target")
    if low_rank and (not targets or by_weights or ranking not in (None, "knapsack")):
        raise UsageError("--low-rank is a choice of the knapsack: give --target and samples, and no other --ranking")
    if depth and low_rank:
        raise UsageError("--depth and --low-rank exclude each other: blocks are chosen for nodes that stay one")
    if low_rank and merge:
        raise UsageError("--low-rank and --merge exclude each other: what a pair lacks is made up for by the fit")
    if samples and data is None and (lossless or reconstruct == "none" or (merge and reconstruct is None)):
        raise UsageError("--samples has no effect: these options use no samples; give --data, or leave it out")
    run = _Run(cast(Screen, context.obj), source, output, shapes, seed)
    model = run.load()
    if evaluation is not None:
        run.evaluate(model, evaluation, metric=metric, labels=labels, mask=mask, preprocess=preprocess)
    options: dict[str, Any] = {
        "ratio": overall,
        "target": targets,
        "closest": closest,
        "ratios": by_glob,
        "criterion": criterion,
        "ranking": cast("Ranking | None", ranking),
        "round_to": round_to,
        "min_channels": floors or 1,
        "ignore": ignore or [],
        "only": only or [],
        "attention": cast("Attention", attention),
        "width": width,
        "check": verify,
        "reconstruct": reconstruct,
        "merge": merge,
        "lossless": lossless,
        "simplify": simplify,
        "depth": depth,
        "low_rank": low_rank,
        "memory": int(memory_budget * (1 << 30)),
        "providers": provider or [],
        "resume": resume,
        "timing": Timing(threads, batch, latency_cache),
    }
    if any(t.quantity == "drop" for t in targets) and run.evaluator is not None:
        options["evaluation"] = run.evaluator.data
    try:
        if data is not None:
            options["data"] = run.read(model, data, samples, mask, preprocess)
            result = run.prune(model, options)
        elif by_weights:
            result = run.prune(model, options)
        else:
            result = run.prune_without_data(model, options, samples)
    except NothingToPruneError:
        if copy_if_nothing:
            run.save(model)
        raise
    run.save(result.model, result.plan.to_json(), plan_out)
    run.measure(model, options.get("data"), latency=latency)
    document = {**run.record(model, result.model), "report": result.report.to_dict(), **run.figures()}
    if report_out:
        from onnxprune.io.save import save_text

        save_text(to_json(document), report_out)
    if json:
        run.screen.document(document)
    else:
        run.show(result, width=width, round_to=round_to or 1)
    if result.report.unmet:
        raise BudgetError(result.report.unmet)


def _check_choices(criterion: str | None, ranking: str | None, attention: str, reconstruct: str | None) -> None:
    from typing import get_args

    from onnxprune.recover.solve import Mode
    from onnxprune.select import allocate
    from onnxprune.select.criteria import criteria

    if criterion is not None:
        values.check_choice("--criterion", criterion, criteria())
    if reconstruct is not None:
        values.check_choice("--reconstruct", reconstruct, get_args(Mode))
    if ranking is not None:
        values.check_choice("--ranking", ranking, get_args(allocate.Ranking))
    values.check_choice("--attention", attention, get_args(allocate.Attention))


@dataclass
class _Run:
    """One pruning, from file to file."""

    screen: Screen
    source: Path
    output: Path
    shapes: dict[str, tuple[int, ...]]
    seed: int
    evaluator: Evaluator | None = None
    evaluation: Evaluation | None = None
    times: tuple[Times, Times] | None = None
    untimed: str = ""

    def load(self) -> onnx.ModelProto:
        """Reads the model."""
        from onnxprune.io.load import load_model

        return load_model(self.source)

    def evaluate(self, model: onnx.ModelProto, data: str, *, preprocess: str | None, **options: str | None) -> None:
        """Scores the model, which also tells whether the data fits."""
        from onnxprune.calibrate.preprocess import parse_preprocess
        from onnxprune.metrics.data import load_data
        from onnxprune.report.evaluation import Evaluator

        chosen = parse_preprocess(preprocess) if preprocess else None
        with self.screen.progress() as progress:
            progress("evaluating the model", 0.0)
            found = load_data(data, model, preprocess=chosen, shapes=self.shapes or None, **options)
            self.evaluator = Evaluator(self.source, found)

    def read(
        self, model: onnx.ModelProto, data: str, samples: int | None, mask: str | None, preprocess: str | None
    ) -> Samples:
        """Finds the calibration samples and fits them to the model."""
        from onnxprune.calibrate.preprocess import parse_preprocess
        from onnxprune.calibrate.read import read_samples
        from onnxprune.calibrate.synthetic import affordable

        chosen = parse_preprocess(preprocess) if preprocess else None
        source = None if data == "synthetic" else data
        count = samples or (affordable(model, self.shapes or None) if source is None else 512)
        return read_samples(
            source, model, samples=count, mask=mask, preprocess=chosen, shapes=self.shapes or None, seed=self.seed
        )

    def prune(self, model: onnx.ModelProto, options: dict[str, Any]) -> PruneResult:
        """Prunes and verifies."""
        from onnxprune.api import prune

        with self.screen.progress() as progress:
            result = prune(model, **options, shapes=self.shapes or None, seed=self.seed, progress=progress)
        found = result.report.verification
        if found is not None and not found.passed:
            raise VerificationError(f"{self.source}: {found.message or 'the results differ'}; nothing was written")
        return result

    def prune_without_data(self, model: onnx.ModelProto, options: dict[str, Any], samples: int | None) -> PruneResult:
        """Prunes with random samples, or by weights alone where they tell nothing about the model.

        Raises:
            UsageError: they tell nothing, and `--reconstruct` asks for them.
        """
        from onnxprune.calibrate.synthetic import unlike_any

        reason = unlike_any(model)
        if not reason:
            try:
                return self.prune(model, {**options, "data": self.read(model, "synthetic", samples, None, None)})
            except ModelError as error:
                reason = str(error).split("; ")[0]  # without advice about data that nobody gave
        if options["reconstruct"] is not None:
            raise UsageError(f"--reconstruct needs calibration samples, and random ones do not do: {reason}")
        result = self.prune(model, options)
        result.report.calibration = f"none, as {reason}"
        return result

    def save(self, model: onnx.ModelProto, plan: str = "", plan_out: Path | None = None) -> None:
        """Writes the plan, then the model."""
        from onnxprune.io.save import save_model, save_text

        if plan_out:
            save_text(plan, plan_out)
        save_model(model, self.output, source_path=self.source)

    def measure(self, model: onnx.ModelProto, calibration: Samples | None, *, latency: bool) -> None:
        """Times and scores the files."""
        with self.screen.progress() as progress:
            if self.evaluator:
                progress("evaluating the pruned model", 0.0)
                self.evaluation = self.evaluator.compare(self.output, calibration)
            if latency:
                progress("timing both models", 0.0)
                self.times = self._time(model)

    def _time(self, model: onnx.ModelProto) -> tuple[Times, Times] | None:
        from onnxprune.bench.inputs import made_up
        from onnxprune.bench.quick import latency

        names = {"before": self.source, "after": self.output}
        try:
            times = latency(names, made_up(model, 1, self.shapes))
        except ModelError as error:  # the pruned model is there and proven: a missing figure must not take it away
            self.untimed = str(error)
            return None
        return times["before"], times["after"]

    def record(self, model: onnx.ModelProto, pruned: onnx.ModelProto) -> dict[str, Any]:
        """Both files, the machine and the command, as plain data."""
        from onnxprune.report.record import record

        return record((self.source, model), (self.output, pruned))

    def figures(self) -> dict[str, Any]:
        """Measurements as plain data."""
        times = self.times
        return {
            "latency": times and {n: {"p50_ms": t.p50, "ms": t.ms} for n, t in zip(_SIDES, times, strict=True)},
            "evaluation": self.evaluation and self.evaluation.to_dict(),
        }

    def show(self, result: PruneResult, *, width: bool, round_to: int) -> None:
        """The result table and what the user should know."""
        from rich.text import Text

        from onnxprune.report.outcome import evaluation_notes, outcome_tables, speed_notes
        from onnxprune.report.tables import Note, notes_table, plural, result_notes, result_table

        notes = result_notes(result.report, verbose=self.screen.verbose, width=width)
        if self.untimed:
            notes.append(Note("not timed", self.untimed, "bold yellow"))
        if self.times:
            rounds = plural(len(self.times[0].rounds), "round")
            text = f"median of {rounds}, models in turn, one sample, ONNX Runtime on this CPU; `onnxprune bench` tells more"
            notes.append(Note("latency", text))
            notes += speed_notes(result.report, self.times, round_to)
        if (simplified := result.report.simplified) is not None:
            proven = "" if simplified.verification is None else "; the same as before on random inputs"
            text = f"{simplified.nodes_before:,} nodes became {simplified.nodes_after:,}{proven}"
            notes.append(Note("simplified", text))
        notes += evaluation_notes(self.evaluation)
        if result.report.resumed:
            notes.append(Note("resumed", result.report.resumed))
        if self.screen.verbose:
            spent = ", ".join(f"{what} {s:.2f}" for what, s in result.report.seconds.items())
            notes.append(Note("seconds", spent))
        title = Text(f"{self.source} -> {self.output}", "bold")
        tables = outcome_tables(result.report, self.evaluation, verbose=self.screen.verbose)
        self.screen.show(title, result_table(result.report, self.times, self.evaluation), *tables, notes_table(notes))


_SIDES = ("before", "after")
