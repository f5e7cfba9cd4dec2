"""A model as it is traced.

Four things are changed first, none of which changes what the model computes: model-local functions are inlined; initial
states of recurrent layers that are zeros are dropped, which is the same; constant
vectors that several nodes share (the ones and zeros of decomposed normalizations) are given to each of them; and subgraphs
that compute a weight from weights (weight standardization, a BatchNorm on a kernel) are replaced by their result where an
operator in them would keep the weight from being sliced. Moves of weights (Transpose, Reshape, Cast) stay: labels follow
them. A weight that is made from almost nothing (ConstantOfShape) stays too: no file grows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import TensorProto, helper, inliner

from onnxprune.errors import ModelError
from onnxprune.io.constants import constant_array
from onnxprune.io.export import export_model
from onnxprune.io.surgeon import import_graph
from onnxprune.shapes.dims import assignments
from onnxprune.shapes.infer import Inferred, Scope, constant_of, element_type, infer, mark_varying

_FOLLOWED = {
    "Identity", "Cast", "CastLike", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Concat",
    "Gather", "Expand", "Tile", "ConstantOfShape", "Shape", "Constant", "Mul", "Add", "Sub", "DequantizeLinear",
}  # fmt: skip
_REARRANGES = {"Identity", "Cast", "Slice", "Expand", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Tile"}
_FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16}


@dataclass
class Prepared:
    """A model ready to be traced.

    Attributes:
        model: the prepared model; the source where nothing had to change.
        graph: its graph.
        shapes: concrete input shapes.
        inferred: shapes and static values at these shapes.
        clones: name -> original of constants that were given to each reader for itself.
    """

    model: onnx.ModelProto
    graph: gs.Graph
    shapes: dict[str, tuple[int, ...]]
    inferred: Inferred
    clones: dict[str, str]


def prepare(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]] | None = None) -> Prepared:
    """Inlines, infers and folds. The model is not changed.

    Args:
        model: any model that `onnxprune.io.load.load_model` accepts.
        shapes: input shapes that the user fixed.

    Raises:
        ModelError: a given shape names no input or contradicts it.
    """
    if shapes:
        check_shapes(model, shapes)
    if model.functions:
        model = inliner.inline_local_functions(model)
    graph = import_graph(model)
    chosen, inferred = best_sizes(graph, assignments(model, shapes))
    folded = _drop_zero_states(_fold(model, graph, inferred) or model)
    unshared, clones = _unshare(folded)
    if unshared is not model:
        graph = import_graph(unshared)
        inferred = infer(graph, chosen)
    for candidate in assignments(unshared, shapes):
        if candidate != chosen and not (other := infer(graph, candidate)).errors:
            mark_varying(inferred, other)
            break
    return Prepared(unshared, graph, chosen, inferred, clones)


def _drop_zero_states(model: onnx.ModelProto) -> onnx.ModelProto:
    """Recurrent layers without initial states that are zeros, which is the default.

    One tensor of zeros for all layers would tie their hidden units.
    """
    graph = import_graph(model)
    dropped = False
    for node in graph.nodes:
        if node.op not in ("LSTM", "GRU", "RNN") or node.domain:
            continue
        for i in range(5, min(len(node.inputs), 7)):
            if node.inputs[i].name and _zeros(node.inputs[i]):
                node.inputs[i] = gs.Variable.empty()
                dropped = True
    if not dropped:
        return model
    _drop_dead(graph)
    return export_model(graph, model)


def _zeros(t: gs.Tensor) -> bool:
    """A tensor that holds zeros whatever its shape is."""
    if isinstance(t, gs.Constant):
        return element_type(t) in _FLOATS and not constant_array(t).any()
    node = t.inputs[0] if t.inputs else None
    if node is None:
        return False
    held = node.attrs.get("value") if node.op == "ConstantOfShape" else constant_of(node)
    if node.op == "ConstantOfShape" or held is not None:
        return held is None or not constant_array(held).any()
    if node.op == "Concat":
        return all(_zeros(x) for x in node.inputs)
    return node.op in _REARRANGES and _zeros(node.inputs[0])


def _unshare(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Gives each reader of a constant vector (all ones, all zeros) its own: it ties nothing that is tied by meaning.

    After the surgery, those that are still equal are one again.
    """
    graph = import_graph(model)
    clones: dict[str, str] = {}
    names = set(graph.tensors()) | {t.name for g in graph.subgraphs(recursive=True) for t in g.tensors().values()}
    for t in list(graph.tensors().values()):
        readers = [(n, i) for n in graph.nodes for i, x in enumerate(n.inputs) if x is t] if _splat(t) else []
        for node, i in readers[1:]:
            name = f"{t.name}_{len(clones)}_own"
            while name in names:
                name += "_"
            clones[name] = t.name
            node.inputs[i] = gs.Constant(name, np.array(constant_array(t)))
    return (export_model(graph, model), clones) if clones else (model, clones)


def _splat(t: gs.Tensor) -> bool:
    """A float vector of one repeated number that is read more than once."""
    if not isinstance(t, gs.Constant) or len(t.outputs) < 2 or element_type(t) not in _FLOATS:
        return False
    size = int(np.prod(t.shape))
    if not 2 <= size <= 65536 or sum(n > 1 for n in t.shape) != 1:
        return False
    array = constant_array(t)
    return bool((array == array.ravel()[0]).all())


def check_shapes(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> None:
    """Raises `ModelError` where a shape names no input of the model or contradicts it."""
    inputs = {i.name: i for i in model.graph.input}
    for name, shape in shapes.items():
        if name not in inputs:
            raise ModelError(f"the model has no input {name!r}; it has {', '.join(map(repr, inputs))}")
        dims = inputs[name].type.tensor_type.shape.dim
        if len(dims) != len(shape) or any(d.dim_value > 0 and d.dim_value != n for d, n in zip(dims, shape, strict=True)):
            raise ModelError(f"shape {list(shape)} does not fit input {name!r}")


def best_sizes(
    graph: gs.Graph, candidates: Iterable[dict[str, tuple[int, ...]]]
) -> tuple[dict[str, tuple[int, ...]], Inferred]:
    """The first input shapes at which the graph does not contradict itself, else those with the fewest contradictions."""
    best: tuple[dict[str, tuple[int, ...]], Inferred] | None = None
    seen: list[dict[str, tuple[int, ...]]] = []
    for candidate in candidates:
        if candidate in seen:
            continue
        seen.append(candidate)
        inferred = infer(graph, candidate)
        if best is None or len(inferred.errors) < len(best[1].errors):
            best = (candidate, inferred)
        if not inferred.errors:
            break
    assert best is not None
    return best


def _fold(model: onnx.ModelProto, graph: gs.Graph, inferred: Inferred) -> onnx.ModelProto | None:
    """The model with computed weights as initializers; None where there are none."""
    scope = inferred.scopes[id(graph)]
    producers = {t.name: n for n in graph.nodes for t in n.outputs}
    frontier = [name for name in _frontier(graph, scope) if _worth(name, producers, scope)]
    if not frontier:
        return None
    values = _compute(model, graph, frontier, producers)
    if values is None:
        return None
    graph = import_graph(model)
    tensors = graph.tensors()
    for name, array in zip(frontier, values, strict=True):
        old = tensors[name]
        constant = gs.Constant(name, np.ascontiguousarray(array))
        old.inputs.clear()
        for node in list(old.outputs):
            for i, t in enumerate(node.inputs):
                if t is old:
                    node.inputs[i] = constant
    _drop_dead(graph)
    return export_model(graph, model)


def _frontier(graph: gs.Graph, scope: Scope) -> list[str]:
    """Computed constants that something reads which is not constant."""
    outputs = {t.name for t in graph.outputs}
    captured = {t.name for g in graph.subgraphs(recursive=True) for n in g.nodes for t in n.inputs}
    result = []
    for node in graph.nodes:
        for t in node.inputs:
            value = scope.get(t.name)
            if value is None or not value.constant or value.static is not None or isinstance(t, gs.Constant):
                continue
            if value.dtype not in _FLOATS or t.name in outputs or t.name in captured or not t.inputs:
                continue
            if constant_of(t.inputs[0]) is None and not all(
                (v := scope.get(o.name)) is not None and v.constant for o in node.outputs if o.name
            ):
                result.append(t.name)
    return list(dict.fromkeys(result))


def _ancestors(name: str, producers: Mapping[str, gs.Node]) -> list[gs.Node]:
    found: dict[int, gs.Node] = {}
    queue = [name]
    while queue:
        node = producers.get(queue.pop())
        if node is not None and id(node) not in found:
            found[id(node)] = node
            queue += [t.name for t in node.inputs]
    return list(found.values())


def _worth(name: str, producers: Mapping[str, gs.Node], scope: Scope) -> bool:
    """Labels would get stuck on the way, and the result is no larger than what it is made of."""
    nodes = _ancestors(name, producers)
    if all(n.op in _FOLLOWED for n in nodes) or any(list(n.subgraphs()) for n in nodes):
        return False
    sources = {t.name: scope[t.name] for n in nodes for t in n.inputs if isinstance(t, gs.Constant)}
    sources |= {n.outputs[0].name: scope[n.outputs[0].name] for n in nodes if constant_of(n) is not None}
    made_of = sum(int(np.prod(v.sizes)) for v in sources.values())
    return int(np.prod(scope[name].sizes)) <= max(made_of, 4096)


def _compute(
    model: onnx.ModelProto, graph: gs.Graph, names: Sequence[str], producers: Mapping[str, gs.Node]
) -> list[NDArray[Any]] | None:
    """Values of computed constants, by ONNX Runtime; None where it can't."""
    from onnxprune.proof.session import run

    wanted = {id(n) for name in names for n in _ancestors(name, producers)}
    keep = [k for k, node in enumerate(graph.nodes) if id(node) in wanted]
    nodes = [model.graph.node[k] for k in keep]
    read = {i for n in nodes for i in n.input}
    part = helper.make_model(
        helper.make_graph(
            nodes,
            "weights",
            [],
            [helper.make_value_info(n, onnx.TypeProto()) for n in names],
            [t for t in model.graph.initializer if t.name in read],
        ),
        opset_imports=model.opset_import,
        ir_version=max(model.ir_version, 4),
    )
    try:
        return run(part, {}, list(names))
    except RuntimeError:
        return None


def _drop_dead(graph: gs.Graph) -> None:
    """Removes nodes that nothing reads any more."""
    while True:
        outputs = {t.name for t in graph.outputs}
        captured = {t.name for g in graph.subgraphs(recursive=True) for n in g.nodes for t in n.inputs}
        dead = [
            n for n in graph.nodes
            if not any(t.outputs or t.name in outputs or t.name in captured for t in n.outputs if t.name)
        ]  # fmt: skip
        if not dead:
            return
        ids = {id(n) for n in dead}
        graph.nodes = [n for n in graph.nodes if id(n) not in ids]
        for node in dead:
            node.inputs.clear()
            node.outputs.clear()
