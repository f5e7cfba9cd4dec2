"""In which order branches go: the one that loses least for what it saves comes next.

Losses of branches do not add up (on the network of `models/resnet.onnx` three that lose 0.05 to 0.22 each lose 0.82
together), so a loss is always measured for all that are gone by then. What a branch adds to the loss mostly grows as others
go, so old measurements are bounds, and only the best of them is taken again (lazy greedy). Where a bound is wrong, the order
is a little worse, and nothing else.

Source: Minoux 1978, "Accelerated greedy algorithms for maximizing submodular set functions".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

Measure = Callable[[Collection[str]], float]
_LEAST = 1e-9


def removal_order(
    tensors: Sequence[str],
    loss: Measure,
    saved: Measure,
    together: Callable[[Collection[str]], bool] = lambda tensors: True,
) -> Iterator[tuple[str, ...]]:
    """Sets of branches, each with one more than the one before, from one branch on.

    A branch that saves nothing any more (it is part of one that went) is left out, and so is one that can't go with those.

    Args:
        tensors: of all branches.
        loss: of the outputs without some branches.
        saved: of the cost without them.
        together: whether they can go at the same time.
    """
    gone: tuple[str, ...] = ()
    prices = dict.fromkeys(tensors, 0.0)
    while prices:
        fresh: set[str] = set()
        base, cost = loss(gone), saved(gone)
        while prices:
            best = min(prices, key=lambda t: prices[t])
            if best in fresh:
                break
            more = (*gone, best)
            gain = saved(more) - cost
            if gain <= _LEAST or not together(more):
                del prices[best]
                continue
            prices[best] = max(loss(more) - base, 0.0) / gain
            fresh.add(best)
        if not prices:
            return
        del prices[best]
        gone = (*gone, best)
        yield gone
