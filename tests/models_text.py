"""Models in ONNX text form with seeded weights, and one check of a pruning that everything has to pass."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

import onnxprune

Weights = Mapping[str, "Sequence[int] | np.ndarray"]


def make(
    body: str,
    weights: Weights,
    *,
    opset: int = 17,
    ir: int = 0,
    ms: bool = False,
    domains: Sequence[str] = (),
    functions: str = "",
    dtype: type = np.float32,
    listed: bool = False,
) -> onnx.ModelProto:
    """A model from `(inputs) => (outputs) { nodes }`.

    Args:
        body: signature and nodes.
        weights: initializers by name: a shape for seeded normal numbers, or the array itself.
        opset: version of the ONNX domain.
        ir: IR version, the lowest common one where it is 0.
        ms: import `com.microsoft`.
        domains: further domains, at version 1.
        functions: texts of model-local functions.
        dtype: of the random weights.
        listed: initializers are graph inputs too, as in IR 3.
    """
    ir = ir or (12 if opset > 23 else 11 if opset > 22 else 10 if opset > 20 else 9 if opset > 18 else 8)
    imports = ", ".join([f'"" : {opset}', *(f'"{d}" : 1' for d in ([*domains, "com.microsoft"] if ms else domains))])
    model = onnx.parser.parse_model(f"<ir_version: {ir}, opset_import: [{imports}]> g {body} {functions}")
    for name, given in weights.items():
        if not isinstance(given, np.ndarray):
            rng = np.random.default_rng(zlib.crc32(name.encode()))
            given = (0.6 * rng.standard_normal(given)).astype(dtype)
        model.graph.initializer.append(numpy_helper.from_array(given, name))
        if listed:
            kind = helper.np_dtype_to_tensor_dtype(given.dtype)
            model.graph.input.append(helper.make_tensor_value_info(name, kind, given.shape))
    return model


def positive(*shape: int) -> np.ndarray:
    """Seeded numbers in [0.5, 1.5): variances, divisors."""
    return (0.5 + np.random.default_rng(int(np.prod(shape))).random(shape)).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    """A vector of int64."""
    return np.array(values, np.int64)


def graphs(graph: onnx.GraphProto):
    """A graph and the bodies in it."""
    yield graph
    for node in graph.node:
        for a in node.attribute:
            for inner in [a.g, *a.graphs] if a.type in (a.GRAPH, a.GRAPHS) else []:
                yield from graphs(inner)


def tensors(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Initializers and tensors of Constant nodes by name, bodies included."""
    found = {}
    for graph in graphs(model.graph):
        found |= {t.name: t for t in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                found[node.output[0]] = node.attribute[0].t
    return found


def shapes_of(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of the float and quantized tensors of rank 1 and more."""
    integers = (onnx.TensorProto.INT64, onnx.TensorProto.BOOL)
    return {n: tuple(t.dims) for n, t in tensors(model).items() if t.dims and t.data_type not in integers}


def node(model: onnx.ModelProto, op: str, k: int = 0) -> onnx.NodeProto:
    """The k-th node of an operator."""
    return [n for n in model.graph.node if n.op_type == op][k]


def attribute(model: onnx.ModelProto, op: str, name: str, k: int = 0) -> Any:
    """An attribute of the k-th node of an operator; None where it is not there."""
    return next((helper.get_attribute_value(a) for a in node(model, op, k).attribute if a.name == name), None)


def feeds_of(model: onnx.ModelProto, sizes: Mapping[str, Sequence[int]], seed: int = 7) -> dict[str, np.ndarray]:
    """Random inputs; integers are 1."""
    rng = np.random.default_rng(seed)
    weights = {t.name for t in model.graph.initializer}
    result = {}
    for i in model.graph.input:
        if i.name in weights:
            continue
        dtype = helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type)
        if dtype == np.bool_ or np.issubdtype(dtype, np.integer):
            result[i.name] = np.ones(sizes[i.name], dtype)
        else:
            result[i.name] = rng.standard_normal(sizes[i.name]).astype(dtype)
    return result


def run(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Outputs by ONNX Runtime without graph optimizations."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(feeds))


def without(model: onnx.ModelProto, plan: onnxprune.Plan, ones: Sequence[str] = ()) -> onnx.ModelProto:
    """The source with zeros (or ones) where the plan removes slices: what the pruned model has to compute.

    This is the oracle once more, from nothing but the plan's published format.
    """
    dense = onnx.ModelProto()
    dense.CopyFrom(model)
    stored = tensors(dense)
    for name, entry in plan.initializers.items():
        array = np.array(numpy_helper.to_array(stored[name]))
        for axis, removed in entry["removed"].items():
            if not removed:
                continue
            rows = removed if isinstance(removed[0], list) else [removed]
            for block, own in zip(np.split(array, len(rows), axis=0), rows, strict=True):
                np.moveaxis(block, int(axis), 0)[own] = 1 if name in ones else 0
        stored[name].CopyFrom(numpy_helper.from_array(array, name))
    return dense


def found_groups(result: onnxprune.PruneResult) -> list[str]:
    """`kind units` of each group, `~` in front of those that are inexact."""
    rows = result.report.groups
    return [f"{'' if r.exact else '~'}{r.kind} {r.units}" for r in rows]


@dataclass
class Case:
    """A model, and what `prune(model, ratio=0.5)` must make of it.

    Attributes:
        id: name of the test.
        body: see `make`.
        weights: likewise.
        groups: `kind units` of all groups that can go; `~` before inexact ones.
        kept: shapes of all weights that shrink; all others must keep theirs.
        frozen: `weight:axis` -> a part of the reason; the axes must be among those that can't shrink.
        attributes: `Op.name` or `Op#k.name` -> value in the result.
        options: of `prune`.
        ones: weights whose removed slices are neutral at 1.
        own_oracle: compare with `without` too.
        error: largest relative error.
    """

    id: str
    body: str
    weights: Weights
    groups: Sequence[str]
    kept: Mapping[str, tuple[int, ...]]
    frozen: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    ones: Sequence[str] = ()
    own_oracle: bool = True
    error: float = 1e-4
    opset: int = 17
    ir: int = 0
    ms: bool = False
    functions: str = ""
    domains: Sequence[str] = ()
    dtype: type = np.float32
    listed: bool = False

    @property
    def model(self) -> onnx.ModelProto:
        """The source."""
        return make(
            self.body,
            self.weights,
            opset=self.opset,
            ir=self.ir,
            ms=self.ms,
            functions=self.functions,
            domains=self.domains,
            dtype=self.dtype,
            listed=self.listed,
        )


def table(cases: Sequence[Case]):
    """Parametrizes a test over cases."""
    ids = [c.id for c in cases]
    assert len(set(ids)) == len(ids)
    return pytest.mark.parametrize("case", cases, ids=ids)


def check(case: Case) -> onnxprune.PruneResult:
    """Prunes the model of a case and asserts everything that the case expects."""
    model = case.model
    before = model.SerializeToString()
    if not case.groups:
        with pytest.raises(onnxprune.NothingToPruneError):
            onnxprune.prune(model, ratio=0.5, **case.options)
        groups = onnxprune.analyze(model, width=bool(case.options.get("width")))
        assert groups.trace.failures == []
        assert_frozen(groups.frozen, case.frozen)
        return None  # type: ignore[return-value]
    result = onnxprune.prune(model, **{"ratio": 0.5, **case.options})
    assert model.SerializeToString() == before
    report = result.report
    assert report.failures == []
    assert report.put_back == []
    assert sorted(found_groups(result)) == sorted(case.groups)
    expected = {**shapes_of(model), **case.kept}
    assert {n: s for n, s in shapes_of(result.model).items() if n in expected} == expected
    assert_frozen(report.frozen, case.frozen)
    for path, value in case.attributes.items():
        op, _, name = path.partition(".")
        op, _, k = op.partition("#")
        assert attribute(result.model, op, name, int(k or 0)) == value, path
    assert [i for i in model.graph.input if i.name not in case.weights] == [
        i for i in result.model.graph.input if i.name not in case.weights
    ]
    assert model.graph.output == result.model.graph.output
    assert report.verification is not None, report.unverified
    assert report.verification.passed
    assert report.verification.error <= case.error
    assert onnxprune.apply(model, result.plan).SerializeToString() == result.model.SerializeToString()
    feeds = feeds_of(model, report.shapes)
    outputs = run(result.model, feeds)
    if case.own_oracle and all(r.exact for r in report.groups):
        for expected, actual in zip(run(without(model, result.plan, case.ones), feeds), outputs, strict=True):
            assert expected.shape == actual.shape
            scale = max(float(np.abs(expected.astype(np.float64)).max(initial=0)), 1e-6)
            assert float(np.abs(expected.astype(np.float64) - actual).max(initial=0)) <= case.error * scale
    return result


def assert_frozen(frozen: Sequence[Any], expected: Mapping[str, str]) -> None:
    """Each expected axis is frozen with a reason that contains the given text."""
    reasons = {f"{f.weight}:{f.axis}": f.reason for f in frozen}
    for axis, text in expected.items():
        assert axis in reasons, f"{axis} is not frozen; {reasons}"
        assert text in reasons[axis], reasons[axis]
