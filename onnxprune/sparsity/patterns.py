"""Which zeros a weight may have."""

from __future__ import annotations

import re
from dataclasses import dataclass

from onnxprune.errors import UsageError


@dataclass(frozen=True)
class Pattern:
    """Zeros of a weight `(K, M)`, column by column.

    Attributes:
        text: as it was asked for.
        zeros: share of the weight that is 0.
        of: zeros are shared out evenly over runs of so many inputs in each column; 0 where they may lie anywhere.
    """

    text: str
    zeros: float
    of: int = 0

    def count(self, length: int) -> int:
        """Zeros of a run of inputs; the last one may be shorter."""
        return int(length * self.zeros + 1e-9)


def parse_pattern(text: str) -> Pattern:
    """A pattern such as `2:4` (of 4 inputs in a row, 2 stay) or `50%` (zeros anywhere).

    Source: Zhou et al. 2021, "Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch", for N:M.

    Raises:
        UsageError: the text is none.
    """
    runs = re.fullmatch(r"(\d+):(\d+)", text.strip())
    if runs and 0 < int(runs[1]) < int(runs[2]) <= 64:
        return Pattern(text.strip(), 1 - int(runs[1]) / int(runs[2]), int(runs[2]))
    share = re.fullmatch(r"(\d*\.?\d+)%", text.strip())
    if share and 0 < float(share[1]) < 100:
        return Pattern(text.strip(), float(share[1]) / 100)
    raise UsageError(f"sparsity {text!r} is none of the form 2:4 (of 4 in a row 2 stay, 64 at most) or 50% (zeros anywhere)")
