"""Random models: a walk over typed values in which each step puts a block of nodes on values that are there.

A value of rank 4 is an image (N, C, H, W), of rank 3 a sequence (N, S, C), of rank 2 a vector (N, C). Every weight may be
shared, held in a Constant node or behind a Transpose; every Reshape may compute its target from Shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

OPSETS = (9, 11, 13, 17, 18, 21, 23)
MICROSOFT = "com.microsoft"
WIDTHS = (2, 3, 4, 6, 8)
BATCH = 2  # the size that a first symbolic dimension gets


@dataclass(frozen=True)
class Tensor:
    name: str
    shape: tuple[int, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)


@dataclass(frozen=True)
class Dim:
    """A length of a Reshape target: axis `axis` of the input, times `times`, divided by `over`."""

    axis: int
    times: int = 1
    over: int = 1


Block = Callable[["Net", Tensor], Tensor]
BLOCKS: dict[int, list[tuple[str, int, Block]]] = {2: [], 3: [], 4: []}


def block(*ranks: int, since: int = 9) -> Callable[[Block], Block]:
    """Registers a block for values of these ranks, from an opset on."""

    def register(function: Block) -> Block:
        for rank in ranks:
            BLOCKS[rank].append((function.__name__, since, function))
        return function

    return register


class Skip(Exception):
    """The block doesn't fit this value."""


@dataclass
class Net:
    """A graph under construction."""

    draw: Any
    opset: int
    dynamic: bool
    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    pool: list[Tensor] = field(default_factory=list)
    weights: dict[tuple[int, ...], list[str]] = field(default_factory=dict)
    count: int = 0
    used: list[str] = field(default_factory=list)
    domains: set[str] = field(default_factory=set)
    positions: list[Tensor] = field(default_factory=list)

    # ---- choices ----

    def pick(self, values: Sequence[Any]) -> Any:
        return self.draw(st.sampled_from(list(values)))

    def number(self, low: int, high: int) -> int:
        return int(self.draw(st.integers(low, high)))

    def chance(self, percent: int) -> bool:
        return int(self.draw(st.integers(0, 99))) >= 100 - percent

    def width(self) -> int:
        return int(self.pick(WIDTHS))

    def divisor(self, n: int, least: int = 2) -> int:
        found = [d for d in range(least, n + 1) if n % d == 0]
        if not found:
            raise Skip
        return int(self.pick(found))

    # ---- building ----

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem.lower()}_{self.count}"

    def add(
        self, op: str, *inputs: Tensor | str | None, shapes: Sequence[Sequence[int]], domain: str = "", **attrs: Any
    ) -> list[Tensor]:
        names = ["" if i is None else i if isinstance(i, str) else i.name for i in inputs]
        outs = [Tensor(self.name(op), tuple(int(n) for n in s)) for s in shapes]
        if domain:
            self.domains.add(domain)
        self.nodes.append(helper.make_node(op, names, [o.name for o in outs], name=self.name("n"), domain=domain, **attrs))
        return outs

    def op(self, op: str, *inputs: Tensor | str | None, shape: Sequence[int], domain: str = "", **attrs: Any) -> Tensor:
        return self.add(op, *inputs, shapes=[shape], domain=domain, **attrs)[0]

    def unary(self, op: str, x: Tensor, **attrs: Any) -> Tensor:
        return self.op(op, x, shape=x.shape, **attrs)

    def binary(self, op: str, a: Tensor | str, b: Tensor | str, like: Tensor) -> Tensor:
        return self.op(op, a, b, shape=like.shape)

    def constant(self, array: Any, *, node: bool | None = None) -> str:
        array = np.asarray(array)
        name = self.name("const")
        if self.chance(25) if node is None else node:
            self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array)))
        else:
            self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def weight(self, *shape: int, positive: bool = False, scale: float | None = None) -> str:
        """A float weight: new, or one that is there already."""
        known = self.weights.setdefault((*shape, int(positive)), [])
        if known and self.chance(12):
            return str(self.pick(known))
        fan = max(int(np.prod(shape[1:])), 1) if len(shape) > 1 else 4
        array = self.rng.standard_normal(shape) / np.sqrt(fan) if scale is None else self.rng.standard_normal(shape) * scale
        array = np.asarray(np.abs(array) + 0.5 if positive else array, np.float32)
        form = self.number(0, 11)
        if form == 11 and len(shape) >= 2:
            perm = list(range(len(shape)))[::-1]
            stored = self.constant(np.ascontiguousarray(array.transpose(perm)))
            name = self.op("Transpose", stored, shape=shape, perm=perm).name
        elif form == 10 and len(shape) >= 2:
            stored = self.constant(array.ravel())
            name = self.op("Reshape", stored, self.ints(*shape), shape=shape).name
        elif form == 9:
            name = self.op("Identity", self.constant(array), shape=shape).name
        else:
            name = self.constant(array, node=form == 8)
        known.append(name)
        return name

    # ---- operators that changed over the opsets ----

    def axes_op(self, op: str, x: Tensor, axes: Sequence[int], shape: Sequence[int], since: int, **attrs: Any) -> Tensor:
        if self.opset < since:
            return self.op(op, x, shape=shape, axes=list(axes), **attrs)
        return self.op(op, x, self.ints(*axes), shape=shape, **attrs)

    def reduce(self, op: str, x: Tensor, axes: Sequence[int], *, keep: bool = True) -> Tensor:
        axes = [a % x.rank for a in axes]
        shape = [1 if a in axes else n for a, n in enumerate(x.shape) if keep or a not in axes]
        given = [a - x.rank if self.chance(30) and self.opset >= 11 else a for a in axes]
        return self.axes_op(op, x, given, shape, 13 if op == "ReduceSum" else 18, keepdims=int(keep))

    def unsqueeze(self, x: Tensor, axis: int) -> Tensor:
        return self.axes_op("Unsqueeze", x, [axis], (*x.shape[:axis], 1, *x.shape[axis:]), 13)

    def squeeze(self, x: Tensor, axis: int) -> Tensor:
        return self.axes_op("Squeeze", x, [axis], (*x.shape[:axis], *x.shape[axis + 1 :]), 13)

    def split(self, x: Tensor, axis: int, sizes: Sequence[int]) -> list[Tensor]:
        shapes = [(*x.shape[:axis], n, *x.shape[axis + 1 :]) for n in sizes]
        given = axis - x.rank if self.chance(30) and self.opset >= 11 else axis
        equal = len(set(sizes)) == 1 and self.chance(50)
        if self.opset < 13:
            return self.add("Split", x, shapes=shapes, axis=given, **({} if equal else {"split": list(sizes)}))
        if equal and self.opset >= 18:
            return self.add("Split", x, shapes=shapes, axis=given, num_outputs=len(sizes))
        if equal:
            return self.add("Split", x, shapes=shapes, axis=given)
        return self.add("Split", x, self.ints(*sizes), shapes=shapes, axis=given)

    def slice(self, x: Tensor, axis: int, start: int, stop: int, step: int = 1) -> Tensor:
        size = x.shape[axis]
        picked = range(size)[slice(start, stop, step)]
        if not len(picked):
            raise Skip
        shape = (*x.shape[:axis], len(picked), *x.shape[axis + 1 :])
        start = start - size if start and self.chance(25) else start
        stop = 2**31 if stop == size and self.chance(40) else stop - size if stop < size and self.chance(25) else stop
        if self.opset < 10:
            if step != 1:
                raise Skip
            return self.op("Slice", x, shape=shape, starts=[start], ends=[stop], axes=[axis])
        inputs = [self.ints(start), self.ints(stop), self.ints(axis)] + (
            [self.ints(step)] if step != 1 or self.chance(50) else []
        )
        return self.op("Slice", x, *inputs, shape=shape)

    def clip(self, x: Tensor, low: float, high: float) -> Tensor:
        if self.opset < 11:
            return self.unary("Clip", x, min=low, max=high)
        return self.op("Clip", x, self.constant(np.float32(low)), self.constant(np.float32(high)), shape=x.shape)

    def softmax(self, x: Tensor, axis: int = -1) -> Tensor:
        if self.opset < 13 and axis not in (-1, x.rank - 1):
            raise Skip
        return self.unary("Softmax", x, axis=x.rank - 1 if self.opset < 11 else axis)

    def pad(self, x: Tensor, axis: int, begin: int, end: int, value: float, mode: str = "constant") -> Tensor:
        pads = [0] * (2 * x.rank)
        pads[axis], pads[axis + x.rank] = begin, end
        shape = [n + (begin + end if a == axis else 0) for a, n in enumerate(x.shape)]
        if self.opset < 11:
            return self.op("Pad", x, shape=shape, pads=pads, value=value, mode=mode)
        if mode != "constant":
            return self.op("Pad", x, self.ints(*pads), shape=shape, mode=mode)
        return self.op("Pad", x, self.ints(*pads), self.constant(np.float32(value)), shape=shape)

    def transpose(self, x: Tensor, *perm: int) -> Tensor:
        return self.op("Transpose", x, shape=[x.shape[p] for p in perm], perm=list(perm))

    def length(self, x: Tensor, dim: Dim) -> Tensor:
        """Shape(x)[axis] * times // over as a tensor of shape (1)."""
        shape = self.op("Shape", x, shape=(x.rank,))
        if self.chance(50):
            scalar = self.op("Gather", shape, self.constant(np.int64(dim.axis)), shape=(), axis=0)
            value = self.unsqueeze(scalar, 0)
        else:
            value = self.slice(shape, 0, dim.axis, dim.axis + 1)
        if dim.times > 1:
            value = self.op("Mul", value, self.ints(dim.times), shape=(1,))
        if dim.over > 1:
            value = self.op("Div", value, self.ints(dim.over), shape=(1,))
        return value

    def reshape(self, x: Tensor, *target: int | Dim) -> Tensor:
        """At most one -1. Lengths that hold the batch have to be `Dim`s."""
        sizes = [t if isinstance(t, int) else x.shape[t.axis] * t.times // t.over for t in target]
        total = int(np.prod(x.shape))
        if -1 in sizes:
            sizes[sizes.index(-1)] = total // -int(np.prod(sizes))
        assert int(np.prod(sizes)) == total, (x.shape, target)
        if self.chance(30):
            parts: list[Tensor | str] = []
            for t in target:
                parts.append(self.ints(t) if isinstance(t, int) else self.length(x, t))
            whole = self.op("Concat", *parts, shape=(len(parts),), axis=0) if len(parts) > 1 else parts[0]
            return self.op("Reshape", x, whole, shape=sizes)
        given = []
        free = -1 not in target
        for k, (t, size) in enumerate(zip(target, sizes, strict=True)):
            if isinstance(t, int):
                given.append(t)
            elif t == Dim(k) and self.chance(60):
                given.append(0)
            elif t.axis == 0 and self.dynamic:
                if free:
                    given.append(-1)
                    free = False
                elif t == Dim(k):
                    given.append(0)
                else:
                    raise Skip
            elif free and self.chance(20):
                given.append(-1)
                free = False
            else:
                given.append(size)
        return self.op("Reshape", x, self.ints(*given), shape=sizes)

    # ---- layers ----

    def bias(self, x: Tensor, axis: int) -> Tensor:
        shape = [1] * x.rank
        shape[axis] = x.shape[axis]
        keep = shape if self.chance(30) else shape[axis:]
        return self.binary("Add", *((x, self.weight(*keep)) if self.chance(70) else (self.weight(*keep), x)), like=x)

    def linear(self, x: Tensor, width: int, *, bias: bool | None = None) -> Tensor:
        """(.., C) to (.., width)."""
        c = x.shape[-1]
        form = self.number(0, 3)
        if x.rank == 2 and form < 2:
            trans = self.chance(50)
            w = self.weight(width, c) if trans else self.weight(c, width)
            extra = [self.weight(width)] if bias or (bias is None and self.chance(60)) else []
            if self.opset < 11 and not extra:
                extra = [self.weight(width)]
            return self.op("Gemm", x, w, *extra, shape=(x.shape[0], width), transB=int(trans))
        if form == 2 and self.opset >= 12:
            letters = "abcde"[: x.rank]
            if self.chance(50):
                equation, w = f"{letters},{letters[-1]}z->{letters[:-1]}z", self.weight(c, width)
            else:
                equation, w = f"{letters},z{letters[-1]}->{letters[:-1]}z", self.weight(width, c)
            y = self.op("Einsum", x, w, shape=(*x.shape[:-1], width), equation=equation)
        else:
            y = self.op("MatMul", x, self.weight(c, width), shape=(*x.shape[:-1], width))
        return self.bias(y, y.rank - 1) if bias or (bias is None and self.chance(60)) else y

    def conv(self, x: Tensor, width: int, *, kernel: int = 1, group: int = 1, stride: int = 1) -> Tensor:
        n, c, *spatial = x.shape
        pad = kernel // 2
        out = [(s + 2 * pad - kernel) // stride + 1 for s in spatial]
        if min(out) < 1:
            raise Skip
        extra = [self.weight(width)] if self.chance(50) else []
        r = len(spatial)
        w = self.weight(width, c // group, *[kernel] * r)
        return self.op(
            "Conv", x, w, *extra, shape=(n, width, *out), kernel_shape=[kernel] * r, pads=[pad] * (2 * r), group=group,
            strides=[stride] * r,
        )  # fmt: skip

    def act(self, x: Tensor) -> Tensor:
        kind = self.pick(["Relu", "Sigmoid", "Tanh", "LeakyRelu", "none", "silu", "hardswish", "gelu", "Softplus", "Elu"])
        if kind == "none":
            return x
        if kind == "silu":
            return self.binary("Mul", x, self.unary("Sigmoid", x), like=x)
        if kind == "hardswish":
            return self.binary("Mul", x, self.unary("HardSigmoid", x, alpha=1 / 6, beta=0.5), like=x)
        if kind == "gelu":
            if self.opset >= 20:
                return self.unary("Gelu", x)
            inner = self.unary("Erf", self.binary("Div", x, self.constant(np.float32(1.4142)), like=x))
            inner = self.binary("Add", inner, self.constant(np.float32(1)), like=x)
            return self.binary("Mul", self.binary("Mul", x, inner, like=x), self.constant(np.float32(0.5)), like=x)
        return self.unary(kind, x)

    def same_shape(self, x: Tensor) -> Tensor:
        """Another value of this shape, from the pool where there is one."""
        others = [t for t in self.pool if t.shape == x.shape and t.name != x.name]
        return self.pick(others) if others and self.chance(70) else x

    def project(self, x: Tensor, width: int) -> Tensor:
        return self.conv(x, width) if x.rank == 4 else self.linear(x, width)


def channel(x: Tensor) -> int:
    """The axis that holds channels."""
    return 1 if x.rank in (2, 4) else 2


def resized(x: Tensor, axis: int, size: int) -> tuple[int, ...]:
    return (*x.shape[:axis], size, *x.shape[axis + 1 :])


# ---- blocks for all kinds ----


@block(2, 3, 4)
def project(net: Net, x: Tensor) -> Tensor:
    return net.act(net.project(x, net.width()))


@block(2, 3, 4)
def activation(net: Net, x: Tensor) -> Tensor:
    simple = ["Relu", "Elu", "Selu", "Shrink", "Tanh", "Erf", "Abs", "Neg", "Sign", "Sin", "Atan", "Asinh",
              "Softsign", "Identity", "Sigmoid", "HardSigmoid", "Exp", "Softplus", "Cos", "Dropout"]  # fmt: skip
    simple += ["ThresholdedRelu"] if net.opset >= 10 else []
    simple += ["Celu"] if net.opset >= 12 else []
    simple += ["HardSwish"] if net.opset >= 14 else []
    simple += ["Mish"] if net.opset >= 18 else []
    simple += ["Floor", "Ceil"] + (["Round"] if net.opset >= 11 else [])
    kind = net.pick([*simple, "clip", "cast", "prelu", "pow", "div", "where", "castlike"])
    if kind == "Exp":
        x = net.unary("Tanh", x)
    if kind == "clip":
        return net.clip(x, *net.pick([(-1.0, 1.0), (0.0, 6.0), (0.25, 2.0), (-3.0, -0.5)]))
    if kind == "cast":
        return net.unary("Cast", net.unary("Cast", x, to=TensorProto.DOUBLE), to=TensorProto.FLOAT)
    if kind == "castlike":
        if net.opset < 15:
            raise Skip
        return net.op("CastLike", x, net.weight(4), shape=x.shape)
    if kind == "prelu":
        shape = [1] * x.rank
        shape[channel(x)] = x.shape[channel(x)]
        return net.op("PRelu", x, net.weight(*shape[channel(x) :]), shape=x.shape)
    if kind == "pow":
        return net.binary("Pow", x, net.constant(np.float32(net.pick([2.0, 3.0]))), like=x)
    if kind == "div":
        shape = [1] * x.rank
        shape[channel(x)] = x.shape[channel(x)]
        return net.binary("Div", x, net.weight(*shape, positive=True), like=x)
    if kind == "where":
        limit = net.constant(np.float32(net.pick([0.0, 0.3])))
        mask = net.op("Greater", x, limit, shape=x.shape)
        return net.op("Where", mask, x, net.pick([net.constant(np.float32(0.1)), net.same_shape(x)]), shape=x.shape)
    return net.unary(kind, x)


@block(2, 3, 4)
def binary(net: Net, x: Tensor) -> Tensor:
    y = net.same_shape(x)
    op = net.pick(["Add", "Add", "Sub", "Mul", "Max", "Min", "Sum", "Mean"])
    return net.binary(op, x, y, like=x)


@block(2, 3, 4)
def residual(net: Net, x: Tensor) -> Tensor:
    y = net.act(net.project(x, net.width()))
    y = net.project(y, x.shape[channel(x)])
    return net.act(net.binary("Add", *(net.pick([(x, y), (y, x)])), like=x))


@block(2, 3, 4)
def constant_operand(net: Net, x: Tensor) -> Tensor:
    """A weight of full size, of the channels alone, or a scalar."""
    axis = channel(x)
    shapes = [x.shape[1:], resized(Tensor("", (1,) * x.rank), axis, x.shape[axis]), (1,), ()]
    shape = net.pick(shapes)
    w = net.weight(*shape) if len(shape) else net.constant(np.float32(0.7))
    return net.binary(net.pick(["Add", "Mul", "Sub"]), *((x, w) if net.chance(70) else (w, x)), like=x)


@block(2, 3, 4)
def concat(net: Net, x: Tensor) -> Tensor:
    axis = channel(x)
    fits = [t for t in net.pool if t.rank == x.rank and resized(t, axis, 1) == resized(x, axis, 1)]
    parts = [x, *[net.pick(fits) for _ in range(net.number(1, 2))]] if fits else [x, x]
    if net.chance(30):
        parts = parts[::-1]
    total = sum(p.shape[axis] for p in parts)
    if total > 24:
        raise Skip
    given = axis - x.rank if net.opset >= 11 and net.chance(30) else axis
    return net.op("Concat", *parts, shape=resized(x, axis, total), axis=given)


@block(2, 3, 4)
def concat_constant(net: Net, x: Tensor) -> Tensor:
    """A weight appended along the channels (batch 1) or the sequence."""
    if net.dynamic or x.rank == 4:
        raise Skip
    axis = net.pick([1, x.rank - 1])
    extra = net.weight(*resized(x, axis, 2))
    return net.op("Concat", x, extra, shape=resized(x, axis, x.shape[axis] + 2), axis=axis)


@block(2, 3, 4)
def gated_split(net: Net, x: Tensor) -> Tensor:
    """GLU, maxout and their kin."""
    axis = channel(x)
    parts = net.divisor(x.shape[axis])
    if parts > 3:
        raise Skip
    size = x.shape[axis] // parts
    halves = net.split(x, axis, [size] * parts)
    y = net.unary("Sigmoid", halves[0]) if net.chance(50) else halves[0]
    return net.op(net.pick(["Mul", "Max", "Add"]), y, halves[1], shape=y.shape)


@block(2, 3, 4)
def split_apart(net: Net, x: Tensor) -> Tensor:
    """Unequal parts, each goes its way, some come together again."""
    axis = channel(x)
    size = x.shape[axis]
    if size < 3:
        raise Skip
    cut = net.number(1, size - 1)
    a, b = net.split(x, axis, [cut, size - cut])
    net.pool.append(b)
    if net.chance(50):
        return net.act(a)
    parts = [net.act(a), net.act(b)]
    if net.chance(50):
        parts.reverse()
    return net.op("Concat", *parts, shape=x.shape, axis=axis)


@block(2, 3, 4)
def slice_channels(net: Net, x: Tensor) -> Tensor:
    axis = channel(x)
    size = x.shape[axis]
    if size < 3:
        raise Skip
    start = net.number(0, size - 2)
    stop = net.number(start + 1, size)
    return net.slice(x, axis, start, stop, net.pick([1, 1, 1, 2]))


@block(2, 3, 4)
def rotate_channels(net: Net, x: Tensor) -> Tensor:
    """Two slices in the other order, as rotary embeddings do."""
    axis = channel(x)
    if x.shape[axis] % 2:
        raise Skip
    half = x.shape[axis] // 2
    a, b = net.slice(x, axis, 0, half), net.slice(x, axis, half, 2 * half)
    y = net.op("Concat", net.unary("Neg", b), a, shape=x.shape, axis=axis)
    return net.binary("Add", x, y, like=x) if net.chance(60) else y


@block(2, 3, 4)
def gather_channels(net: Net, x: Tensor) -> Tensor:
    axis = channel(x)
    picked = [net.number(0, x.shape[axis] - 1) for _ in range(net.number(2, x.shape[axis] + 1))]
    if net.chance(50):
        picked = list(net.rng.permutation(x.shape[axis]))
    return net.op("Gather", x, net.ints(*picked), shape=resized(x, axis, len(picked)), axis=axis)


@block(2, 3, 4)
def pad_channels(net: Net, x: Tensor) -> Tensor:
    return net.pad(x, channel(x), net.number(0, 1), net.number(1, 2), net.pick([0.0, 0.5]))


@block(2, 3, 4)
def shuffle(net: Net, x: Tensor) -> Tensor:
    """Channels as (groups, rest), transposed and merged."""
    axis = channel(x)
    g = net.divisor(x.shape[axis])
    if g == x.shape[axis]:
        raise Skip
    before = [Dim(a) for a in range(axis)]
    after = [Dim(a) for a in range(axis + 1, x.rank)]
    rest: int | Dim = Dim(axis, 1, g) if net.chance(40) else x.shape[axis] // g
    split = net.reshape(x, *before, *([g, rest] if net.chance(50) else [rest, g]), *after)
    order = list(range(split.rank))
    order[axis], order[axis + 1] = axis + 1, axis
    y = net.transpose(split, *order)
    if net.chance(30):
        y = net.act(y)
    merged: int | Dim = -1 if net.chance(50) and net.chance(50) else x.shape[axis]
    return net.reshape(y, *before, merged, *[Dim(a) for a in range(axis + 2, y.rank)])


@block(2, 3, 4)
def per_group(net: Net, x: Tensor) -> Tensor:
    """Channels as (groups, rest) with something that works along one of them."""
    axis = channel(x)
    g = net.divisor(x.shape[axis])
    if g == x.shape[axis]:
        raise Skip
    before = [Dim(a) for a in range(axis)]
    after = [Dim(a) for a in range(axis + 1, x.rank)]
    split = net.reshape(x, *before, g, x.shape[axis] // g, *after)
    along = net.pick([axis, axis + 1])
    how = net.pick(["softmax", "sum", "mean", "max", "scale", "norm", "slice", "cumsum"])
    if how == "softmax":
        if net.opset < 13:
            raise Skip
        y = net.softmax(split, along)
    elif how == "scale":
        shape = [1] * split.rank
        shape[along] = split.shape[along]
        y = net.binary("Mul", split, net.weight(*shape), like=split)
    elif how == "norm":
        y = net.unary("LpNormalization", split, axis=along, p=2)
    elif how == "cumsum":
        if net.opset < 11:
            raise Skip
        y = net.op("CumSum", split, net.constant(np.int64(along)), shape=split.shape)
    elif how == "slice":
        y = net.slice(split, along, net.number(0, 1), split.shape[along])
        return net.reshape(y, *before, y.shape[axis] * y.shape[axis + 1], *[Dim(a) for a in range(axis + 2, y.rank)])
    else:
        op = {"sum": "ReduceSum", "mean": "ReduceMean", "max": "ReduceMax"}[how]
        return net.reduce(op, split, [along], keep=False)
    return net.reshape(y, *before, x.shape[axis], *[Dim(a) for a in range(axis + 2, y.rank)])


@block(2, 3, 4)
def tile(net: Net, x: Tensor) -> Tensor:
    axis = channel(x)
    repeats = [1] * x.rank
    repeats[axis] = 2
    return net.op("Tile", x, net.ints(*repeats), shape=resized(x, axis, 2 * x.shape[axis]))


@block(2, 3, 4)
def repeat_channels(net: Net, x: Tensor) -> Tensor:
    """Unsqueeze, Expand, Reshape: each channel twice in a row."""
    axis, times = channel(x), 2
    y = net.unsqueeze(x, axis + 1)
    shape = [1] * y.rank
    shape[axis + 1] = times
    if net.chance(50):
        shape[axis] = x.shape[axis]
    y = net.op("Expand", y, net.ints(*shape), shape=resized(y, axis + 1, times))
    before, after = [Dim(a) for a in range(axis)], [Dim(a) for a in range(axis + 2, y.rank)]
    return net.reshape(y, *before, times * x.shape[axis], *after)


@block(2, 3, 4)
def reduce_channels(net: Net, x: Tensor) -> Tensor:
    """A gate from a reduction over channels."""
    axis = channel(x)
    op = net.pick(["ReduceSum", "ReduceMean", "ReduceMax", "ReduceL2", "ReduceSumSquare", "ReduceL1", "ReduceLogSumExp"])
    x = net.act(x)
    gate = net.unary("Sigmoid", net.reduce(op, x, [axis]))
    return net.binary("Mul", x, gate, like=x)


@block(2, 3, 4)
def softmax_channels(net: Net, x: Tensor) -> Tensor:
    """All channels compete."""
    op = net.pick(["Softmax", "Softmax", "LogSoftmax", "CumSum"])
    axis = channel(x)
    if net.opset < 13:
        raise Skip
    if op == "CumSum":
        return net.op("CumSum", x, net.constant(np.int64(axis)), shape=x.shape)
    y = net.unary(op, x, axis=axis - x.rank if net.chance(50) else axis)
    return net.binary("Mul", x, y, like=x) if net.chance(50) else y


@block(2, 3, 4)
def divided(net: Net, x: Tensor) -> Tensor:
    """By a weight per channel, or by another value that is never 0."""
    axis = channel(x)
    if net.chance(60):
        shape = [1] * x.rank
        shape[axis] = x.shape[axis]
        return net.binary("Div", x, net.weight(*shape, positive=True), like=x)
    return net.binary("Div", x, net.unary("Softplus", net.unary("Tanh", net.same_shape(x))), like=x)


@block(3)
def similarity(net: Net, x: Tensor) -> Tensor:
    """A product of two values over their channels, behind something that is not 0 at 0."""
    width = net.width()
    a, b = (net.linear(x, width) for _ in range(2))
    a = net.unary(net.pick(["Sigmoid", "Relu", "Exp"]), net.unary("Tanh", a))
    b = net.unary("Sigmoid", b) if net.chance(60) else b
    y = net.op("MatMul", a, net.transpose(b, 0, 2, 1), shape=(x.shape[0], x.shape[1], x.shape[1]))
    return net.op("MatMul", net.softmax(y), x, shape=x.shape)


@block(2, 3, 4)
def batch_norm(net: Net, x: Tensor) -> Tensor:
    if x.rank == 3:
        x = net.transpose(x, 0, 2, 1)
    c = x.shape[1]
    w = [net.weight(c) for _ in range(3)] + [net.weight(c, positive=True)]
    y = net.op("BatchNormalization", x, *w, shape=x.shape, epsilon=1e-3)
    return net.transpose(y, 0, 2, 1) if x.rank == 3 else y


@block(2, 3, 4)
def two_outputs_if(net: Net, x: Tensor) -> Tensor:
    """If on a shape: both branches scale by weights of their own."""
    if net.opset < 11:
        raise Skip
    axis = channel(x)
    shape = [1] * x.rank
    shape[axis] = x.shape[axis]
    a, b = net.weight(*shape), net.weight(*shape)
    size = net.op("Size", x, shape=())
    test = net.op("Greater", size, net.constant(np.int64(net.pick([1, 10**6]))), shape=())
    graphs = []
    for w, op in ((a, "Mul"), (b, net.pick(["Mul", "Add"]))):
        out = net.name("branch")
        info = helper.make_tensor_value_info(out, TensorProto.FLOAT, None)
        graphs.append(
            helper.make_graph([helper.make_node(op, [x.name, w], [out], name=net.name("n"))], net.name("g"), [], [info])
        )
    return net.op("If", test, shape=x.shape, then_branch=graphs[0], else_branch=graphs[1])


@block(2, 3, 4)
def quantized(net: Net, x: Tensor) -> Tensor:
    """A weight in int8 behind DequantizeLinear, per channel or as a whole."""
    if x.rank != 3 and x.rank != 2:
        raise Skip
    c, width = x.shape[-1], net.width()
    if net.opset < 13:
        raise Skip
    array = net.constant(net.rng.integers(-9, 9, (c, width)).astype(np.int8))
    per_axis = net.chance(60)
    scale = np.abs(net.rng.standard_normal(width if per_axis else ())) * 0.1 + 0.02
    point = net.constant(np.zeros(width if per_axis else (), np.int8))
    w = net.op("DequantizeLinear", array, net.constant(np.float32(scale)), point, shape=(c, width), axis=1)
    return net.op("MatMul", x, w, shape=(*x.shape[:-1], width))


@block(2, 3, 4)
def side_output(net: Net, x: Tensor) -> Tensor:
    """A value that is used twice."""
    y = net.act(net.project(x, net.width()))
    net.pool.append(y)
    return x


@block(2, 3, 4)
def discrete(net: Net, x: Tensor) -> Tensor:
    """The best positions become an output of their own; the value goes on."""
    axis = channel(x)
    if net.chance(50):
        y = net.op("ArgMax", x, shape=resized(x, axis, 1), axis=axis)
    elif net.opset >= 11:
        y = net.add("TopK", x, net.ints(1), shapes=[resized(x, axis, 1)] * 2, axis=axis)[1]
    else:
        raise Skip
    net.positions.append(y)
    return x


# ---- images ----


@block(4)
def convolution(net: Net, x: Tensor) -> Tensor:
    return net.act(net.conv(x, net.width(), kernel=net.pick([1, 3]), stride=net.pick([1, 1, 2])))


@block(4)
def grouped_convolution(net: Net, x: Tensor) -> Tensor:
    g = net.divisor(x.shape[1])
    per = net.number(1, 3)
    return net.act(net.conv(x, g * per, kernel=net.pick([1, 3]), group=g))


@block(4)
def depthwise(net: Net, x: Tensor) -> Tensor:
    if x.shape[1] < 2:
        raise Skip
    return net.act(net.conv(x, x.shape[1] * net.pick([1, 1, 2]), kernel=3, group=x.shape[1]))


@block(4)
def conv_transpose(net: Net, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    if h > 8:
        raise Skip
    g = net.divisor(c, 1)
    per = net.number(1, 3)
    extra = [net.weight(g * per)] if net.chance(50) else []
    weight = net.weight(c, per, 2, 2)
    return net.op(
        "ConvTranspose", x, weight, *extra, shape=(n, g * per, 2 * h, 2 * w), group=g, kernel_shape=[2, 2], strides=[2, 2]
    )


@block(4)
def pooling(net: Net, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    if h % 2 or w % 2:
        raise Skip
    op = net.pick(["MaxPool", "AveragePool", "LpPool"])
    return net.op(op, x, shape=(n, c, h // 2, w // 2), kernel_shape=[2, 2], strides=[2, 2])


@block(4)
def norm_image(net: Net, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    if h * w < 4:
        raise Skip
    kind = net.pick(["instance", "group", "lrn", "decomposed", "layer"])
    if kind == "instance":
        return net.op("InstanceNormalization", x, net.weight(c), net.weight(c), shape=x.shape, epsilon=1e-2)
    if kind == "lrn":
        return net.unary("LRN", x, size=3, alpha=0.1)
    if kind == "layer":
        y = layer_norm(net, net.transpose(x, 0, 2, 3, 1))
        return net.transpose(y, 0, 3, 1, 2)
    g = net.divisor(c, 1)
    if kind == "group":
        if net.opset < 21:  # onnx infers no shapes for the deprecated form of opset 18
            raise Skip
        return net.op("GroupNormalization", x, net.weight(c), net.weight(c), shape=x.shape, num_groups=g, epsilon=1e-2)
    flat = net.reshape(x, Dim(0), g, -1)
    y = net.op(
        "InstanceNormalization",
        flat,
        net.constant(np.ones(g, np.float32)),
        net.constant(np.zeros(g, np.float32)),
        shape=flat.shape,
        epsilon=1e-2,
    )
    y = net.reshape(y, -1, c, h, w)
    y = net.binary("Mul", y, net.weight(c, 1, 1), like=y)
    return net.binary("Add", y, net.weight(c, 1, 1), like=y)


@block(4)
def squeeze_excite(net: Net, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    y = net.op("GlobalAveragePool", x, shape=(n, c, 1, 1)) if net.chance(50) else net.reduce("ReduceMean", x, [2, 3])
    y = net.conv(net.unary("Relu", net.conv(y, net.width())), c)
    return net.binary("Mul", x, net.unary("Sigmoid", y), like=x)


@block(4)
def resize(net: Net, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    if h > 8:
        raise Skip
    shape = (n, c, 2 * h, 2 * w)
    scales = net.constant(np.array([1, 1, 2, 2], np.float32), node=False)
    if net.opset < 10:
        return net.op("Upsample", x, scales, shape=shape, mode="nearest")
    if net.opset < 11:
        return net.op("Resize", x, scales, shape=shape, mode="nearest")
    attrs = {"mode": net.pick(["nearest", "linear"]), "coordinate_transformation_mode": "asymmetric"}
    roi = empty = net.constant(np.zeros(0, np.float32), node=False) if net.opset < 13 else ""
    if net.chance(50) and not net.dynamic:
        return net.op("Resize", x, roi, empty, net.ints(*shape), shape=shape, **attrs)
    return net.op("Resize", x, roi, scales, shape=shape, **attrs)


@block(4)
def depth_space(net: Net, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    if c % 4 == 0 and h <= 8:
        mode = {"mode": net.pick(["DCR", "CRD"])} if net.opset >= 11 else {}
        return net.op("DepthToSpace", x, shape=(n, c // 4, 2 * h, 2 * w), blocksize=2, **mode)
    if h % 2 == 0 and w % 2 == 0 and c <= 4:
        return net.op("SpaceToDepth", x, shape=(n, c * 4, h // 2, w // 2), blocksize=2)
    raise Skip


@block(4)
def spatial_gate(net: Net, x: Tensor) -> Tensor:
    mean, top = net.reduce("ReduceMean", x, [1]), net.reduce("ReduceMax", x, [1])
    both = net.op("Concat", mean, top, shape=resized(x, 1, 2), axis=1)
    return net.binary("Mul", x, net.unary("Sigmoid", net.conv(both, 1, kernel=3)), like=x)


@block(4)
def spatial_pad(net: Net, x: Tensor) -> Tensor:
    if x.shape[2] > 8 or x.shape[2] < 2:
        raise Skip
    return net.pad(x, 2, 1, 1, 0.25, net.pick(["constant", "reflect", "edge"]))


@block(4)
def windows(net: Net, x: Tensor) -> Tensor:
    """Window partition, a linear layer in each window, and back."""
    n, c, h, w = x.shape
    if h % 2 or w % 2:
        raise Skip
    y = net.reshape(x, Dim(0), c, h // 2, 2, w // 2, 2)
    y = net.transpose(y, 0, 2, 4, 3, 5, 1)
    y = net.reshape(y, -1, 4, c)
    width = net.width()
    y = net.linear(y, width)
    y = net.reshape(y, -1, h // 2, w // 2, 2, 2, width)
    y = net.transpose(y, 0, 5, 1, 3, 2, 4)
    return net.reshape(y, -1, width, h, w)


@block(4)
def local_attention(net: Net, x: Tensor) -> Tensor:
    """Heads from convolutions: (N, heads, d, positions)."""
    n, c, h, w = x.shape
    heads, d = net.pick([2, 3]), net.pick([2, 4])
    q, k, v = (net.reshape(net.conv(x, heads * d), Dim(0), heads, d, h * w) for _ in range(3))
    s = net.op("MatMul", net.transpose(q, 0, 1, 3, 2), k, shape=(n, heads, h * w, h * w))
    s = net.softmax(s)
    y = net.op("MatMul", v, net.transpose(s, 0, 1, 3, 2), shape=v.shape)
    return net.reshape(y, Dim(0), heads * d, h, w)


@block(4)
def image_to_sequence(net: Net, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    if h * w > 16:
        raise Skip
    return net.transpose(net.reshape(x, Dim(0), Dim(1) if net.chance(50) else c, h * w), 0, 2, 1)


@block(4)
def image_to_vector(net: Net, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    how = net.pick(["pool", "mean", "flatten", "max", "reshape"])
    if how == "flatten" or how == "reshape":
        if c * h * w > 128:
            raise Skip
        if how == "flatten":
            return net.op("Flatten", x, shape=(n, c * h * w), axis=1)
        return net.reshape(x, Dim(0), -1)
    if how == "mean":
        return net.reduce("ReduceMean", x, [2, 3], keep=False)
    y = net.op("GlobalAveragePool" if how == "pool" else "GlobalMaxPool", x, shape=(n, c, 1, 1))
    if net.chance(50):
        return net.op("Flatten", y, shape=(n, c))
    return net.squeeze(net.squeeze(y, 3), 2)


# ---- sequences ----


@block(3)
def layer_norm(net: Net, x: Tensor) -> Tensor:
    c = x.shape[-1]
    if net.opset >= 17 and net.chance(50):
        extra = [net.weight(c)] if net.chance(70) else []
        return net.op("LayerNormalization", x, net.weight(c, positive=True), *extra, shape=x.shape, axis=-1, epsilon=1e-2)
    centred = x
    if net.chance(60):
        centred = net.binary("Sub", x, net.reduce("ReduceMean", x, [x.rank - 1]), like=x)
    square = (
        net.binary("Pow", centred, net.constant(np.float32(2)), like=x)
        if net.chance(50)
        else net.binary("Mul", centred, centred, like=x)
    )
    mean = net.reduce("ReduceMean", square, [x.rank - 1])
    root = net.unary("Sqrt", net.binary("Add", mean, net.constant(np.float32(1e-2)), like=mean))
    y = (
        net.binary("Div", centred, root, like=x)
        if net.chance(50)
        else net.binary("Mul", centred, net.unary("Reciprocal", root), like=x)
    )
    return net.bias(net.binary("Mul", y, net.weight(c), like=y), y.rank - 1)


def heads_of(net: Net, x: Tensor, heads: int) -> Tensor:
    """(N, S, h * d) to (N, h, S, d)."""
    d = x.shape[-1] // heads
    form: list[int | Dim] = [heads, d] if net.chance(70) else [heads, -1]
    return net.transpose(net.reshape(x, Dim(0), Dim(1), *form), 0, 2, 1, 3)


def merge_heads(net: Net, x: Tensor) -> Tensor:
    n, h, s, d = x.shape
    y = net.transpose(x, 0, 2, 1, 3)
    return net.reshape(y, Dim(0), Dim(1), h * d if net.chance(60) else -1)


def scores_times_values(net: Net, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k' + mask) v of (N, h, S, d)."""
    n, h, s, d = q.shape
    t = k.shape[2]
    if net.opset >= 12 and net.chance(30):
        score = net.op("Einsum", q, k, shape=(n, h, s, t), equation="bhqd,bhkd->bhqk")
    else:
        score = net.op("MatMul", q, net.transpose(k, 0, 1, 3, 2), shape=(n, h, s, t))
    score = net.binary("Mul", score, net.constant(np.float32(1 / np.sqrt(d))), like=score)
    extra = net.pick(["none", "mask", "per head"])
    if extra == "mask":
        score = net.binary("Add", score, net.constant(np.triu(np.full((s, t), -9.0, np.float32), 1)), like=score)
    if extra == "per head":
        score = net.binary("Add", score, net.weight(h, s, t), like=score)
    score = net.softmax(score)
    return net.op("MatMul", score, v, shape=(n, h, s, v.shape[-1]))


def rotary(net: Net, x: Tensor) -> Tensor:
    """Rotary embedding of (N, h, S, d): halves or neighbours."""
    n, h, s, d = x.shape
    if d % 2:
        return x
    angles = net.rng.standard_normal((1, 1, s, d // 2))
    cos, sin = (
        net.constant(np.concatenate([f(angles)] * 2, axis=-1).astype(np.float32), node=False) for f in (np.cos, np.sin)
    )
    if net.chance(60) or net.opset < 10:
        a, b = net.slice(x, 3, 0, d // 2), net.slice(x, 3, d // 2, d)
        turned = net.op("Concat", net.unary("Neg", b), a, shape=x.shape, axis=3)
    else:
        a, b = net.slice(x, 3, 0, d, 2), net.slice(x, 3, 1, d, 2)
        a, b = net.unsqueeze(a, 4), net.unsqueeze(net.unary("Neg", b), 4)
        both = net.op("Concat", b, a, shape=(n, h, s, d // 2, 2), axis=4)
        turned = net.reshape(both, Dim(0), h, s, d)
    return net.binary("Add", net.binary("Mul", x, cos, like=x), net.binary("Mul", turned, sin, like=x), like=x)


@block(3)
def attention(net: Net, x: Tensor) -> Tensor:
    """Separate projections."""
    heads, d = net.pick([2, 3, 4]), net.pick([2, 3, 4])
    dv = d if net.chance(70) else net.pick([2, 3])
    other = net.pick([t for t in net.pool if t.rank == 3 and t.shape[0] == x.shape[0]] + [x])
    q = heads_of(net, net.linear(x, heads * d), heads)
    k = heads_of(net, net.linear(other, heads * d), heads)
    v = heads_of(net, net.linear(other, heads * dv), heads)
    if net.chance(40) and other.shape[1] == x.shape[1]:
        q, k = rotary(net, q), rotary(net, k)
    return net.linear(merge_heads(net, scores_times_values(net, q, k, v)), x.shape[-1])


@block(3)
def fused_attention_projection(net: Net, x: Tensor) -> Tensor:
    """One projection for query, key and value, taken apart in one of several ways."""
    n, s, c = x.shape
    heads, d = net.pick([2, 3]), net.pick([2, 4])
    packed = net.linear(x, 3 * heads * d)
    how = net.pick(["split", "leading", "three heads", "heads three", "gather"])
    if how == "split":
        q, k, v = (heads_of(net, part, heads) for part in net.split(packed, 2, [heads * d] * 3))
    elif how == "leading" or how == "gather":
        y = net.transpose(net.reshape(packed, Dim(0), Dim(1), 3, heads, d), 2, 0, 3, 1, 4)
        if how == "gather":
            q, k, v = (net.op("Gather", y, net.constant(np.int64(i)), shape=y.shape[1:], axis=0) for i in range(3))
        else:
            q, k, v = (net.squeeze(part, 0) for part in net.split(y, 0, [1, 1, 1]))
    elif how == "three heads":
        y = net.transpose(net.reshape(packed, Dim(0), Dim(1), 3 * heads, d), 0, 2, 1, 3)
        q, k, v = net.split(y, 1, [heads] * 3)
    else:
        y = net.transpose(net.reshape(packed, Dim(0), Dim(1), heads, 3 * d), 0, 2, 1, 3)
        q, k, v = net.split(y, 3, [d] * 3)
    return net.linear(merge_heads(net, scores_times_values(net, q, k, v)), c)


@block(3)
def grouped_query_attention(net: Net, x: Tensor) -> Tensor:
    n, s, c = x.shape
    kv, times, d = net.pick([2, 3]), net.pick([2, 3]), net.pick([2, 4])
    q = heads_of(net, net.linear(x, kv * times * d), kv * times)
    k, v = (heads_of(net, net.linear(x, kv * d), kv) for _ in range(2))
    if net.chance(50):
        q, k = rotary(net, q), rotary(net, k)

    def repeat(value: Tensor) -> Tensor:
        y = net.unsqueeze(value, 2)
        shape = (n, kv, times, s, d)
        given = (1, kv, times, s, d) if net.chance(50) else (1, 1, times, 1, 1)
        y = net.op("Expand", y, net.ints(*given), shape=shape)
        return net.reshape(y, Dim(0), kv * times, s, d)

    return net.linear(merge_heads(net, scores_times_values(net, q, repeat(k), repeat(v))), c)


@block(3)
def multi_query_attention(net: Net, x: Tensor) -> Tensor:
    """One key and value for all heads, by broadcasting."""
    heads, d = net.pick([2, 3]), net.pick([2, 4])
    q = heads_of(net, net.linear(x, heads * d), heads)
    k, v = (net.unsqueeze(net.linear(x, d), 1) for _ in range(2))
    n, _, s, _ = k.shape
    score = net.op("MatMul", q, net.transpose(k, 0, 1, 3, 2), shape=(n, heads, s, s))
    y = net.op("MatMul", net.softmax(score), v, shape=(n, heads, s, d))
    return net.linear(merge_heads(net, y), x.shape[-1])


@block(3)
def fused_attention(net: Net, x: Tensor) -> Tensor:
    heads, d = net.pick([2, 4, 6]), net.pick([2, 4])
    dv = net.pick([d, d, 2])
    n, s, _ = x.shape
    if net.opset >= 23:
        kv = net.pick([n for n in (2, 3, 1, 4, 6) if heads % n == 0])
        q, k, v = net.linear(x, heads * d), net.linear(x, kv * d), net.linear(x, kv * d)
        y = net.op("Attention", q, k, v, shape=(n, s, heads * d), q_num_heads=heads, kv_num_heads=kv)
        return net.linear(y, x.shape[-1])
    if net.opset < 13:
        raise Skip
    q, k, v = (
        net.linear(x, heads * d, bias=False),
        net.linear(x, heads * d, bias=False),
        net.linear(x, heads * dv, bias=False),
    )
    bias = [net.weight(heads * (2 * d + dv))] if net.chance(50) else []
    y = net.op("MultiHeadAttention", q, k, v, *bias, shape=(n, s, heads * dv), domain=MICROSOFT, num_heads=heads)
    return net.linear(y, x.shape[-1])


@block(3)
def head_einsum(net: Net, x: Tensor) -> Tensor:
    """Weights that hold heads on an axis of their own."""
    if net.opset < 12:
        raise Skip
    n, s, c = x.shape
    heads, d = net.pick([2, 3]), net.pick([2, 4])
    q, k, v = (
        net.op("Einsum", x, net.weight(c, heads, d), shape=(n, s, heads, d), equation="bsc,chd->bshd") for _ in range(3)
    )
    score = net.op("Einsum", q, k, shape=(n, heads, s, s), equation="bqhd,bkhd->bhqk")
    y = net.op("Einsum", net.softmax(score), v, shape=(n, s, heads, d), equation="bhqk,bkhd->bqhd")
    return net.op("Einsum", y, net.weight(heads, d, c), shape=x.shape, equation="bshd,hdc->bsc")


@block(3)
def feed_forward(net: Net, x: Tensor) -> Tensor:
    width = net.width()
    up = net.linear(x, width)
    if net.chance(50):
        up = net.binary("Mul", net.act(net.linear(x, width)), up, like=up)
    y = net.linear(net.act(up), x.shape[-1])
    return net.binary("Add", x, y, like=x)


@block(3)
def recurrent(net: Net, x: Tensor) -> Tensor:
    n, s, c = x.shape
    op = net.pick(["LSTM", "GRU", "RNN"])
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    hidden, directions = net.pick([2, 3, 4]), net.pick([1, 1, 2])
    seq = net.transpose(x, 1, 0, 2)
    w, r = net.weight(directions, gates * hidden, c), net.weight(directions, gates * hidden, hidden)
    extra = [net.weight(directions, 2 * gates * hidden)] if net.chance(60) else []
    attrs: dict[str, Any] = {
        "hidden_size": hidden,
        "direction": "bidirectional" if directions == 2 else net.pick(["forward", "reverse"]),
    }
    if op == "GRU":
        attrs["linear_before_reset"] = net.number(0, 1)
    shapes = [(s, directions, n, hidden), (directions, n, hidden)]
    y, last = net.add(op, seq, w, r, *extra, shapes=shapes, **attrs)
    if net.chance(30) and directions == 1:
        return net.unsqueeze(net.squeeze(last, 0), 1)
    if directions == 1:
        return net.transpose(net.squeeze(y, 1), 1, 0, 2)
    y = net.transpose(y, 2, 0, 1, 3)
    return net.reshape(y, Dim(0), s, directions * hidden)


@block(3)
def tokens(net: Net, x: Tensor) -> Tensor:
    """A learnt token before the sequence."""
    n, s, c = x.shape
    if s > 16:
        raise Skip
    token = Tensor(net.weight(1, 1, c), (1, 1, c))
    if net.dynamic:
        target = net.op("Concat", net.length(x, Dim(0)), net.ints(1, 1), shape=(3,), axis=0)
        wide = net.op("Expand", token, target, shape=(n, 1, c))
    else:
        wide = net.op("Expand", token, net.ints(n, 1, net.pick([1, c])), shape=(n, 1, c))
    return net.op("Concat", wide, x, shape=(n, s + 1, c), axis=1)


@block(3)
def positions(net: Net, x: Tensor) -> Tensor:
    """A table of positions, looked up or sliced."""
    n, s, c = x.shape
    table = net.weight(s + 2, c)
    if net.chance(50):
        rows = net.op("Gather", table, net.ints(*range(s)), shape=(s, c), axis=0)
    else:
        rows = net.slice(Tensor(table, (s + 2, c)), 0, 0, s)
    return net.binary("Add", x, rows, like=x)


@block(3)
def conv_1d(net: Net, x: Tensor) -> Tensor:
    y = net.transpose(x, 0, 2, 1)
    g = net.pick([1, net.divisor(x.shape[2], 1)])
    y = net.act(net.conv(y, g * net.number(1, 3), kernel=3, group=g))
    return net.transpose(y, 0, 2, 1)


@block(3)
def mix_positions(net: Net, x: Tensor) -> Tensor:
    """A linear layer over the sequence."""
    y = net.linear(net.transpose(x, 0, 2, 1), net.width())
    return net.transpose(y, 0, 2, 1)


@block(3)
def flat_linear(net: Net, x: Tensor) -> Tensor:
    """Gemm on (N * S, C)."""
    n, s, c = x.shape
    y = net.linear(net.reshape(x, -1, c), net.width())
    return net.reshape(net.act(y), -1, s, y.shape[1])


@block(3)
def experts(net: Net, x: Tensor) -> Tensor:
    """A batch of matrices, one per expert, summed by a gate."""
    n, s, c = x.shape
    e, width = 2, net.width()
    gate = net.softmax(net.linear(x, e))
    up = net.op("MatMul", net.unsqueeze(x, 1), net.weight(e, c, width), shape=(n, e, s, width))
    y = net.op("MatMul", net.act(up), net.weight(e, width, c), shape=(n, e, s, c))
    g = net.unsqueeze(net.transpose(gate, 0, 2, 1), 3)
    return net.reduce("ReduceSum", net.binary("Mul", y, g, like=y), [1], keep=False)


@block(3)
def sequence_to_image(net: Net, x: Tensor) -> Tensor:
    n, s, c = x.shape
    h = {4: 2, 8: 2, 16: 4, 6: 2}.get(s)
    if not h:
        raise Skip
    return net.reshape(net.transpose(x, 0, 2, 1), Dim(0), c, h, s // h)


@block(3)
def sequence_to_vector(net: Net, x: Tensor) -> Tensor:
    n, s, c = x.shape
    how = net.pick(["mean", "max", "last", "first", "flatten"])
    if how == "flatten":
        if s * c > 96:
            raise Skip
        return net.reshape(x, Dim(0), -1)
    if how in ("mean", "max"):
        return net.reduce("ReduceMean" if how == "mean" else "ReduceMax", x, [1], keep=False)
    if how == "last":
        return net.squeeze(net.slice(x, 1, s - 1, s), 1)
    return net.op("Gather", x, net.constant(np.int64(0)), shape=(n, c), axis=1)


# ---- vectors ----


@block(2)
def vector_to_sequence(net: Net, x: Tensor) -> Tensor:
    """(N, C) as (N, g, C / g), or repeated."""
    n, c = x.shape
    if net.chance(50):
        g = net.divisor(c)
        if g == c:
            raise Skip
        return net.reshape(x, Dim(0), g, c // g)
    y = net.unsqueeze(x, 1)
    return net.op("Expand", y, net.ints(1, 4, 1), shape=(n, 4, c))


@block(2)
def outer_product(net: Net, x: Tensor) -> Tensor:
    n, c = x.shape
    if c > 6:
        raise Skip
    y = net.linear(x, 3)
    z = net.op("MatMul", net.unsqueeze(x, 2), net.unsqueeze(y, 1), shape=(n, c, 3))
    return net.reshape(z, Dim(0), c * 3) if net.chance(60) else net.op("Flatten", z, shape=(n, c * 3), axis=1)


@block(2)
def loop(net: Net, x: Tensor) -> Tensor:
    """Two rounds through one square layer."""
    if net.opset < 11:
        raise Skip
    n, c = x.shape
    w = net.weight(c, c)
    state, out, i, go, on = (net.name(s) for s in ("state", "next", "i", "go", "on"))
    mid = net.name("mid")
    scalar = TensorProto.INT64, []
    body = helper.make_graph(
        [
            helper.make_node("MatMul", [state, w], [mid], name=net.name("n")),
            helper.make_node("Tanh", [mid], [out], name=net.name("n")),
            helper.make_node("Identity", [go], [on], name=net.name("n")),
        ],
        net.name("body"),
        [
            helper.make_tensor_value_info(i, *scalar),
            helper.make_tensor_value_info(go, TensorProto.BOOL, []),
            helper.make_tensor_value_info(state, TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info(on, TensorProto.BOOL, []),
            helper.make_tensor_value_info(out, TensorProto.FLOAT, None),
        ],
    )
    return net.op("Loop", net.constant(np.int64(2)), net.constant(np.bool_(True)), x, shape=x.shape, body=body)


# ---- whole models ----


def start(net: Net) -> Tensor:
    """An input of one kind."""
    kind = net.pick(["image", "image", "sequence", "sequence", "vector", "ids"])
    name = net.name("input")
    n: Any = "N" if net.dynamic else BATCH
    if kind == "ids":
        net.inputs.append(helper.make_tensor_value_info(name, TensorProto.INT64, [n, 4]))
        c = net.width()
        table = net.weight(11, c)
        if net.chance(40):
            net.weights.setdefault((11, c), []).append(table)
        return net.op("Gather", table, name, shape=(BATCH, 4, c), axis=0)
    shape = {"image": (3, 4, 4), "sequence": (4, 3), "vector": (5,)}[kind]
    net.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [n, *shape]))
    return net.project(Tensor(name, (BATCH, *shape)), net.width())


@st.composite
def models(
    draw: Any, max_blocks: int = 9, only: Sequence[str] | None = None, opsets: Sequence[int] = OPSETS
) -> onnx.ModelProto:
    """A random valid model.

    Args:
        draw: given by hypothesis.
        max_blocks: how many blocks at most.
        only: names of blocks to choose from.
        opsets: versions of the ONNX domain to choose from.
    """
    opset = draw(st.sampled_from(opsets))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    net = Net(draw, opset, draw(st.booleans()), rng)
    net.pool.append(start(net))
    for _ in range(draw(st.integers(min(3, max_blocks), max_blocks))):
        x = net.pool[-1] if net.chance(75) else net.pick(net.pool)
        fitting = [(n, f) for n, since, f in BLOCKS[x.rank] if since <= opset and (only is None or n in only)]
        if not fitting:
            break
        name, function = net.pick(fitting)
        undo = len(net.nodes), len(net.initializers), len(net.pool), {k: list(v) for k, v in net.weights.items()}
        try:
            y = function(net, x)
        except Skip:
            del net.nodes[undo[0] :], net.initializers[undo[1] :], net.pool[undo[2] :]
            net.weights = undo[3]
            continue
        net.used.append(name)
        if np.prod(y.shape) <= 4096 and y is not x:
            net.pool.append(y)
    return finish(net)


@st.composite
def sandwiches(draw: Any, name: str, opsets: Sequence[int] = (17, 21, 23)) -> onnx.ModelProto:
    """One block between two layers: a wide one before it, and a head behind it that reads all of it."""
    ranks = [r for r, blocks in BLOCKS.items() if name in {n for n, _, _ in blocks}]
    rank = draw(st.sampled_from(ranks))
    since, function = next((since, f) for n, since, f in BLOCKS[rank] if n == name)
    opset = draw(st.sampled_from([v for v in opsets if v >= since]))
    net = Net(draw, opset, draw(st.booleans()), np.random.default_rng(draw(st.integers(0, 2**16))))
    shape = {4: (3, 4, 4), 3: (4, 3), 2: (5,)}[rank]
    net.inputs.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N" if net.dynamic else BATCH, *shape]))
    x = net.project(Tensor("x", (BATCH, *shape)), draw(st.sampled_from((8, 6, 4))))
    net.pool.append(x)
    undo = len(net.nodes), len(net.initializers)
    try:
        y = function(net, x)
    except Skip:
        del net.nodes[undo[0] :], net.initializers[undo[1] :], net.pool[1:]
        net.weights.clear()
        y = x
    net.used.append(name)
    return finish(net, [net.project(t, 3) for t in ([y] if y is net.pool[-1] else [y, *net.pool[1:]])])


def finish(net: Net, ends: Sequence[Tensor] = ()) -> onnx.ModelProto:
    """Outputs: the given ones, else the last value behind a head and some others as they are."""
    outputs = [(x, TensorProto.FLOAT) for x in ends]
    chosen = [] if ends else [net.pool[-1]]
    if chosen and net.chance(35):
        chosen.append(net.pick(net.pool))
    for x in chosen:
        outputs.append((net.project(x, 3) if net.chance(85) else x, TensorProto.FLOAT))
    outputs += [(t, TensorProto.INT64) for t in net.positions]
    made = {o for n in net.nodes for o in n.output}
    infos = {}
    for x, kind in outputs:
        if x.name in made:
            shape = ["N" if net.dynamic and k == 0 and n == BATCH else n for k, n in enumerate(x.shape)]
            infos[x.name] = helper.make_tensor_value_info(x.name, kind, shape)
    graph = helper.make_graph(
        net.nodes, "random", net.inputs, list(infos.values()), net.initializers, doc_string=" ".join(net.used)
    )
    opsets = [helper.make_opsetid("", net.opset)] + [helper.make_opsetid(d, 1) for d in net.domains]
    ir = {9: 4, 11: 6, 13: 7, 17: 8, 18: 8, 21: 10, 23: 11}[net.opset]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir)


def block_names() -> list[str]:
    """Names of all blocks."""
    return sorted({n for blocks in BLOCKS.values() for n, _, _ in blocks})
