"""Which rows of a tensor are looked at: some positions of each sample, without padding."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibrate.batch import Batch, Samples, batch_size
from onnxprune.statistics.linear import Convolution, Form

Array = NDArray[Any]

_ROWS = 16  # for each channel, where the samples have as many; positions of a sample say nearly the same
_LEAST, _MOST = 16384, 65536
_ENOUGH = 8  # for each channel, where products are large
_FIRST = 8  # positions of a sequence that are always looked at
_ELEMENTS = 1e8  # of the rows of all groups; many small groups cost more to read than to multiply
_WORK = 2.5e10  # multiply-accumulates for one Gram matrix


def positions_of_each(channels: int, samples: Samples, groups: int = 1, outputs: int = 0) -> int:
    """Positions of each sample that are looked at, for Gram matrices of this width, one for each group.

    Products with `outputs` columns count too, beyond four for each channel: those of a vocabulary cost more than all else.
    """
    work = channels * max(channels, outputs - 4 * channels)
    rows = min(max(_ROWS * channels, _LEAST), _MOST, max(_WORK / work, _ENOUGH * channels))
    rows = min(rows, max(_ELEMENTS / (channels * groups), 8 * _ENOUGH * channels))
    return max(-(-int(rows) // max(samples.count, 1)), 1)


@lru_cache(64)
def spread(total: int, limit: int) -> Array:
    """At most `limit` of `total` positions, the same for every sample: the first ones, and some of the others.

    The first ones of a sequence are not like the others: class tokens, registers, the token that attention rests on where
    it has nothing to look at. What language models hold there is hundreds of times larger, and a fit that has not seen it
    breaks it.
    """
    chosen = np.arange(total)
    if total > limit:
        first = min(_FIRST, limit // 2)
        others = first + np.random.default_rng(total).permutation(total - first)[: limit - first]
        chosen = np.concatenate([chosen[:first], np.sort(others)])
    chosen.flags.writeable = False
    return chosen


def counted_rows(batch: Batch, mask: str | None, tensor: Array, chosen: Array, form: Form) -> NDArray[np.bool_]:
    """Rows `(N, P)` of a tensor that count: of real samples, and not of padding."""
    size = batch_size(batch)
    places = form.places(tensor)
    counted = np.ones((places[0], len(chosen)), np.bool_)
    counted[batch.count * max(places[0] // size, 1) :] = False
    if mask is not None and not isinstance(form, Convolution):
        given = batch.feeds[mask]
        if given.shape == places:
            counted &= given[:, chosen] != 0
    return counted


def judging(judges: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """Which rows of a tensor judge `(count,)`: some for each sample, in order; none where they belong to no sample."""
    each, rest = divmod(count, len(judges))
    return np.repeat(judges, each) if each and not rest else np.zeros(count, np.bool_)
