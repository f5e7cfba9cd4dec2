"""The samples that are farthest apart, as an npz file.

It holds the inputs and the outputs of the first model under their names, so that it is data for `onnxprune compare --data`
and, with the outputs as targets, for `--eval --metric mse`. Beside them lie the outputs of the second model as
`second:NAME`, `sample`, the positions in the data, and `error`, the largest difference over the largest magnitude of the
sample's output.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.calibrate.batch import Samples
from onnxprune.comparison.outputs import Differences, farthest
from onnxprune.comparison.pair import Pair

_NUMBERS = (np.ndarray, np.generic)


def write_worst(pair: Pair, samples: Samples, differences: Mapping[str, Differences], path: Path, count: int) -> list[str]:
    """Writes the worst samples; those of another shape than the worst one are left out.

    Args:
        pair: both models, which run once more.
        samples: that were compared.
        differences: of the outputs.
        path: npz.
        count: the most samples.

    Returns:
        What to tell about it.
    """
    from onnxprune.io.save import save_bytes

    errors = farthest(differences)
    chosen = sorted(errors, key=lambda k: (-errors[k], k))[:count]
    rows: dict[int, dict[str, Any]] = {}
    for k, batch, ours, theirs in pair.outputs(samples, lambda k, batch: bool({*pair.places(k, batch)} & {*chosen})):
        own = pair.sample(k, batch)
        for row, place in enumerate(pair.places(k, batch)):
            if place in chosen:
                held = {**batch.feeds, **ours, **{f"second:{n}": a for n, a in theirs.items()}}
                rows[place] = _row(held, row, own.count) if pair.batched else held
    kept = [k for k in chosen if k in rows and _shapes(rows[k]) == _shapes(rows[chosen[0]])]
    names = [n for n in (rows[kept[0]] if kept else ()) if all(isinstance(rows[k].get(n), _NUMBERS) for k in kept)]
    arrays = {n: _stacked([rows[k][n] for k in kept], batched=pair.batched) for n in names}
    out = io.BytesIO()
    np.savez(out, sample=np.array(kept), error=np.array([errors[k] for k in kept]), **arrays)
    save_bytes(out.getvalue(), path)
    left = len(chosen) - len(kept)
    return [f"{left} of the worst samples have another shape and are not in {path}"] if left else []


def _row(held: Mapping[str, Any], row: int, count: int) -> dict[str, Any]:
    """What belongs to one sample; arrays without a row for each are left out."""
    return {n: np.array(a[row]) for n, a in held.items() if isinstance(a, np.ndarray) and a.ndim and len(a) >= count}


def _shapes(held: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {n: np.shape(a) for n, a in held.items()}


def _stacked(arrays: list[Any], *, batched: bool) -> Any:
    """One array; runs of models without a batch axis are stacked on a new one, unless there is just one."""
    return arrays[0] if not batched and len(arrays) == 1 else np.stack(arrays)
