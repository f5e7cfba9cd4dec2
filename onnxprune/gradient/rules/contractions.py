"""MatMul, Gemm, Einsum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from onnxprune.gradient.registry import Array, Gradients, Step, derivative


@derivative("MatMul")
def matmul(step: Step) -> Gradients:
    """(..., M, K) @ (..., K, N); vectors are matrices of one row or column."""
    return _product(step, step.need(0), step.need(1), step.grad)


def _product(step: Step, a: Array, b: Array, dy: Array) -> dict[int, Array]:
    if a.ndim == 1:
        dy = dy[..., None, :] if b.ndim > 1 else dy.reshape(1, 1)
    if b.ndim == 1:
        dy = dy[..., None] if a.ndim > 1 else dy
    left = a[None] if a.ndim == 1 else a
    right = b[:, None] if b.ndim == 1 else b
    result = {}
    if 0 in step.wanted:
        da = dy @ np.swapaxes(right, -1, -2)
        result[0] = da.sum(axis=tuple(range(da.ndim - 1))) if a.ndim == 1 else da
    if 1 in step.wanted:
        if b.ndim == 2 and dy.ndim > 2:  # a weight: one product instead of one for each sample
            result[1] = left.reshape(-1, left.shape[-1]).T @ dy.reshape(-1, dy.shape[-1])
        else:
            db = np.swapaxes(left, -1, -2) @ dy
            result[1] = db[..., 0] if b.ndim == 1 else db
            result[1] = result[1].sum(axis=tuple(range(result[1].ndim - 1))) if b.ndim == 1 else result[1]
    return result


@derivative("FusedMatMul", domain="com.microsoft", when=lambda n, a: not a.get("transBatchA") and not a.get("transBatchB"))
def fused_matmul(step: Step) -> Gradients:
    """MatMul of transposed matrices, times alpha."""
    turned = [bool(step.attrs.get(name, 0)) and step.need(k).ndim > 1 for k, name in enumerate(("transA", "transB"))]
    a, b = (np.swapaxes(step.need(k), -1, -2) if t else step.need(k) for k, t in enumerate(turned))
    found = _product(step, a, b, step.grad * step.grad.dtype.type(step.attrs.get("alpha", 1.0)))
    return {k: np.swapaxes(g, -1, -2) if turned[k] else g for k, g in found.items()}


@derivative("Gemm")
def gemm(step: Step) -> Gradients:
    """The sum alpha * A' @ B' + beta * C."""
    a, b, dy = step.need(0), step.need(1), step.grad
    alpha, beta = (dy.dtype.type(step.attrs.get(name, 1.0)) for name in ("alpha", "beta"))
    left = a.T if step.attrs.get("transA", 0) else a
    right = b.T if step.attrs.get("transB", 0) else b
    result = {}
    if 0 in step.wanted:
        da = alpha * (dy @ right.T)
        result[0] = da.T if step.attrs.get("transA", 0) else da
    if 1 in step.wanted:
        db = alpha * (left.T @ dy)
        result[1] = db.T if step.attrs.get("transB", 0) else db
    if 2 in step.wanted:
        result[2] = beta * dy
    return result


def _plain(node: onnx.NodeProto, attrs: Mapping[str, Any]) -> bool:
    """No ellipsis, and no letter twice in one operand."""
    equation = str(attrs["equation"])
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    return "..." not in equation and all(len(set(t)) == len(t) for t in terms)


@derivative("Einsum", when=_plain)
def einsum(step: Step) -> Gradients:
    """The gradient of an operand is the product of the others with dy; letters of its own are sums, so it is repeated."""
    left, arrow, output = str(step.attrs["equation"]).replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow:
        output = "".join(sorted(c for c in set(left) - {","} if left.count(c) == 1))
    result = {}
    for k in step.wanted:
        others = [(t, step.need(i)) for i, t in enumerate(terms) if i != k] + [(output, step.grad)]
        known = set("".join(t for t, _ in others))
        own = "".join(c for c in terms[k] if c in known)
        found = np.einsum(",".join(t for t, _ in others) + "->" + own, *(a for _, a in others), optimize=True)
        missing = tuple(i for i, c in enumerate(terms[k]) if c not in known)
        result[k] = np.broadcast_to(np.expand_dims(found, missing), step.need(k).shape)
    return result
