"""Does `onnxprune compare` name the layer with a planted mistake?

    python benchmarks/planted.py
    python benchmarks/planted.py --models 10 --seed 0

Takes random models of the zoo, plants one mistake in a copy of each, and compares both on random samples. Kinds of mistakes:

    weight      one output channel of a weight (or, of vectors, one element) is multiplied by 1.5
    element     one element of a weight is moved by a tenth of the weight's standard deviation
    attribute   a stride, pad, dilation, axis, alpha, epsilon ... of one node is another one
    shape       a number of an integer constant (a target of Reshape, a bound of Slice, axes, an index of Gather) is another one

A mistake that changes no output by more than rounding (a dead channel, a pad that is cropped) is no mistake that outputs could
show: another one is drawn, and counted. Found means: of the tensors at which the models part, the first group has exactly
one, made by the node that reads what was changed, with the cause named and proven. Writes `benchmarks/results/planted.json`;
exit code 1 where a planted weight is not found.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, numpy_helper

HERE = Path(__file__).resolve().parent
ZOO = HERE / "zoo"
RESULT = HERE / "results" / "planted.json"
KINDS = ("weight", "element", "attribute", "shape")
TRIES = 12
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
# Attributes that a mistake leaves runnable, more often than not.
_ATTRIBUTES = {
    "strides", "pads", "dilations", "alpha", "beta", "epsilon", "axis", "perm", "ceil_mode", "count_include_pad",
    "keepdims", "approximate", "mode", "linear_before_reset", "direction", "coordinate_transformation_mode",
}  # fmt: skip
_SHAPES = {
    "Reshape": 1,
    "Slice": None,
    "Gather": 1,
    "Pad": 1,
    "ReduceMean": 1,
    "ReduceSum": 1,
    "Squeeze": 1,
    "Expand": 1,
    "Tile": 1,
    "Split": 1,
}


def readers(model: onnx.ModelProto, name: str) -> set[str]:
    """First outputs of the nodes that read a tensor, also through nodes that compute from constants alone."""
    from onnxprune.statistics.flow import Flow

    flow = Flow(model)
    found, waiting = set(), [name]
    while waiting:
        for k, _ in flow.readers.get(waiting.pop(), ()):
            if flow.varying[k]:
                found.update(flow.nodes[k].output)
            else:
                waiting += flow.nodes[k].output
    return found


def constant(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """The node computes from constants alone."""
    from onnxprune.statistics.flow import Flow

    flow = Flow(model)
    return not flow.varying[flow.producer[node.output[0]]]


def tensors(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Stored tensors of the main graph."""
    yield from ((t.name, t) for t in model.graph.initializer)
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            yield node.output[0], node.attribute[0].t


def plant(model: onnx.ModelProto, kind: str, rng: np.random.Generator) -> tuple[str, set[str]] | None:
    """Changes the model; what was changed, and the tensors that are made with it. None where there is nothing of that kind."""
    if kind in ("weight", "element"):
        return plant_weight(model, kind, rng)
    return plant_attribute(model, rng) if kind == "attribute" else plant_shape(model, rng)


def plant_weight(model: onnx.ModelProto, kind: str, rng: np.random.Generator) -> tuple[str, set[str]] | None:
    held = [(n, t) for n, t in tensors(model) if t.data_type in _FLOATS and np.prod(t.dims) >= 8 and readers(model, n)]
    if not held:
        return None
    name, tensor = held[rng.integers(len(held))]
    array = np.array(numpy_helper.to_array(tensor))
    if kind == "element":
        place = tuple(rng.integers(n) for n in array.shape)
        array[place] += np.asarray(0.1 * (array.std() or 1.0), array.dtype)
    else:
        place = (rng.integers(len(array)),)
        array[place] = array[place] * np.asarray(1.5, array.dtype)
    kept = tensor.name
    tensor.CopyFrom(numpy_helper.from_array(array, kept))
    return f"{name}{[int(k) for k in place]}", readers(model, name)


def plant_attribute(model: onnx.ModelProto, rng: np.random.Generator) -> tuple[str, set[str]] | None:
    held = [(n, a) for n in model.graph.node for a in n.attribute if a.name in _ATTRIBUTES and _changeable(a)]
    if not held:
        return None
    node, attribute = held[rng.integers(len(held))]
    before = onnx.helper.get_attribute_value(attribute)
    if attribute.type == AttributeProto.FLOAT:
        attribute.f = attribute.f * 3 + 0.05
    elif attribute.type == AttributeProto.INT:
        attribute.i = attribute.i + 1 if attribute.name == "axis" else 1 - min(attribute.i, 1)
    elif attribute.type == AttributeProto.INTS:
        if attribute.name == "perm":
            k = rng.integers(len(attribute.ints) - 1)
            attribute.ints[k], attribute.ints[k + 1] = attribute.ints[k + 1], attribute.ints[k]
        else:
            k = rng.integers(len(attribute.ints))
            attribute.ints[k] += 1
    else:
        other = {b"none": b"tanh", b"tanh": b"none", b"forward": b"reverse", b"nearest": b"linear", b"linear": b"nearest"}
        attribute.s = other.get(attribute.s, b"asymmetric")
    after = onnx.helper.get_attribute_value(attribute)
    made = {*node.output}.union(*(readers(model, name) for name in node.output)) if constant(model, node) else {*node.output}
    return f"{node.op_type} {node.name or node.output[0]!r} {attribute.name}: {before} -> {after}", made


def _changeable(attribute: AttributeProto) -> bool:
    if attribute.type == AttributeProto.INTS:
        return len(attribute.ints) > (attribute.name == "perm")
    return attribute.type in (AttributeProto.FLOAT, AttributeProto.INT, AttributeProto.STRING)


def plant_shape(model: onnx.ModelProto, rng: np.random.Generator) -> tuple[str, set[str]] | None:
    places = {n.input[i] for n in model.graph.node for i in _places(n) if i < len(n.input)}
    held = [
        (n, t) for n, t in tensors(model) if n in places and t.data_type == onnx.TensorProto.INT64 and np.prod(t.dims) > 0
    ]
    if not held:
        return None
    name, tensor = held[rng.integers(len(held))]
    array = np.array(numpy_helper.to_array(tensor))
    before = array.tolist()
    flat = array.reshape(-1)
    flat[flat > 2**62] = 2**62  # room for one more
    if flat.size > 1 and rng.random() < 0.5 and len(set(flat.tolist())) > 1:
        flat[:] = np.roll(flat, 1)
    else:
        k = rng.integers(flat.size)
        flat[k] = flat[k] + 1 if flat[k] in (0, -1) or rng.random() < 0.5 else flat[k] - 1
    kept = tensor.name
    tensor.CopyFrom(numpy_helper.from_array(array, kept))
    return f"{name}: {before} -> {array.tolist()}", readers(model, name)


def _places(node: onnx.NodeProto) -> list[int]:
    if node.op_type not in _SHAPES:
        return []
    place = _SHAPES[node.op_type]
    return [1, 2, 3, 4] if place is None else [place]


def trial(source: onnx.ModelProto, kind: str, rng: np.random.Generator) -> dict[str, Any]:
    """One mistake, and whether it was found."""
    from onnxprune.comparison.compare import compare
    from onnxprune.errors import OnnxPruneError

    unseen = 0
    for _ in range(TRIES):
        model = onnx.ModelProto()
        model.CopyFrom(source)
        planted = plant(model, kind, rng)
        if planted is None:
            return {"kind": kind, "planted": None}
        what, made = planted
        start = time.perf_counter()
        try:
            found = compare(source, model, samples=8)
        except OnnxPruneError as error:
            return {"kind": kind, "planted": what, "error": str(error), "found": False}
        if found.trail is None or found.trail.note:
            unseen += 1
            continue
        return {
            "kind": kind,
            "planted": what,
            "unseen_before": unseen,
            **judged(found, made),
            "seconds": time.perf_counter() - start,
        }
    return {"kind": kind, "planted": None, "unseen_before": unseen}


def judged(found: Any, made: set[str]) -> dict[str, Any]:
    """What a comparison says, and whether that is right."""
    trail = found.trail
    first = [d for d in trail.divergences if d.group == 0]
    right = [d for d in first if d.tensor in made]
    return {
        # every reader of a shared tensor is right; all are there unless their outputs agree
        "found": bool(first) and len(right) == len(first) and all(d.causes or d.failure for d in first),
        "proven": trail.proven or bool(found.failed),
        "at": [d.tensor for d in first],
        "causes": [c for d in first for c in d.causes][:3] or [d.failure for d in first],
        "tensors": trail.tensors,
        "runs": trail.runs,
        "second_model_fails": bool(found.failed),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="key of one model of the zoo")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ZOO))
    from hydrate import hydrate

    rng = np.random.default_rng(arguments.seed)
    keys = [row["key"] for row in json.loads((ZOO / "index.json").read_text())]
    chosen = [arguments.only] if arguments.only else sorted(rng.choice(keys, arguments.models, replace=False).tolist())
    rows = []
    for key in chosen:
        source = hydrate(str(ZOO / "topo" / f"{key}.onnx.gz"))
        for kind in KINDS:
            row = {"model": key, **trial(source, kind, rng)}
            rows.append(row)
            mark = "none" if row["planted"] is None else "found" if row["found"] else "MISSED"
            print(f"{key:44} {kind:10} {mark:7} {row['planted']}  at {row.get('at', row.get('error'))}", flush=True)
        if not arguments.only:  # a long run that is cut off leaves what it has
            document = {"models": len({r["model"] for r in rows}), "seed": arguments.seed, "summary": summed(rows)}
            RESULT.write_text(json.dumps({**document, "trials": rows}, indent=1) + "\n")
    print(json.dumps(summed(rows)))
    return 0 if all(r["found"] for r in rows if r["kind"] == "weight" and r["planted"] is not None) else 1


def summed(rows: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """How many mistakes of each kind were planted, found and proven."""
    told = {k: [r for r in rows if r["kind"] == k and r["planted"] is not None] for k in KINDS}
    return {
        k: {"planted": len(v), "found": sum(r["found"] for r in v), "proven": sum(r.get("proven", False) for r in v)}
        for k, v in told.items()
    }


if __name__ == "__main__":
    sys.exit(main())
