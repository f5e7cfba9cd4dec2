"""Channel statistics without data: what the weights alone let one expect of every tensor that linear nodes read.

The graph is gone through once with jointly normal variables (`onnxprune.statistics.gaussian`) instead of numbers:

1. Inputs are independent with mean 0 and variance 1.
2. A linear node makes normal channels: mean W m + b, covariance W (S x T) W'. T says how alike the taps of a kernel are:
   1 on the diagonal, `ALIKE` elsewhere, as in images.
3. A normalization with stored parameters says what its output is like, whatever came before: it is the anchor. Where it
   has been folded into the weights, errors add up from node to node, so that no channel is taken to be always on or off:
   the mean of what a linear node makes is at most `REACH` deviations away from 0.
4. Elementwise operators are run by ONNX Runtime. Two summands or factors (a gate) that depend on other variables are taken
   to be independent; in any other operator the smaller one counts with its mean.
5. Pooling and moves keep channels. Anything else makes tensors of which nothing is known. A linear node that reads one
   starts anew, from independent inputs as in 1.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import onnx
import scipy.sparse
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from scipy.linalg import block_diag

from onnxprune.groups.group import Groups
from onnxprune.proof.session import run
from onnxprune.statistics.channels import ChannelStatistics, in_blocks
from onnxprune.statistics.flow import Array, Flow, attributes, lift
from onnxprune.statistics.gaussian import Channels, minus, plus, times
from onnxprune.statistics.linear import Convolution, Linear, plain_linear, stored_source
from onnxprune.trace.value import Value

ALIKE = 0.5
REACH = 0.5
LARGEST = 4608  # channels of a tensor: a covariance takes 170 MB there
MANY_ROWS = 1 << 40  # nothing is uncertain for lack of samples

_ELEMENTWISE = {
    "Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "ThresholdedRelu", "Shrink", "Tanh", "Erf", "Abs", "Neg",
    "Sqrt", "Sin", "Cos", "Sign", "Floor", "Ceil", "Round", "Log", "Reciprocal", "Softsign", "Softplus", "HardSwish",
    "Gelu", "FastGelu", "QuickGelu", "BiasGelu", "Mish", "Swish", "Sigmoid", "HardSigmoid", "Exp", "Clip", "Add", "Sub",
    "Mul", "Div", "Pow", "Max", "Min", "Sum",
}  # fmt: skip
_KEEPS = {
    "Identity", "Dropout", "Cast", "MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "Resize",
    "Upsample", "Pad", "ReduceMean", "ReduceMax", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice",
    "Split",
}  # fmt: skip
_NORMALIZES = {  # operator -> input positions of factor and shift
    "BatchNormalization": (1, 2), "LayerNormalization": (1, 2), "RMSNormalization": (1, -1), "InstanceNormalization": (1, 2),
    "SimplifiedLayerNormalization": (1, -1), "SkipLayerNormalization": (2, 3), "SkipSimplifiedLayerNormalization": (2, -1),
}  # fmt: skip


_TOGETHER = {"Add": plus, "Sum": plus, "Sub": minus, "Mul": times}


@dataclass
class Expected:
    """What the weights of a model let one expect.

    Attributes:
        statistics: as `onnxprune.statistics.channels.channel_statistics` gives them, for the tensors that are known.
        unknown: tensors that linear nodes read -> why nothing is known of them.
    """

    statistics: list[ChannelStatistics] = field(default_factory=list)
    unknown: dict[str, str] = field(default_factory=dict)


def expected_statistics(model: onnx.ModelProto, groups: Groups) -> Expected:
    """Statistics of every tensor that a linear node reads with a weight whose input channels could go.

    Args:
        model: the model that `groups` analyses.
        groups: its analysis.
    """
    return _Walk(Flow(lift(model)), groups, model.opset_import).run()


@dataclass
class _Walk:
    flow: Flow
    groups: Groups
    opsets: object

    def __post_init__(self) -> None:
        self.linear = {x.y: x for x in plain_linear(self.flow)}
        self.known: dict[str, Channels] = {}
        self.left = Counter({name: len(readers) for name, readers in self.flow.readers.items()})
        self.wanted: dict[str, list[Linear]] = {}
        for x in self.linear.values():
            self.wanted.setdefault(x.x, []).append(x)
        self.result = Expected()

    def run(self) -> Expected:
        """Goes through the graph; what nobody reads any more is dropped."""
        for name in self.flow.inputs:
            value = self.value(name)
            if value is not None and value.rank > 1:
                ones = np.ones(value.sizes[1])
                self.known[name] = Channels.independent(1, 0 * ones, ones)
            self.record(name)
        for k, node in enumerate(self.flow.nodes):
            if self.flow.varying[k]:
                for name in node.output:
                    found = self.output(node, name)
                    if found is not None and self.sound(name, found):
                        self.known[name] = found
                    self.record(name)
            for name in self.flow.reads(k):
                self.left[name] -= 1
                if not self.left[name]:
                    self.known.pop(name, None)
        return self.result

    def sound(self, name: str, found: Channels) -> bool:
        """What was found fits the tensor, is not too large, and consists of numbers."""
        value = self.value(name)
        fits = value is not None and value.sizes[found.axis] == found.count <= LARGEST
        return fits and bool(np.isfinite(found.values).all() and np.isfinite(found.correlation).all())

    def value(self, name: str) -> Value | None:
        """What the trace knows of a tensor, where it knows its shape."""
        value = self.groups.trace.values.get(name)
        return value if value is not None and value.shape is not None else None

    def constant(self, name: str) -> Array | None:
        """A stored tensor, also behind Identity and Transpose."""
        source, perm = stored_source(self.flow, name) if name else ("", None)
        held = self.flow.constant(source or name) if name else None
        return held if held is None or perm is None else held.transpose(perm)

    def record(self, name: str) -> None:
        """Keeps the statistics of a tensor that linear nodes read with channels that could go."""
        value = self.value(name)
        for axis in {x.form.channel_axis(value.rank) for x in self.wanted.get(name, ())} if value is not None else ():
            f = value.field_on(axis) if value is not None else None
            if f is None or f.joint:
                continue
            found = self.known.get(name)
            if found is None or found.axis != axis:
                maker = self.flow.producer.get(name)
                node = None if maker is None else self.flow.nodes[maker]
                made = f"{node.op_type} {node.name or name!r} makes it" if node is not None else "it is an input"
                made = made if f.labels.size <= LARGEST else f"it has more than {LARGEST:,} channels"
                self.result.unknown[name] = f"nothing is known of {name!r} without data: {made}"
                continue
            labels = np.asarray(f.labels, np.int32)
            whole = ChannelStatistics(name, labels, MANY_ROWS, found.mean, found.covariance, found.zeros, [])
            self.result.statistics += in_blocks(whole, self.wanted[name], self.flow)

    # ---- operators ----

    def output(self, node: onnx.NodeProto, name: str) -> Channels | None:
        """An output of a node; None where nothing is known of it."""
        value = self.value(name)
        if value is None:
            return None
        if node.op_type in _KEEPS:
            return self.moved(node.input[0], value)
        if name != node.output[0]:
            return None
        if name in self.linear:
            return self.product(node, self.linear[name], value)
        if node.op_type in _NORMALIZES:
            return self.normalization(node, value)
        if node.op_type == "Concat":
            return self.concatenation(node, value)
        return self.elementwise(node, value) if node.op_type in _ELEMENTWISE else None

    def product(self, node: onnx.NodeProto, linear: Linear, value: Value) -> Channels | None:
        """Normal channels with the moments of W x + b."""
        source = self.value(linear.x)
        if source is None:
            return None
        axis = linear.form.channel_axis(source.rank)
        x, count = self.known.get(linear.x), source.sizes[axis]
        if x is None or x.axis != axis:
            x = Channels.independent(axis, np.zeros(count), np.ones(count))
        matrix = linear.matrix(numpy_helper.to_array(self.flow.initializers[linear.weight]))
        groups, outputs = matrix.shape[0], matrix.shape[0] * matrix.shape[2]
        if max(count, outputs) > LARGEST or count % groups or matrix.shape[1] % (count // groups):
            return None
        taps = [_sparse(t) for t in np.moveaxis(matrix.reshape(groups, count // groups, -1, matrix.shape[2]), 2, 0)]
        whole = sum(taps[1:], taps[0])
        covariance = _spread(whole, x.covariance)
        if len(taps) > 1:
            covariance *= ALIKE
            for tap in taps:
                covariance += (1 - ALIKE) * _spread(tap, x.covariance)
        mean = np.asarray(whole @ x.mean)
        if isinstance(linear.form, Convolution) and linear.form.transposed:  # a position sees one tap of each stride
            seen = 1 / float(np.prod(linear.form.strides))
            mean, covariance = mean * seen, covariance * seen
        bias = self.constant(node.input[2]) if len(node.input) > 2 else None
        if bias is not None and bias.size in (1, outputs):
            mean = mean + bias.ravel().astype(np.float64)
        reach = REACH * np.sqrt(np.maximum(np.diagonal(covariance), 0))
        return Channels.normal(linear.form.channel_axis(value.rank), np.clip(mean, -reach, reach), covariance)

    def normalization(self, node: onnx.NodeProto, value: Value) -> Channels | None:
        """Mean and deviation are the stored shift and factor; the rest is as it was before."""
        axis = 1 if node.op_type in ("BatchNormalization", "InstanceNormalization") else value.rank - 1
        factor, shift = (
            self.constant(node.input[k]) if 0 <= k < len(node.input) else None for k in _NORMALIZES[node.op_type]
        )
        if factor is None or factor.size != value.sizes[axis]:
            return None
        scale = factor.ravel().astype(np.float64)
        offset = np.zeros(scale.size) if shift is None else shift.ravel().astype(np.float64)
        x = self.known.get(node.input[0])
        if node.op_type != "BatchNormalization" or x is None or x.axis != axis:
            return Channels.independent(axis, offset, scale)
        return x.mapped(x.standard() * scale[:, None] + offset[:, None])

    def concatenation(self, node: onnx.NodeProto, value: Value) -> Channels | None:
        """Channels of one tensor after those of another: together if they are functions of the same variables."""
        axis = int(attributes(node)["axis"]) % value.rank
        found = [self.known.get(name) for name in node.input]
        if any(x is None for x in found) or sum(x.count for x in found if x is not None) > LARGEST:
            return None
        own = [x for x in found if x is not None]
        if any(x.axis != axis for x in own):
            same = all(x.axis == own[0].axis and x.count == own[0].count for x in own)
            return own[0] if same else None  # of positions: alike, as in an image
        values = np.concatenate([x.values for x in own])
        if all(x.correlation is own[0].correlation for x in own):
            return Channels(axis, values, np.tile(own[0].correlation, (len(own), len(own))))
        return Channels(axis, values, block_diag(*[x.correlation for x in own]))

    def moved(self, name: str, value: Value) -> Channels | None:
        """The same channels, where the labels say they are, or in their old place."""
        x, source = self.known.get(name), self.value(name)
        if x is None or source is None:
            return None
        f = source.field_on(x.axis)
        if f is None or f.joint:
            kept = value.rank == source.rank and value.sizes[x.axis] == source.sizes[x.axis]
            return x if kept else None
        place = {int(label): k for k, label in reversed(list(enumerate(f.labels.tolist())))}
        for own in value.fields:
            if not own.joint and own.labels.size <= LARGEST and all(label in place for label in own.labels.tolist()):
                places = np.array([place[label] for label in own.labels.tolist()], np.intp)
                same = own.axes[0] == x.axis and np.array_equal(places, np.arange(x.count))
                return x if same else x.take(own.axes[0], places, ALIKE)
        return None

    def elementwise(self, node: onnx.NodeProto, value: Value) -> Channels | None:
        """The operator on the values of all channels, at all nodes of the quadrature."""
        held = [self.constant(name) for name in node.input]
        known = [self.known.get(name) for name in node.input]
        if any(name and h is None and x is None for name, h, x in zip(node.input, held, known, strict=True)):
            return None
        operands = [x for x in known if x is not None]
        first = max(operands, key=lambda x: x.count, default=None)
        if first is None or any(x.axis != first.axis for x in operands):
            return None
        others = [x for x in operands if x.correlation is not first.correlation]
        combine = _TOGETHER.get(node.op_type)
        if combine and len(operands) == 2 and len(others) == 1 and operands[0].count == operands[1].count:
            return combine(*operands)
        arrays: list[Array | None] = []
        for h, x in zip(held, known, strict=True):
            if x is not None:
                arrays.append(x.values if x.correlation is first.correlation else x.mean[:, None])
            else:
                arrays.append(None if h is None else _along(h, first.axis, value.rank))
        if any(h is not None and a is None for h, a in zip(held, arrays, strict=True)):
            return None
        result = self.computed(node, arrays)
        return None if result is None or len(result) not in (1, first.count) else first.mapped(result)

    def computed(self, node: onnx.NodeProto, arrays: list[Array | None]) -> Array | None:
        """The first output of a node for given inputs, in float32; None where ONNX Runtime can't run it on them."""
        single = onnx.NodeProto()
        single.CopyFrom(node)
        del single.input[:]
        single.input.extend(f"i{k}" if a is not None else "" for k, a in enumerate(arrays))
        feeds = {f"i{k}": a.astype(np.float32) for k, a in enumerate(arrays) if a is not None}
        inputs = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, a.shape) for n, a in feeds.items()]
        output = helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None)
        graph = helper.make_graph([single], "elementwise", inputs, [output])
        try:
            return run(helper.make_model(graph, opset_imports=self.opsets, ir_version=8), feeds, [node.output[0]])[0]
        except RuntimeError:
            return None


def _sparse(tap: Array) -> Array | scipy.sparse.csr_array:
    """One tap of all groups `(G, C/G, M)` as a matrix `(G * M, C)`."""
    return tap[0].T if len(tap) == 1 else scipy.sparse.csr_array(scipy.sparse.block_diag([t.T for t in tap], format="csr"))


def _spread(weight: Array | scipy.sparse.csr_array, covariance: Array) -> NDArray[np.float64]:
    """W S W'."""
    return np.asarray(weight @ np.asarray(weight @ covariance).T)


def _along(array: Array, axis: int, rank: int) -> Array | None:
    """A constant as a scalar or a column with one number for each channel; None where it differs along other axes."""
    if array.ndim == 0 or array.size == 1:
        return array.reshape(())
    aligned = [1] * (rank - array.ndim) + list(array.shape)
    return array.reshape(-1, 1) if len(aligned) == rank and aligned[axis] == array.size else None
