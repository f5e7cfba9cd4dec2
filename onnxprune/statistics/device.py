"""Moments computed by ONNX Runtime, where the activations are: only sums leave the device.

A small model takes an activation and what it should give, picks rows (im2col by Gather), and returns for several masks

    sums of x and y about a shift, X'X, X'Y and sums of y^2, or how many x are 0 or less        (float32, for one batch)

The shift is the mean of the first batch, so the products don't cancel. Batches are added up in float64 on the host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnxprune.statistics.linear import Convolution, Dense, Form
from onnxprune.statistics.moments import Moments
from onnxprune.statistics.providers import Providers

if TYPE_CHECKING:
    import onnxruntime as ort

Array = NDArray[Any]
_OPSET = 17


@dataclass(frozen=True)
class Target:
    """What one node should give: a tensor, some of its channels, and differences that are added.

    Attributes:
        form: of the node.
        outputs: M of the node.
        kept: channels of the tensor; None: all.
        sums: for each difference channels of the first tensor (None: all), and factors `(M,)` for it.
    """

    form: Form
    outputs: int
    kept: Array | None = None
    sums: tuple[tuple[Array | None, Array], ...] = ()


def can_be_in_graph(form: Form) -> bool:
    """Rows of an Einsum, and of a transposed convolution (in a stretched input), are taken on the host."""
    return isinstance(form, Dense) or (isinstance(form, Convolution) and not form.transposed)


class DeviceMoments:
    """Moments of rows for several masks, batch by batch.

    Args:
        form: how rows are taken of x.
        shape: G, K, M.
        targets: of each node that reads x; none where there is no y.
        masks: how many sets of rows.
        providers: that it runs on.

    Attributes:
        total: moments for each mask.
        zeros: without targets: how many elements of the rows are 0 or less `(G, K)`.
    """

    def __init__(
        self, form: Form, shape: tuple[int, int, int], targets: Sequence[Target], masks: int, providers: Providers
    ) -> None:
        self.form, self.shape, self.targets = form, shape, targets
        self.providers = providers
        self.total = [Moments.empty(*shape) for _ in range(masks)]
        self.zeros = np.zeros(shape[:2])
        self.session: ort.InferenceSession | None = None
        self.shift: tuple[Array, Array] | None = None

    def add(self, x: ort.OrtValue, others: Sequence[ort.OrtValue], chosen: Array, masks: Sequence[Array]) -> None:
        """Takes a batch.

        Args:
            x: the activation.
            others: for each target the tensor, then pairs for its differences; in the order of `targets`.
            chosen: output positions.
            masks: `(N, P)` bool each: rows that count.
        """
        feeds: dict[str, Any] = {"x": x} | {f"t{k}": value for k, value in enumerate(others)}
        if self.session is None:
            types = {n: (v.element_type(), len(v.shape())) for n, v in feeds.items()}
            model = _model(self.form, self.shape, self.targets, len(masks), types)
            self.session = self.providers.open(model.SerializeToString())
        feeds["chosen"] = chosen.astype(np.int64)
        if isinstance(self.form, Convolution):
            feeds["index"], feeds["pads"] = im2col(self.form, x.shape(), chosen)
        feeds |= {f"mask{k}": m.reshape(-1, 1).astype(np.float32) for k, m in enumerate(masks)}
        g, k, m = self.shape
        if self.shift is None:
            found = self._run(feeds, (np.zeros((g, k)), np.zeros((g, m))))
            rows = max(sum(int(mask.sum()) for mask in masks), 1)
            self.shift = tuple(sum(sums[i] for sums in found) / rows for i in range(2))  # type: ignore[assignment]
        assert self.shift is not None
        for total, mask, sums in zip(self.total, masks, self._run(feeds, self.shift), strict=True):
            if mask.any():
                total.add(_about_mean(int(mask.sum()), self.shift, sums[:5]))
                self.zeros += sum(sums[5:])

    def _run(self, feeds: Mapping[str, Any], shift: tuple[Array, Array]) -> list[tuple[Array, ...]]:
        """Sums of x and y, products, for each mask."""
        session = self.session
        assert session is not None
        given = dict(feeds) | {n: s[:, None].astype(np.float32) for n, s in zip(("shift_x", "shift_y"), shift, strict=True)}
        binding = session.io_binding()
        for held in session.get_inputs():
            value = given[held.name]
            fed = on_device(value, self.providers.device) if isinstance(value, np.ndarray) else value
            binding.bind_ortvalue_input(held.name, fed)
        for output in session.get_outputs():
            binding.bind_output(output.name, "cpu")
        session.run_with_iobinding(binding)
        made = [v.numpy().astype(np.float64) for v in binding.get_outputs()]
        g, k, m = self.shape
        if m:
            return [(sx, sy, xx, xy, yy) for sx, xx, sy, xy, yy in zip(*[iter(made)] * 5, strict=True)]
        none = np.zeros((g, 0)), np.zeros((g, k, 0))
        return [(sx, none[0], xx, none[1], none[0], low) for sx, xx, low in zip(*[iter(made)] * 3, strict=True)]


def shape_of(target: Target, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """G, K, M of one target."""
    return shape[0], shape[1], target.outputs


def on_device(array: Array, device: tuple[str, int]) -> ort.OrtValue:
    """A tensor that lies where models run."""
    import onnxruntime as ort

    return ort.OrtValue.ortvalue_from_numpy(np.asarray(array, order="C"), *device)


def im2col(form: Convolution, shape: Sequence[int], chosen: Array) -> tuple[Array, Array]:
    """Where the taps of output positions lie in the padded input, flat `(P, taps)`, and its pads as ONNX wants them."""
    pads = form.padding(shape[2:])
    sizes = [s + a + b for s, (a, b) in zip(shape[2:], pads, strict=True)]
    spans = [d * (k - 1) + 1 for k, d in zip(form.kernel, form.dilations, strict=True)]
    out = [(s - span) // t + 1 for s, span, t in zip(sizes, spans, form.strides, strict=True)]
    corners = [p * t for p, t in zip(np.unravel_index(chosen, out), form.strides, strict=True)]
    taps = [t.ravel() * d for t, d in zip(np.indices(form.kernel), form.dilations, strict=True)]
    places = tuple(c[:, None] + t[None] for c, t in zip(corners, taps, strict=True))
    flat = np.ravel_multi_index(places, sizes).astype(np.int64)
    return flat, np.array([0, 0, *[a for a, _ in pads], 0, 0, *[b for _, b in pads]], np.int64)


def _about_mean(rows: int, shift: tuple[Array, Array], sums: tuple[Array, ...]) -> Moments:
    """Moments about the mean, from sums about a shift."""
    x, y, xx, xy, yy = sums
    mean_x, mean_y = x / rows, y / rows
    return Moments(
        rows,
        mean_x + shift[0].astype(np.float32),
        mean_y + shift[1].astype(np.float32),
        xx - rows * mean_x[:, :, None] * mean_x[:, None, :],
        xy - rows * mean_x[:, :, None] * mean_y[:, None, :],
        yy - rows * mean_y**2,
    )


class _Graph:
    """Nodes of a model that is being made; each method gives the name of the result."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def __call__(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def constant(self, array: Array) -> str:
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def numbers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def wide(self, name: str) -> str:
        return self("Cast", name, to=TensorProto.FLOAT)

    def outputs(self, form: Form, y: str, rank: int, shape: tuple[int, int, int]) -> str:
        """Rows of an output at chosen positions `(G, R, M)`."""
        groups, _, m = shape
        if isinstance(form, Dense):
            axis = form.axis % rank
            order = [form.lead, *(a for a in range(rank) if a not in (axis, form.lead)), axis]
            turned = y if order == sorted(order) else self("Transpose", y, perm=order)
            flat = self("Reshape", turned, self.numbers(0, -1, m))
            return self("Reshape", self("Gather", flat, "chosen", axis=1), self.numbers(1, -1, m))
        flat = self("Reshape", y, self.numbers(0, groups, m, -1))
        picked = self("Gather", flat, "chosen", axis=3)
        return self("Reshape", self("Transpose", picked, perm=[1, 0, 3, 2]), self.numbers(groups, -1, m))

    def rows(self, form: Form, x: str, rank: int, shape: tuple[int, int, int]) -> str:
        """Rows of an input `(G, R, K)`."""
        groups, k, _ = shape
        if isinstance(form, Dense):
            return self.outputs(form, x, rank, (1, 0, k))
        channels = groups * k // form.taps
        flat = self("Reshape", self("Pad", x, "pads"), self.numbers(0, channels, -1))
        picked = self("Gather", flat, "index", axis=2)  # (N, C, P, taps)
        parts = self("Reshape", picked, self.numbers(0, groups, channels // groups, -1, form.taps))
        return self("Reshape", self("Transpose", parts, perm=[1, 0, 3, 2, 4]), self.numbers(groups, -1, k))

    def target(self, target: Target, tensors: Sequence[str], rank: int, shape: tuple[int, int, int]) -> str:
        """Rows of what a node should give `(G, R, M)`."""
        axis = target.form.channel_axis(rank)

        def taken(name: str, kept: Array | None) -> str:
            return self.wide(name if kept is None else self("Gather", name, self.numbers(*kept), axis=axis))

        result = self.outputs(target.form, taken(tensors[0], target.kept), rank, shape)
        for (kept, factor), before, after in zip(target.sums, tensors[1::2], tensors[2::2], strict=True):
            lost = self("Sub", taken(before, kept), taken(after, None))
            scaled = factor.reshape(shape[0], 1, shape[2]).astype(np.float32)
            part = self("Mul", self.outputs(target.form, lost, rank, shape), self.constant(scaled))
            result = self("Add", result, part)
        return result


def _model(
    form: Form, shape: tuple[int, int, int], targets: Sequence[Target], masks: int, types: Mapping[str, tuple[int, int]]
) -> onnx.ModelProto:
    """From x and tensors of the targets (`types`: name -> element type, rank) to five sums for each mask."""
    g = _Graph()
    rank = types["x"][1]
    raw = g.rows(form, g.wide("x"), rank, shape)
    x = g("Sub", raw, "shift_x")
    parts, start = [], 0
    for t in targets:
        count = 1 + 2 * len(t.sums)
        parts.append(g.target(t, [f"t{k}" for k in range(start, start + count)], types[f"t{start}"][1], shape_of(t, shape)))
        start += count
    y = g("Sub", g("Concat", *parts, axis=2), "shift_y") if parts else ""
    made = []
    for i in range(masks):
        counted = g("Mul", x, f"mask{i}")
        turned = g("Transpose", counted, perm=[0, 2, 1])
        rows = g.numbers(1)
        made.append(g("ReduceSum", counted, rows, keepdims=0))
        made.append(g("MatMul", turned, x))
        if y:
            own = g("Mul", y, f"mask{i}")
            made += [g("ReduceSum", own, rows, keepdims=0), g("MatMul", turned, y)]
            made.append(g("ReduceSum", g("Mul", own, y), rows, keepdims=0))
        else:
            low = g.wide(g("LessOrEqual", raw, g.constant(np.zeros((), np.float32))))
            made.append(g("ReduceSum", g("Mul", low, f"mask{i}"), rows, keepdims=0))
    fixed = dict.fromkeys(("chosen", "index", "pads"), TensorProto.INT64)
    fixed |= dict.fromkeys(("shift_x", "shift_y", *(f"mask{i}" for i in range(masks))), TensorProto.FLOAT)
    used = {n for node in g.nodes for n in node.input}
    inputs = [helper.make_tensor_value_info(n, t, [None] * r) for n, (t, r) in types.items()]
    inputs += [helper.make_tensor_value_info(n, t, None) for n, t in fixed.items() if n in used]
    outputs = [helper.make_empty_tensor_value_info(n) for n in made]
    graph = helper.make_graph(g.nodes, "moments", inputs, outputs, g.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)
