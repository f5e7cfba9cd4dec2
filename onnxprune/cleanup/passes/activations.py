"""Activations that are written out, as the one operator they are."""

from __future__ import annotations

import onnx_ir as ir

from onnxprune.cleanup.expressions import close, number, other, scaled, shifted
from onnxprune.cleanup.gelu import gelu_of
from onnxprune.cleanup.registry import Declined, node_pass
from onnxprune.cleanup.work import Work


@node_pass("gelu", phase="fuse", ops=("Erf", "Tanh"), since=20)
def gelu(work: Work, node: ir.Node) -> bool:
    """x·(1 + erf(x/√2))/2 = Gelu(x), and with tanh(√(2/π)·(x + 0.044715·x³)) Gelu(x, approximate="tanh").

    1. Products in any order.
    2. Nobody else reads 1 + erf, or what is made of it on the way.
    """
    found = gelu_of(work, node)
    if found is None:
        return False
    work.replace(found.last, "Gelu", [found.x], {"approximate": "tanh"} if found.tanh else None)
    return True


@node_pass("gelu-order", phase="normalize", ops=("Erf", "Tanh"))
def gelu_order(work: Work, node: ir.Node) -> bool:
    """x·(½·(1 + erf)) = (x·(1 + erf))·½: as many nodes, in the order in which ONNX Runtime recognizes a Gelu.

    1. Where the opset has no Gelu, so that it has to stay written out.
    """
    found = gelu_of(work, node) if work.opset < 20 else None
    if found is None or found.in_order or found.x in found.tail[0].inputs or len(found.tail) != 2:
        return False
    first, second = found.tail
    half = other(first, found.sum.outputs[0])
    if scaled(work, half) is not None or number(work, half) is None:
        return False
    product = work.emit(second, "Mul", [found.x, found.sum.outputs[0]], like=second.outputs[0])
    work.replace(second, "Mul", [product.outputs[0], half])
    return True


@node_pass("hard-sigmoid", phase="fuse", ops=("Div", "Mul"), since=6)
def hard_sigmoid(work: Work, node: ir.Node) -> bool:
    """clip(x + b, 0, h)/h = HardSigmoid(x) with α = 1/h and β = b/h, also where the division comes after a product.

    1. clip(x + b, 0, h)/h.
    2. (y·clip(x + b, 0, h))/h = y·HardSigmoid(x): nobody else reads the product.
    """
    outer = scaled(work, node.outputs[0])
    if outer is None:
        return False
    value, factor = outer
    found = _clipped(work, value, factor)
    if found is not None:
        x, alpha, beta = found
        work.replace(node, "HardSigmoid", [x], {"alpha": alpha, "beta": beta})
        return True
    product = work.producer(value, "Mul")
    if product is None or not work.private(value):
        return False
    for k in (0, 1):
        found = _clipped(work, product.inputs[k], factor)
        if found is not None:
            x, alpha, beta = found
            sigmoid = work.emit(node, "HardSigmoid", [x], {"alpha": alpha, "beta": beta}, like=product.inputs[k])
            work.replace(node, "Mul", [product.inputs[1 - k], sigmoid.outputs[0]])
            return True
    return False


def _clipped(work: Work, value: ir.Value | None, factor: float) -> tuple[ir.Value, float, float] | None:
    """x, α and β where `value`·factor is clip(α·x + β, 0, 1)."""
    clip = work.producer(value, "Clip")
    if clip is None or value is None or not work.private(value):
        return None
    if work.opset < 11:
        low, high = work.attribute(clip, "min"), work.attribute(clip, "max")
    else:
        low, high = (work.scalar(work.input(clip, k)) for k in (1, 2))
    if not close(low, 0.0) or high is None or not close(high * factor, 1.0):
        return None
    inner = shifted(work, clip.inputs[0])
    if inner is None:
        return (clip.inputs[0], factor, 0.0) if clip.inputs[0] is not None else None
    return inner[0], factor, inner[1] * factor


@node_pass("hard-swish", phase="fuse", ops=("HardSigmoid",), since=14)
def hard_swish(work: Work, node: ir.Node) -> bool:
    """x·HardSigmoid(x) = HardSwish(x) where α = 1/6 and β = 1/2.

    1. Nobody else reads HardSigmoid(x).
    """
    product = _gated(work, node)
    if product is None:
        return False
    alpha, beta = work.attribute(node, "alpha", 0.2), work.attribute(node, "beta", 0.5)
    if not close(alpha, 1 / 6) or not close(beta, 0.5):
        raise Declined(f"HardSwish has α = 1/6 and β = 1/2, not {alpha:g} and {beta:g}")
    work.replace(product, "HardSwish", [node.inputs[0]])
    return True


@node_pass("swish", phase="fuse", ops=("Sigmoid",), since=24)
def swish(work: Work, node: ir.Node) -> bool:
    """x·Sigmoid(α·x) = Swish(x, α).

    1. Nobody else reads Sigmoid(α·x).
    """
    inner = scaled(work, node.inputs[0])
    for x, alpha in ((node.inputs[0], 1.0), inner) if inner is not None else ((node.inputs[0], 1.0),):
        product = work.reader(node.outputs[0], "Mul")
        if product is not None and x is not None and other(product, node.outputs[0]) is x:
            work.replace(product, "Swish", [x], {"alpha": alpha})
            return True
    return False


@node_pass("mish", phase="fuse", ops=("Softplus",), since=18)
def mish(work: Work, node: ir.Node) -> bool:
    """x·tanh(softplus(x)) = Mish(x).

    1. Nobody else reads the softplus or its tanh.
    """
    tanh = work.reader(node.outputs[0], "Tanh")
    product = None if tanh is None else work.reader(tanh.outputs[0], "Mul")
    if product is None or tanh is None or other(product, tanh.outputs[0]) is not node.inputs[0]:
        return False
    work.replace(product, "Mish", [node.inputs[0]])
    return True


def _gated(work: Work, node: ir.Node) -> ir.Node | None:
    """The product of f(x) with x."""
    product = work.reader(node.outputs[0], "Mul")
    return product if product is not None and other(product, node.outputs[0]) is node.inputs[0] else None
