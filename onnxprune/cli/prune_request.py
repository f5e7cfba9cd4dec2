"""What `onnxprune prune` is asked for, and what of it does not go together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from onnxprune.cli import values
from onnxprune.cli.data import Data
from onnxprune.errors import UsageError

if TYPE_CHECKING:
    from onnxprune.budget.targets import Quantity, Target
    from onnxprune.latency.timing import Timing


@dataclass(frozen=True, kw_only=True)
class PruneRequest:
    """Arguments of `onnxprune.prune`, which tells what they mean, but for data and what is random."""

    ratio: float | None
    ratios: dict[str, float]
    target: Sequence[Target]
    closest: bool
    criterion: str | None
    ranking: str | None
    round_to: int | None
    min_channels: int | dict[str, int]
    ignore: Sequence[str]
    only: Sequence[str]
    attention: str
    width: bool
    depth: bool
    lossless: bool
    low_rank: bool
    reconstruct: str | None
    merge: bool
    simplify: bool
    memory: int
    providers: Sequence[str]
    resume: Path | None
    timing: Timing
    check: bool

    @property
    def arguments(self) -> dict[str, Any]:
        """By name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def aims_at(self, quantity: Quantity) -> bool:
        """There is a target for it."""
        return any(t.quantity == quantity for t in self.target)

    def by_weights(self, data: Data) -> bool:
        """No samples are used, random ones neither."""
        fits = self.reconstruct != "none" and not (self.merge and self.reconstruct is None)
        return data.path is None and (self.lossless or not fits)

    def check_choices(self) -> None:
        """Raises `UsageError` for a name that is none of those known."""
        from onnxprune.recover.solve import Mode
        from onnxprune.select import allocate
        from onnxprune.select.criteria import criteria

        if self.criterion is not None:
            values.check_choice("--criterion", self.criterion, criteria())
        if self.reconstruct is not None:
            values.check_choice("--reconstruct", self.reconstruct, get_args(Mode))
        if self.ranking is not None:
            values.check_choice("--ranking", self.ranking, get_args(allocate.Ranking))
        values.check_choice("--attention", self.attention, get_args(allocate.Attention))

    def check_data(self, data: Data) -> None:
        """Raises `UsageError` for options about samples that nobody looks at, or that are not there."""
        by_weights = self.by_weights(data)
        if by_weights and (self.resume is not None or (self.providers and not self.aims_at("latency"))):
            raise UsageError("--resume and --provider are about samples, and this goes by weights alone: give --data PATH")
        if (data.preprocess or data.mask) and data.path is None and data.evaluation is None:
            raise UsageError("--preprocess and --mask need samples: give --data PATH or --eval PATH")
        data.check()
        chosen = self.ratio is not None or self.ratios or self.target or self.criterion
        if self.lossless and (chosen or data.path is not None or self.merge or self.reconstruct not in (None, "none")):
            others = "--ratio, --target, --criterion, --data, --merge and --reconstruct"
            raise UsageError(f"--lossless decides by itself what goes: leave out {others}")
        if by_weights and data.samples is not None:
            raise UsageError("--samples has no effect: these options use no samples; give --data, or leave it out")

    def check_target(self, data: Data) -> None:
        """Raises `UsageError` for options that lack a target or what it needs, or that exclude each other."""
        from onnxprune.latency.timing import Timing

        if data.evaluation is None and self.aims_at("drop"):
            raise UsageError("--target drop is about a metric: give --eval PATH")
        if self.timing != Timing() and not self.aims_at("latency"):
            raise UsageError("--threads, --batch and --latency-cache are about a latency target: give --target latency=N")
        if self.depth and (not self.target or data.path is None):
            wanted = "give --target and --data PATH"
            raise UsageError(f"--depth lets a target choose which blocks go, by what samples say: {wanted}")
        if self.closest and not self.target:
            raise UsageError("--closest is about a target: give --target")
        if self.low_rank and (not self.target or self.by_weights(data) or self.ranking not in (None, "knapsack")):
            raise UsageError("--low-rank is a choice of the knapsack: give --target and samples, and no other --ranking")
        if self.low_rank and self.merge:
            raise UsageError("--low-rank and --merge exclude each other: what a pair lacks is made up for by the fit")
