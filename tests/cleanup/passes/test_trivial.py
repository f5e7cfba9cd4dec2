"""Reductions over axes of length 1, and those that still compute something."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cleanup.passes.checks import becomes, stays
from tests.models_text import make

PASSES = ("nothing", "reduce-ones", "moves")


def axes(*given: int) -> np.ndarray:
    return np.array(given, np.int64)


@pytest.mark.parametrize("op", ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd"])
@pytest.mark.parametrize("keep", [0, 1])
def test_a_reduction_of_one_number_is_that_number(op, keep):
    rank = "a,b,c,d" if keep else "a,b"
    model = make(
        f"(float[2,5,1,1] x) => (float[{rank}] y) {{ r = Relu(x) m = {op}<keepdims={keep}>(r, k) y = Relu(m) }}",
        {"k": axes(-1, -2)},
        opset=18,
    )
    becomes(model, PASSES, {"Relu": 2} if keep else {"Relu": 2, "Squeeze": 1})


@pytest.mark.parametrize(
    "opset, step",
    [(11, "ReduceMean<axes=[2,3], keepdims=0>(r)"), (17, "ReduceMean<axes=[2,3], keepdims=0>(r)"), (11, "GlobalMaxPool(r)")],
)
def test_with_the_move_behind_it_one_reshape_is_left(opset, step):
    model = make(
        f"(float[2,5,1,1] x) => (float[a,b] y) {{ r = Relu(x) m = {step} g = Reshape(m, t) y = Relu(g) }}",
        {"t": axes(5, 2)},
        opset=opset,
    )
    becomes(model, PASSES, {"Relu": 2, "Reshape": 1})


@pytest.mark.parametrize("opset", [12, 17])
def test_all_axes_are_reduced_where_none_are_named(opset):
    becomes(
        make("(float[1,1] x) => (float y) { r = Exp(x) m = ReduceMean<keepdims=0>(r) y = Exp(m) }", {}, opset=opset),
        PASSES,
        {"Exp": 2, "Squeeze": 1},
    )


def test_no_axes_may_mean_none():
    body = "(float[2,3] x) => (float[a,b] y) { r = Exp(x) m = ReduceSum<noop_with_empty_axes=1, keepdims=0>(r) y = Exp(m) }"
    becomes(make(body, {}), PASSES, {"Exp": 2})


@pytest.mark.parametrize("pool", ["GlobalAveragePool", "GlobalMaxPool"])
def test_a_global_pool_of_one_position(pool):
    becomes(
        make(f"(float[2,5,1,1] x) => (float[a,b,c,d] y) {{ r = Exp(x) m = {pool}(r) y = Exp(m) }}", {}), PASSES, {"Exp": 2}
    )


@pytest.mark.parametrize(
    "signature, step",
    [
        ("(float[2,5,1,4] x) => (float[a,b,c,d] y)", "ReduceMean(r, k)"),
        ("(float[2,5,1,4] x) => (float[a,b,c,d] y)", "GlobalAveragePool(r)"),
        ("(float[2,5,1,n] x) => (float[a,b,c,d] y)", "ReduceMean(r, k)"),
        ("(float[2,5,1,1] x) => (float[a,b,c,d] y)", "ReduceMean(r)"),
        ("(float[2,5,1,1] x) => (float[a,b,c,d] y)", "ReduceL2(r, k)"),
        ("(float[2,5,1,1] x) => (float[a,b,c,d] y)", "ReduceSumSquare(r, k)"),
        ("(float[2,5,1,4] x) => (float[a,b] y)", "ReduceMax<keepdims=0>(r, k)"),
    ],
)
def test_what_still_computes_something_stays(signature, step):
    model = make(f"{signature} {{ r = Sin(x) m = {step} y = Sin(m) }}", {"k": axes(2, 3)}, opset=18)
    stays(model, PASSES)
