"""Seconds of inference, tracing and grouping against the number of nodes.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --sizes 100 1000 --repeat 3

Two families of graphs: chains of residual blocks of convolutions, and stacks of transformer layers with grouped queries,
rotary embedding and shape arithmetic. Writes `benchmarks/results/scaling.json`; a size is repeated and the fastest run
counts, since all that disturbs a run makes it slower. Exit code 1 where a thousand nodes take more than one second or where
time grows faster than nodes to the power of 1.2.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).resolve().parent
SIZES = (100, 300, 1000, 3000, 10000)
LIMIT = 1.0  # seconds per 1,000 nodes
EXPONENT = 1.2
STAGES = ("infer", "trace", "build")


class Graph:
    """Nodes and initializers under construction."""

    def __init__(self, width: int, shape: list[int | str]) -> None:
        self.width = width
        self.shape = shape
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(self.rng.standard_normal(shape).astype(np.float32), name))
        return name

    def constant(self, *values: int) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def op(self, op: str, *inputs: str, outputs: int = 1, **attrs: Any) -> Any:
        names = [f"t{len(self.nodes)}_{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=f"n{len(self.nodes)}", **attrs))
        return names[0] if outputs == 1 else names

    def model(self, last: str) -> onnx.ModelProto:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)
        y = helper.make_tensor_value_info(last, TensorProto.FLOAT, None)
        return helper.make_model(
            helper.make_graph(self.nodes, "scaling", [x], [y], self.weights),
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=8,
        )


def convolutions(nodes: int) -> onnx.ModelProto:
    """Residual blocks, a new stage of the residual stream every 30 of them."""
    g = Graph(32, [1, 3, 16, 16])

    def conv_bn(x: str, c_in: int, c_out: int, kernel: int = 3, group: int = 1) -> str:
        pad = kernel // 2
        y = g.op("Conv", x, g.weight(c_out, c_in // group, kernel, kernel), pads=[pad] * 4, group=group)
        return str(g.op("BatchNormalization", y, *(g.weight(c_out) for _ in range(4))))

    x = g.op("Relu", conv_bn("x", 3, g.width))
    blocks = 0
    while len(g.nodes) < nodes - 2:
        if blocks % 30 == 29:
            x = g.op("Relu", conv_bn(x, g.width, g.width))
        y = g.op("Relu", conv_bn(x, g.width, g.width, 1))
        y = g.op("Relu", conv_bn(y, g.width, g.width, 3, group=(1, 4, g.width)[blocks % 3]))
        x = g.op("Relu", g.op("Add", x, conv_bn(y, g.width, g.width, 1)))
        blocks += 1
    return g.model(g.op("Conv", x, g.weight(8, g.width, 1, 1)))


def transformer(nodes: int) -> onnx.ModelProto:
    """Layers with RMSNorm, rotary embedding, grouped queries and a gated feed-forward part."""
    heads, kv, d = 8, 2, 8
    g = Graph(heads * d, ["batch", "sequence", heads * d])
    length = 16
    table = g.weight(1, 1, length, d)
    table2 = g.weight(1, 1, length, d)

    def norm(x: str) -> str:
        mean = g.op("ReduceMean", g.op("Mul", x, x), axes=[-1])
        root = g.op("Sqrt", g.op("Add", mean, epsilon))
        return str(g.op("Mul", g.op("Div", x, root), g.weight(g.width)))

    def split(x: str, count: int) -> str:
        shape = g.op("Shape", x)
        batch = g.op("Slice", shape, zero, one)
        sequence = g.op("Slice", shape, one, two)
        target = g.op("Concat", batch, sequence, g.constant(count), g.constant(d), axis=0)
        return str(g.op("Transpose", g.op("Reshape", x, target), perm=[0, 2, 1, 3]))

    def rotate(x: str) -> str:
        a, b = g.op("Split", x, outputs=2, axis=3)
        turned = g.op("Concat", g.op("Neg", b), a, axis=3)
        return str(g.op("Add", g.op("Mul", x, cos), g.op("Mul", turned, sin)))

    def repeat(x: str) -> str:
        y = g.op("Expand", g.op("Unsqueeze", x, two), g.constant(1, 1, heads // kv, 1, 1))
        return str(g.op("Reshape", y, g.constant(0, heads, -1, d)))

    zero, one, two = (g.constant(n) for n in (0, 1, 2))
    epsilon = "epsilon"
    g.weights.append(numpy_helper.from_array(np.float32(1e-5), epsilon))
    steps = g.op("Slice", g.op("Shape", "x"), one, two)
    cos, sin = (g.op("Slice", t, zero, steps, two) for t in (table, table2))
    x = g.op("MatMul", "x", g.weight(g.width, g.width))
    while len(g.nodes) < nodes - 2:
        h = norm(x)
        q = rotate(split(g.op("MatMul", h, g.weight(g.width, heads * d)), heads))
        k = repeat(rotate(split(g.op("MatMul", h, g.weight(g.width, kv * d)), kv)))
        v = repeat(split(g.op("MatMul", h, g.weight(g.width, kv * d)), kv))
        p = g.op("Softmax", g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2])))
        y = g.op("Reshape", g.op("Transpose", g.op("MatMul", p, v), perm=[0, 2, 1, 3]), g.constant(0, 0, heads * d))
        x = g.op("Add", x, g.op("MatMul", y, g.weight(heads * d, g.width)))
        h = norm(x)
        gate = g.op("MatMul", h, g.weight(g.width, 128))
        up = g.op("Mul", g.op("Mul", gate, g.op("Sigmoid", gate)), g.op("MatMul", h, g.weight(g.width, 128)))
        x = g.op("Add", x, g.op("MatMul", up, g.weight(128, g.width)))
    return g.model(g.op("MatMul", x, g.weight(g.width, 8)))


def measure(model: onnx.ModelProto) -> dict[str, float]:
    """Seconds of each stage, units found, and nodes."""
    from onnxprune.groups.build import build
    from onnxprune.io.surgeon import import_graph
    from onnxprune.shapes.dims import assignments
    from onnxprune.shapes.infer import infer
    from onnxprune.trace.tracer import trace

    graph = import_graph(model)
    shapes = next(iter(assignments(model)))
    clock = [time.perf_counter()]
    inferred = infer(graph, shapes)
    clock.append(time.perf_counter())
    traced = trace(graph, shapes, inferred)
    clock.append(time.perf_counter())
    groups = build(traced)
    clock.append(time.perf_counter())
    assert not inferred.errors and not traced.failures, inferred.errors or traced.failures
    seconds = {stage: clock[k + 1] - clock[k] for k, stage in enumerate(STAGES)}
    return {
        "nodes": len(graph.nodes),
        "groups": len(groups.groups),
        "units": sum(x.units for x in groups.groups),
        **{k: round(v, 4) for k, v in seconds.items()},
        "seconds": round(sum(seconds.values()), 4),
    }


def exponent(rows: list[dict[str, float]]) -> float:
    """Slope of log seconds over log nodes, least squares, from 1,000 nodes on where there are two such sizes."""
    chosen = [r for r in rows if r["nodes"] >= 900]
    chosen = chosen if len(chosen) > 1 else rows
    if len(chosen) < 2:
        return math.nan
    x, y = (np.log([r[key] for r in chosen]) for key in ("nodes", "seconds"))
    return float(np.polyfit(x, y, 1)[0])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="numbers of nodes")
    parser.add_argument("--repeat", type=int, default=2, help="runs of each size; the fastest counts")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "scaling.json")
    arguments = parser.parse_args()
    families: dict[str, Callable[[int], onnx.ModelProto]] = {"convolutions": convolutions, "transformer": transformer}
    measure(convolutions(100))  # loads the rules
    results: dict[str, Any] = {}
    for name, make in families.items():
        rows = []
        for size in arguments.sizes:
            model = make(size)
            runs = [measure(model) for _ in range(arguments.repeat)]
            rows.append(min(runs, key=lambda r: r["seconds"]))
            row = rows[-1]
            row["seconds_per_1000_nodes"] = round(1000 * row["seconds"] / row["nodes"], 3)
            print(name, *(f"{k} {v:g}" for k, v in row.items()), flush=True)
        worst = max(r["seconds_per_1000_nodes"] for r in rows if r["nodes"] >= 900 or len(rows) == 1)
        results[name] = {
            "rows": rows,
            "exponent": round(exponent(rows), 2),
            "within_limit": worst <= LIMIT,
            "near_linear": exponent(rows) <= EXPONENT,
        }
        print(f"{name}: {worst:g} s per 1,000 nodes at most, seconds grow with nodes^{exponent(rows):.2f}")
    data = {
        "limit": LIMIT,
        "exponent_limit": EXPONENT,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "families": results,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(data, indent=1) + "\n")
    return 0 if all(r["within_limit"] and r["near_linear"] for r in results.values()) else 1


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    sys.exit(main())
