"""The proof that a model without branches is its source with zeros in the weights of their ends.

With zero weights a branch gives k, which must be the same for all inputs and at all positions. The source with zero weights,
to which c - k is added behind each branch, and the model with c as a constant must compute the same. So a wrong constant is
found, and so is a node that went although something else needed it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnxprune.depth.branches import Branch
from onnxprune.depth.surgery import drop_stored
from onnxprune.groups.group import Groups
from onnxprune.prepare.prepare import Prepared
from onnxprune.proof.branches import other_branches
from onnxprune.proof.decisions import with_outputs
from onnxprune.proof.inputs import random_inputs
from onnxprune.proof.oracle import SourceError, Verification, compare
from onnxprune.proof.session import run
from onnxprune.shapes.dims import assignments
from onnxprune.statistics.flow import Flow, lift
from onnxprune.statistics.linear import find_linear

Array = NDArray[Any]
_SIZES = 2  # at how many input sizes a model with symbolic dimensions is compared


def prove_removal(
    prepared: Prepared,
    groups: Groups,
    branches: Sequence[Branch],
    constants: Mapping[str, Array],
    result: onnx.ModelProto,
    *,
    seed: int = 0,
    tolerance: float = 1e-4,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Verification | str:
    """Compares a model without branches with its source; a reason where the source can't be run.

    Args:
        prepared: the source.
        groups: its analysis.
        branches: that are gone.
        constants: what stands for their summands; those of branches within branches are not looked at.
        result: see `onnxprune.depth.surgery.without`.
        seed: of the random inputs.
        tolerance: largest relative error that passes.
        shapes: of inputs that the user fixed.
    """
    left = {t.name for t in result.graph.initializer}
    seen = [b for b in branches if b.tensor in left]
    zeroed = _with_zeros(prepared.model, groups, seen)
    results: list[Verification] = []
    used: list[Mapping[str, tuple[int, ...]]] = []
    reason = ""
    for sizes in (prepared.shapes, *assignments(prepared.model, shapes)):
        if sizes in used:
            continue
        try:
            for feeds in _inputs(prepared, groups, sizes, seed):
                expected = _shifted(zeroed, seen, constants, feeds, tolerance)
                results.append(compare(expected, result, prepared.graph, feeds, tolerance))
        except SourceError as error:
            reason = reason or f"ONNX Runtime can't run the source: {error}"
            continue
        except RuntimeError as error:
            results.append(Verification(False, float("inf"), tolerance, message=str(error)))
        used.append(sizes)
        if len(used) == _SIZES or not all(r.passed for r in results):
            break
    return max(results, key=lambda r: (not r.passed, r.error)) if results else reason


def worse(blocks: Verification | str | None, rest: Verification | None) -> Verification | None:
    """The worse of two proofs, of blocks that went and of what went besides; None where one of them is missing."""
    if rest is None or not isinstance(blocks, Verification):
        return None
    return max(blocks, rest, key=lambda v: (not v.passed, v.error))


def _inputs(
    prepared: Prepared, groups: Groups, sizes: Mapping[str, tuple[int, ...]], seed: int
) -> Iterator[dict[str, Array]]:
    """Random inputs, and those that take the other branches of an If."""
    feeds = random_inputs(prepared.graph, dict(sizes), groups.trace.values, seed)
    yield feeds
    yield from other_branches(prepared.graph, feeds, groups.trace.values)


def _with_zeros(model: onnx.ModelProto, groups: Groups, branches: Sequence[Branch]) -> onnx.ModelProto:
    """The model with zeros as weights of the ends of branches; other readers of a weight keep it."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    nodes = {n.output[0]: n for n in result.graph.node if n.output}
    wanted = {end for b in branches for end in b.ends}
    replaced: set[str] = set()
    for linear in find_linear(Flow(lift(model)), groups.trace.shape_of):
        if linear.y not in wanted:
            continue
        node = nodes[linear.y]
        position = next(i for i, name in enumerate(node.input) if name != linear.x)
        value = groups.trace.values[node.input[position]]
        zeros = np.zeros(value.sizes, helper.tensor_dtype_to_np_dtype(value.dtype))
        name = f"{linear.y}_onnxprune_zeros"
        result.graph.initializer.append(numpy_helper.from_array(zeros, name))
        replaced.add(node.input[position])
        node.input[position] = name
    read = Flow(result).readers
    drop_stored(result.graph, {n for n in replaced if n not in read})
    return result


def _shifted(
    zeroed: onnx.ModelProto,
    branches: Sequence[Branch],
    constants: Mapping[str, Array],
    feeds: Mapping[str, Array],
    tolerance: float,
) -> onnx.ModelProto:
    """The same, with what is missing to the constants added behind each branch."""
    tensors = [b.tensor for b in branches]
    try:
        given = run(with_outputs(zeroed, tensors), feeds, tensors)
    except RuntimeError as error:
        raise SourceError(str(error)) from error
    result = onnx.ModelProto()
    result.CopyFrom(zeroed)
    shifts = {}
    for branch, array in zip(branches, given, strict=True):
        index = tuple(slice(None) if a in branch.axes else slice(0, 1) for a in range(array.ndim))
        own, constant = array[index], constants[branch.tensor]
        scale = max(float(np.abs(array).max(initial=0.0)), float(np.abs(constant).max(initial=0.0)), 1e-30)
        if not np.abs(array.astype(np.float64) - own).max(initial=0.0) <= tolerance * scale:
            raise RuntimeError(f"with zeros in the weights of {branch.ends[0]!r}, {branch.tensor!r} is not constant")
        shifts[branch.tensor] = constant - own
    nodes = []
    for node in result.graph.node:
        node.input[:] = [f"{n}_onnxprune_shifted" if n in shifts else n for n in node.input]
        nodes.append(node)
        for name in (n for n in node.output if n in shifts):
            result.graph.initializer.append(
                numpy_helper.from_array(np.ascontiguousarray(shifts[name]), f"{name}_onnxprune_shift")
            )
            nodes.append(helper.make_node("Add", [name, f"{name}_onnxprune_shift"], [f"{name}_onnxprune_shifted"]))
    held = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del result.graph.node[:]
    result.graph.node.extend(held)
    return result
