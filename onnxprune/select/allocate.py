"""Allocation: how many units of each group go, and which."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import UsageError
from onnxprune.groups.classes import Ids
from onnxprune.groups.group import Group, Groups
from onnxprune.select.context import ScoreContext, Scores
from onnxprune.select.criteria import score

Ranking = Literal["local", "global", "isomorphic", "knapsack"]
Attention = Literal["heads", "head-dim", "both", "off"]


@dataclass(frozen=True)
class Options:
    """What the user asked for.

    Attributes:
        ratio: share of each group's units that goes, 0 <= ratio < 1.
        ratios: the same for groups that match a glob; the last match counts.
        criterion: name of a registered criterion.
        ranking: `local` takes the share from every group, `global` from all groups together what costs least, `isomorphic`
            from all groups of the same structure, see `onnxprune.select.rankings`; `knapsack` needs a budget, see
            `onnxprune.budget`.
        round_to: kept widths are multiples of this, where the group has as many; None: of 8, 4 or 2 channels, which is what
            vectors and blocks of kernels hold, where that is an eighth of the group at most.
        min_channels: kept units of a group, at least 1.
        floors: the same for groups that match a glob; the last match counts.
        ignore: globs of groups, initializers or nodes that stay.
        only: globs of those that may go, all others stay.
        attention: what of attention goes.
        steps: kept units are multiples of these too, by group id: widths that pay in what is to be spent.
        unless_whole: no more than so many units stay, by group id, unless all do: between lie widths that save nothing.
    """

    ratio: float = 0.5
    ratios: Mapping[str, float] = field(default_factory=dict)
    criterion: str = "l2"
    ranking: Ranking = "local"
    round_to: int | None = 1
    min_channels: int = 1
    floors: Mapping[str, int] = field(default_factory=dict)
    ignore: Sequence[str] = ()
    only: Sequence[str] = ()
    attention: Attention = "heads"
    steps: Mapping[str, int] = field(default_factory=dict)
    unless_whole: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for ratio in (self.ratio, *self.ratios.values()):
            if not 0 <= ratio < 1:
                raise UsageError(f"ratio {ratio:g} is not in [0, 1): it is the share of units that goes")
        if min(1 if self.round_to is None else self.round_to, self.min_channels, *self.floors.values()) < 1:
            raise UsageError("round-to and min-channels must be at least 1")
        for name, value, known in (
            ("ranking", self.ranking, get_args(Ranking)),
            ("attention", self.attention, get_args(Attention)),
        ):
            if value not in known:
                raise UsageError(f"{name} {value!r} is none of {', '.join(known)}")


@dataclass
class Choice:
    """What goes of one group.

    Attributes:
        group: the group.
        removed: per bucket the positions of the elements that go.
        scores: per bucket the importance of its elements.
    """

    group: Group
    removed: list[list[int]]
    scores: list[NDArray[np.float64]]

    @property
    def count(self) -> int:
        """Units that go."""
        return len(self.removed[0]) if self.removed else 0

    @property
    def classes(self) -> Ids:
        """Classes that go."""
        parts = [self.group.buckets[b][k] for b, rows in enumerate(self.removed) for k in rows]
        return np.concatenate(parts) if parts else np.zeros(0, np.int32)


def matches(group: Group, pattern: str) -> bool:
    """A glob names the group, one of its weights or a node that reads them."""
    names = [group.id, *(w for w, _ in group.members), *group.nodes]
    return any(fnmatchcase(n, pattern) for n in names)


def candidates(groups: Groups, options: Options) -> list[Group]:
    """Groups that may go: of two that cut the same weights, the one that the options ask for.

    Raises:
        UsageError: a glob matches nothing.
    """
    for pattern in (*options.ignore, *options.only, *options.ratios, *options.floors):
        known = list(groups.trace.weights) + [f.weight for f in groups.frozen]
        if not any(matches(g, pattern) for g in groups.groups) and not any(fnmatchcase(n, pattern) for n in known):
            raise UsageError(f"{pattern!r} matches no group, initializer or node; `onnxprune inspect` lists them")
    wanted = []
    for group in groups.groups:
        if any(matches(group, p) for p in options.ignore):
            continue
        if options.only and not any(matches(group, p) for p in options.only):
            continue
        if group.kind in ("heads", "head-dim") and not _asked(group, options.attention):
            continue
        wanted.append(group)
    return wanted


def _asked(group: Group, attention: Attention) -> bool:
    if attention in ("off", "both"):
        return attention == "both"
    return group.kind == attention or not group.alternatives


def allocate(groups: Groups, options: Options, context: ScoreContext | None = None) -> list[Choice]:
    """Chooses what goes.

    Args:
        groups: result of `analyze`.
        options: what the user asked for.
        context: what criteria see; where not given, the weights alone.

    Raises:
        UsageError: a glob matches nothing, the criterion is unknown or needs data that is not there.
    """
    return choose(groups, options, score(context or ScoreContext(groups), options.criterion))


def ranked(groups: Groups, options: Options, scores: Scores) -> list[Choice]:
    """The groups that may go, each with the importances of its elements; nothing goes yet.

    Raises:
        UsageError: a glob matches nothing.
    """
    of_group = {group.id: values for group, values in zip(groups.groups, scores, strict=True)}
    return [Choice(g, [[] for _ in g.buckets], of_group[g.id]) for g in candidates(groups, options)]


def choose(groups: Groups, options: Options, scores: Scores) -> list[Choice]:
    """Chooses what goes by importances that are known, and a ratio.

    Raises:
        UsageError: a glob matches nothing.
    """
    from onnxprune.select.rankings import counts_by_ratio

    choices = ranked(groups, options, scores)
    counts = counts_by_ratio(groups, choices, options, scores.curves)
    return take(groups, choices, [rounded(c.group, n, options) for c, n in zip(choices, counts, strict=True)])


def take(groups: Groups, choices: Sequence[Choice], counts: Sequence[int]) -> list[Choice]:
    """The same groups with so many of their units gone, the least important ones; no tensor is left empty."""
    taken = [
        Choice(c.group, [sorted(np.argsort(s, kind="stable")[:count].tolist()) for s in c.scores], c.scores)
        for c, count in zip(choices, counts, strict=True)
    ]
    _hold_floors(groups, taken)
    return taken


def _hold_floors(groups: Groups, choices: Sequence[Choice]) -> None:
    """Puts the most important unit back wherever a tensor would be empty: one part of a Split may lose all it has."""
    gone = np.zeros(groups.classes.count, np.bool_)
    for choice in choices:
        gone[choice.classes] = True
    for floor in groups.floors:
        while gone[floor].all():
            best = max(
                (
                    (choice.scores[b][k], n, b, k)
                    for n, choice in enumerate(choices)
                    for b, rows in enumerate(choice.removed)
                    for k in rows
                    if np.isin(choice.group.buckets[b][k], floor).any()
                ),
                default=None,
            )
            if best is None:
                break
            choice = choices[best[1]]
            for b, rows in enumerate(choice.removed):
                back = best[3] if b == best[2] else rows[int(np.argmax(choice.scores[b][rows]))]
                rows.remove(back)
                gone[choice.group.buckets[b][back]] = False


def ratio_of(group: Group, options: Options) -> float:
    """Share of its units that goes."""
    ratio = options.ratio
    for pattern, value in options.ratios.items():
        if matches(group, pattern):
            ratio = value
    return ratio


def floor_of(group: Group, options: Options) -> int:
    """Units that stay at least."""
    floor = options.min_channels
    for pattern, value in options.floors.items():
        if matches(group, pattern):
            floor = value
    return min(floor, group.units)


def step_of(group: Group, options: Options) -> int:
    """Units of which the kept width has to be a multiple, so that channels are one of `round_to`, and the width pays."""
    channels = _vector_of(group) if options.round_to is None else options.round_to
    return math.lcm(channels // math.gcd(channels, group.width), options.steps.get(group.id, 1))


def _vector_of(group: Group) -> int:
    """Channels that a narrow kernel computes together, as far as a group can be cut in such steps."""
    return next((n for n in (8, 4, 2) if group.units * group.width >= 8 * n), 1)


def rounded(group: Group, count: int, options: Options) -> int:
    """Fewer units go, so that the kept width is a multiple; floors hold.

    Less than a step may stay where nobody asked for one, nor was it measured that less does not pay.
    """
    if not count:
        return 0
    keep = max(group.units - count, floor_of(group, options), 1)
    step = step_of(group, options)
    below = [] if group.id in options.steps else [n for n in below_step(group, options) if n >= keep]
    keep = below[0] if below else min(-(-keep // step) * step, group.units)
    return group.units - keep


def below_step(group: Group, options: Options) -> list[int]:
    """Widths of less than a step, ascending: halves of it, and the least allowed; none where multiples were asked for."""
    step, floor = min(step_of(group, options), group.units), max(floor_of(group, options), 1)
    if options.round_to is not None and options.round_to > 1:
        return []
    halves = [step >> k for k in range(1, step.bit_length())]
    return sorted({n for n in (floor, *halves) if floor <= n < step})
