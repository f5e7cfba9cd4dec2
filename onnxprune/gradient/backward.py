"""Reverse mode over the nodes of a graph: ONNX Runtime runs the model, arrays run back.

Only what lies between the tensors that are asked for and the outputs is differentiated. Operators without a rule are written
out by ONNX's own function bodies first, where they have one (`expanded`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from onnxprune.gradient.registry import Array, Derivative, Step, find, is_flat, summed_to
from onnxprune.statistics.flow import Flow, attributes, captures


@dataclass(frozen=True)
class Found:
    """Gradient of one tensor.

    Attributes:
        value: of the tensor.
        gradient: of the loss with respect to it, in its shape; for R of a recurrent node the sum over gates of gradient
            times value, `(samples, directions, hidden)`.
        product: it is that sum.
    """

    value: Array
    gradient: Array
    product: bool = False


class Backward:
    """The part of a model between some tensors and some outputs.

    Args:
        model: no model-local functions; see `expanded`.
        wanted: tensors whose gradients are asked for. One may be R of a recurrent node.
        outputs: that the loss depends on.

    Attributes:
        fetched: tensors that a run has to give to `gradients`.
        stopped: operators without a rule between the tensors and the outputs -> names of their nodes.
        broken: tensors whose gradients would miss what passes through those.
    """

    def __init__(self, model: onnx.ModelProto, wanted: Sequence[str], outputs: Sequence[str]) -> None:
        self.flow = Flow(model)
        self.versions = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in model.opset_import}
        self.wanted, self.outputs = set(wanted), list(outputs)
        below = self._below()
        above = self.flow.ancestors(list(outputs))
        self.path = [k for k in sorted(above) if k in below]
        self.stopped: dict[str, list[str]] = {}
        self.memories: dict[int, dict[Any, Any]] = {}
        self.broken = self._broken()
        self.rules: dict[int, tuple[Derivative, Mapping[str, object], set[int]]] = {}
        for k in self.path:
            node = self.flow.nodes[k]
            rule, positions = find(node.domain, node.op_type), set(self._inward(k))
            if rule is not None and positions:
                if rule.inputs is not None:
                    positions &= rule.inputs
                self.rules[k] = rule, attributes(node), positions
        read = {n for k in self.rules for n in (*self.flow.nodes[k].input, *self.flow.nodes[k].output) if n}
        self.fetched = sorted(n for n in read | set(outputs) if n in self.flow.producer)
        self.constants = {n: numpy_helper.to_array(self.flow.initializers[n]) for n in read & self.flow.initializers.keys()}

    def _below(self) -> set[int]:
        """Nodes that change with a wanted tensor, and tensors that do (`self.leads`)."""
        self.leads = set(self.wanted)
        found = set()
        for k, node in enumerate(self.flow.nodes):
            if any(n in self.leads for n in self.flow.reads(k)) and not is_flat(node, attributes(node)):
                found.add(k)
                self.leads |= set(node.output)
        return found

    def _inward(self, k: int) -> Iterable[int]:
        """Positions of a node's inputs that lead to a wanted tensor."""
        return (i for i, n in enumerate(self.flow.nodes[k].input) if n in self.leads)

    def _broken(self) -> set[str]:
        found: set[str] = set()
        for k in reversed(self.path):
            node = self.flow.nodes[k]
            rule = find(node.domain, node.op_type)
            holds = rule is not None and (rule.when is None or rule.when(node, attributes(node)))
            passed = any(o in found for o in node.output)
            for i in self._inward(k):
                if passed or not holds or rule is None or (rule.inputs is not None and i not in rule.inputs):
                    found.add(node.input[i])
            inner = captures(node) & self.leads
            found |= inner
            missing = not holds or bool(inner)
            missing |= rule is not None and rule.inputs is not None and not set(self._inward(k)) <= rule.inputs
            if missing:
                name = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
                self.stopped.setdefault(name, []).append(node.name or node.output[0])
        return found

    def gradients(self, values: Mapping[str, Array], seeds: Mapping[str, Array]) -> dict[str, Found]:
        """One run backwards.

        Args:
            values: of the tensors in `fetched`, and of the model's inputs.
            seeds: gradient of the loss with respect to each output.

        Returns:
            what is found of each wanted tensor; zeros where the loss does not depend on it.
        """
        held: dict[str, Array] = {n: _wide(s) for n, s in seeds.items()}
        products: dict[str, Array] = {}
        result: dict[str, Found] = {}
        for k in reversed(self.path):
            node = self.flow.nodes[k]
            dy = [held.pop(o, None) if o not in self.wanted else held.get(o) for o in node.output]
            if k not in self.rules or all(d is None for d in dy):
                continue
            rule, attrs, positions = self.rules[k]
            if rule.when is not None and not rule.when(node, attrs):
                continue
            x = [self._value(n, values) for n in node.input]
            y = [self._value(n, values) for n in node.output]
            version = self.versions.get("" if node.domain == "ai.onnx" else node.domain, 1)
            step = Step(node, attrs, version, x, y, dy, positions, self.memories.setdefault(k, {}))
            for i, gradient in rule.rule(step).items():
                name = node.input[i] if i < len(node.input) else ""
                given = x[i] if i < len(x) else None
                if i not in positions or i in step.products or given is None or given.dtype.kind != "f":
                    continue
                own = summed_to(gradient, given.shape)
                held[name] = held[name] + own if name in held else own
            products |= {node.input[i]: p for i, p in step.products.items() if node.input[i] in self.wanted}
        for name in self.wanted:
            value = self._value(name, values)
            if name in products:
                result[name] = Found(np.zeros(0) if value is None else value, products[name], True)
            elif value is not None:
                result[name] = Found(value, held.get(name, np.zeros_like(value)))
        return result

    def _value(self, name: str, values: Mapping[str, Array]) -> Array | None:
        if not name:
            return None
        found = values.get(name)
        if found is None:
            found = self.constants.get(name)
        return None if found is None else _wide(found)


def _wide(array: Array) -> Array:
    """Half precision in single: gradients would underflow."""
    return array.astype(np.float32) if array.dtype == np.float16 else array


def expanded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with operators that have no derivative here written out by their function bodies, where ONNX has one."""
    from onnx import inliner

    names = {(n.domain, n.op_type) for n in model.graph.node}
    missing = [(d, op) for d, op in names if find(d, op) is None and _is_function(d, op)]
    if not missing:
        return model
    try:
        return inliner.inline_selected_functions(model, sorted(missing), inline_schema_functions=True)
    except (ValueError, RuntimeError, onnx.onnx_cpp2py_export.checker.ValidationError):
        return model  # beyond 2 GB, or with a body that the inliner can't build: these operators stop the gradient


def _is_function(domain: str, op: str) -> bool:
    if domain not in ("", "ai.onnx") or not onnx.defs.has(op):
        return False
    schema: Any = onnx.defs.get_schema(op)
    return bool(schema.has_function or schema.has_context_dependent_function)
