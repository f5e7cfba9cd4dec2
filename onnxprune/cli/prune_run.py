"""One run of `onnxprune prune`, from file to file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.cli.data import Data
from onnxprune.cli.prune_request import PruneRequest
from onnxprune.cli.screen import Screen
from onnxprune.errors import ModelError, UsageError, VerificationError

if TYPE_CHECKING:
    import onnx

    from onnxprune.api import PruneResult
    from onnxprune.bench.timing import Times
    from onnxprune.calibrate.batch import Samples
    from onnxprune.report.evaluation import Evaluation, Evaluator
    from onnxprune.report.tables import Note

_SIDES = ("before", "after")


@dataclass
class PruneRun:
    """What is found on the way.

    Attributes:
        samples: those that were given.
        times: of both models; None where they were not timed, and `untimed` why.
    """

    screen: Screen
    source: Path
    output: Path
    request: PruneRequest
    data: Data
    samples: Samples | None = None
    evaluator: Evaluator | None = None
    evaluation: Evaluation | None = None
    times: tuple[Times, Times] | None = None
    untimed: str = ""

    def score(self, model: onnx.ModelProto) -> None:
        """Scores the source where there is evaluation data."""
        if self.data.evaluation is None:
            return
        with self.screen.progress() as progress:
            progress("evaluating the model", 0.0)
            self.evaluator = self.data.evaluator(self.source, model)

    def prune(self, model: onnx.ModelProto) -> PruneResult:
        """Prunes and verifies: with the samples that were given, by weights, or with random samples.

        Raises:
            OnnxPruneError: see `onnxprune.prune`.
            VerificationError: the result does not compute what it should.
        """
        if self.data.path is not None:
            self.samples = self.data.read(model)
            return self._pruned(model, self.samples)
        return self._pruned(model) if self.request.by_weights(self.data) else self._without_data(model)

    def _pruned(self, model: onnx.ModelProto, samples: Samples | None = None) -> PruneResult:
        from onnxprune.api import prune

        judge = self.evaluator if self.request.aims_at("drop") else None
        with self.screen.progress() as progress:
            result = prune(
                model,
                **self.request.arguments,
                data=samples,
                evaluation=None if judge is None else judge.data,
                shapes=self.data.shapes or None,
                seed=self.data.seed,
                progress=progress,
            )
        found = result.report.verification
        if found is not None and not found.passed:
            raise VerificationError(f"{self.source}: {found.message or 'the results differ'}; nothing was written")
        return result

    def _without_data(self, model: onnx.ModelProto) -> PruneResult:
        """Prunes with random samples, or by weights alone where they tell nothing about the model.

        Raises:
            UsageError: they tell nothing, and `--reconstruct` asks for them.
        """
        from onnxprune.calibrate.synthetic import unlike_any

        reason = unlike_any(model)
        if not reason:
            try:  # a mask and how to prepare images were given for the evaluation
                return self._pruned(model, replace(self.data, preprocess=None, mask=None).read(model))
            except ModelError as error:
                reason = str(error).split("; ")[0]  # without advice about data that nobody gave
        if self.request.reconstruct is not None:
            raise UsageError(f"--reconstruct needs calibration samples, and random ones do not do: {reason}")
        result = self._pruned(model)
        result.report.calibration = f"none, as {reason}"
        return result

    def measure(self, model: onnx.ModelProto, *, latency: bool) -> None:
        """Times, by the threads that a latency target is about, and scores the files."""
        with self.screen.progress() as progress:
            if self.evaluator:
                progress("evaluating the pruned model", 0.0)
                self.evaluation = self.evaluator.compare(self.output, self.samples)
            if latency:
                progress("timing both models", 0.0)
                self.times = self._time(model)

    def _time(self, model: onnx.ModelProto) -> tuple[Times, Times] | None:
        from onnxprune.bench.inputs import of_one_run
        from onnxprune.bench.quick import latency

        names = {"before": self.source, "after": self.output}
        try:
            feeds = of_one_run(model, 1, self.data.shapes, self.samples)
            times = latency(names, feeds, threads=self.request.timing.threads)
        except ModelError as error:  # the pruned model is there and proven: a missing figure must not take it away
            self.untimed = str(error)
            return None
        return times["before"], times["after"]

    def document(self, model: onnx.ModelProto, result: PruneResult) -> dict[str, Any]:
        """Both files, the machine, the command and all figures, as plain data."""
        from onnxprune.report.record import record

        times = self.times
        return {
            **record((self.source, model), (self.output, result.model)),
            "report": result.report.to_dict(),
            "latency": times and {n: {"p50_ms": t.p50, "ms": t.ms} for n, t in zip(_SIDES, times, strict=True)},
            "evaluation": self.evaluation and self.evaluation.to_dict(),
        }

    def show(self, result: PruneResult) -> None:
        """The result table and what the user should know."""
        from rich.text import Text

        from onnxprune.report.outcome import outcome_tables
        from onnxprune.report.tables import notes_table, result_table

        title = Text(f"{self.source} -> {self.output}", "bold")
        tables = outcome_tables(result.report, self.evaluation, verbose=self.screen.verbose)
        notes = notes_table(self._notes(result))
        self.screen.show(title, result_table(result.report, self.times, self.evaluation), *tables, notes)

    def _notes(self, result: PruneResult) -> list[Note]:
        from onnxprune.report.outcome import evaluation_notes, speed_notes
        from onnxprune.report.tables import Note, plural, result_notes

        report = result.report
        notes = result_notes(report, verbose=self.screen.verbose, width=self.request.width)
        if self.untimed:
            notes.append(Note("not timed", self.untimed, "bold yellow"))
        if self.times:
            rounds = plural(len(self.times[0].rounds), "round")
            threads = self.request.timing.threads
            where = f"ONNX Runtime on this CPU{', ' + plural(threads, 'thread') if threads else ''}"
            text = f"median of {rounds}, models in turn, one sample, {where}; `onnxprune bench` tells more"
            notes.append(Note("latency", text))
            notes += speed_notes(report, self.times, self.request.round_to or 1)
        if (simplified := report.simplified) is not None:
            proven = "" if simplified.verification is None else "; the same as before on random inputs"
            text = f"{simplified.nodes_before:,} nodes became {simplified.nodes_after:,}{proven}"
            notes.append(Note("simplified", text))
        notes += evaluation_notes(self.evaluation)
        if report.resumed:
            notes.append(Note("resumed", report.resumed))
        if self.screen.verbose:
            spent = ", ".join(f"{what} {s:.2f}" for what, s in report.seconds.items())
            notes.append(Note("seconds", spent))
        return notes
