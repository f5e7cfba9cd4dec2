"""Writes nodes as two: `y = x W = (x A) B`, exactly, in the principal components of what the node computes.

Let the columns of V `(M, k)` be orthonormal, and span all that the rows of W `(K, M)` span. Then W = (W V) V'. V are the
principal directions of the outputs, so the inner channels are uncorrelated and ordered by variance: without the last of
them the product is the matrix of that rank nearest to W in the metric of the inputs' second moments, a truncated SVD of
C^(1/2) W. No SVD is taken, and no moments of inputs, of which a kernel has many: those of the outputs are C^(1/2) W squared.

A kernel becomes one to k channels, and a 1x1 convolution behind it.

Source: Zhang et al. 2015, "Accelerating Very Deep Convolutional Networks for Classification and Detection", section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnxprune.lowrank.candidates import Wide
from onnxprune.statistics.flow import Flow
from onnxprune.statistics.linear import Convolution

Array = NDArray[np.float64]
_SUFFIX = "low_rank"


@dataclass(frozen=True)
class Pair:
    """Two nodes that were one.

    Attributes:
        wide: what they were.
        node: name of that node, which the second one has now.
        first: weight of the first node.
        second: weight of the second.
        inner: the tensor between them.
        axes: of `first` that counts its inputs and the inner channels, of `second` that counts the inner channels and its
            outputs.
    """

    wide: Wide
    node: str
    first: str
    second: str
    inner: str
    axes: tuple[tuple[int, int], tuple[int, int]]

    @property
    def weight(self) -> str:
        """The weight that is their product."""
        return self.wide.linear.weight


def directions(weight: Array, moments: Array | None = None) -> Array:
    """Orthonormal directions that span the rows of a weight, those of most output variance first.

    Args:
        weight: `(K, M)`.
        moments: second moments of its outputs `(M, M)`; of inputs that are alike and uncorrelated where not given.

    Returns: `(M, min(K, M))`.
    """
    k, m = weight.shape
    seen = weight.T @ weight if moments is None else moments
    if k >= m:
        return np.asarray(np.linalg.eigh(seen)[1][:, ::-1])
    rows, _ = np.linalg.qr(weight.T)
    return np.asarray(rows @ np.linalg.eigh(rows.T @ seen @ rows)[1][:, ::-1])


def factorize(
    model: onnx.ModelProto, wides: Sequence[Wide], bases: Mapping[str, Array]
) -> tuple[onnx.ModelProto, list[Pair]]:
    """The model with some nodes written as two; it computes the same, and is not changed.

    Args:
        model: the model.
        wides: nodes of it, see `onnxprune.lowrank.candidates.find_wide`.
        bases: by output of the node the directions `(M, k)`, see `directions`.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    flow = Flow(model)
    taken = set(flow.producer) | set(flow.initializers) | set(flow.inputs) | {n.name for n in flow.nodes}
    of_output = {wide.linear.y: wide for wide in wides}
    nodes: list[onnx.NodeProto] = []
    pairs: list[Pair] = []
    made: list[onnx.TensorProto] = []
    for node in model.graph.node:
        wide = of_output.get(node.output[0]) if node.output else None
        if wide is None:
            nodes.append(node)
            continue
        pair, two, weights = _split(node, wide, bases[wide.linear.y], flow, taken)
        pairs.append(pair)
        nodes += two
        made += weights
    gone = {name for wide in wides for name in wide.path}
    held = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes if not gone & set(n.output)]
    del result.graph.node[:]
    result.graph.node.extend(held)
    _replace(result.graph.initializer, [t for t in model.graph.initializer if t.name not in gone] + made)
    _replace(result.graph.value_info, [v for v in model.graph.value_info if v.name not in gone])
    _replace(result.graph.input, [i for i in model.graph.input if i.name not in gone])
    return result, pairs


def _split(
    node: onnx.NodeProto, wide: Wide, basis: Array, flow: Flow, taken: set[str]
) -> tuple[Pair, list[onnx.NodeProto], list[onnx.TensorProto]]:
    linear = wide.linear
    stored = flow.constant(linear.weight)
    assert stored is not None
    first, second = linear.matrix(stored)[0] @ basis, basis.T
    name = node.name or linear.y
    inner = _fresh(f"{linear.y}_{_SUFFIX}", taken)
    names = [_fresh(f"{linear.weight}_{_SUFFIX}_{end}", taken) for end in ("in", "out")]
    attributes = {a.name: a for a in node.attribute}
    if isinstance(linear.form, Convolution):
        shape = basis.shape[1], *linear.reading.sizes[1:]
        arrays = linear.form.weight(first[None], shape), second.T.reshape(*second.T.shape, *[1] * len(linear.form.kernel))
        axes = ((1, 0), (1, 0))
        kept = ["", *attributes], [""]
    else:
        arrays, axes, kept = (first, second), ((0, 1), (0, 1)), ([""], ["", "beta"])
    two = [
        helper.make_node(node.op_type, [linear.x, names[0]], [inner], _fresh(f"{name}_{_SUFFIX}", taken)),
        helper.make_node(node.op_type, [inner, names[1], *node.input[2:]], list(node.output), node.name),
    ]
    for new, wanted in zip(two, kept, strict=True):
        new.domain = node.domain
        new.attribute.extend(a for n, a in attributes.items() if n in wanted)
    made = [
        numpy_helper.from_array(np.ascontiguousarray(a.astype(stored.dtype)), n) for a, n in zip(arrays, names, strict=True)
    ]
    return Pair(wide, name, names[0], names[1], inner, axes), two, made


def _fresh(name: str, taken: set[str]) -> str:
    result, count = name, 0
    while result in taken:
        count += 1
        result = f"{name}_{count}"
    taken.add(result)
    return result


def _replace(target: Any, items: Iterable[Any]) -> None:
    held = [type(x).FromString(x.SerializeToString()) for x in items]
    del target[:]
    target.extend(held)
