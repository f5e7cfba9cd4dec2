"""Contractions: a summed axis ends a field, the weight's other axis starts the next one."""

from __future__ import annotations

from onnxprune.trace.op import Op
from onnxprune.trace.registry import rule
from onnxprune.trace.unify import Index, contract
from onnxprune.trace.value import Value


def matmul_names(a: Value, b: Value, rank: int) -> tuple[list[Index], list[Index], list[Index]]:
    """Index names of numpy's matmul: batch axes are aligned at the right."""
    left: list[Index] = ["k"] if a.rank == 1 else [*[f"b{k}" for k in range(a.rank - 2, 0, -1)], "m", "k"]
    right: list[Index] = ["k"] if b.rank == 1 else [*[f"b{k}" for k in range(b.rank - 2, 0, -1)], "k", "n"]
    tail: list[Index] = [n for n, value in (("m", a), ("n", b)) if value.rank > 1]
    return left, right, [*[f"b{k}" for k in range(rank - len(tail), 0, -1)], *tail]


@rule("MatMul")
def matmul(op: Op) -> None:
    """numpy.matmul; with two activations the batch axes are heads."""
    a, b = op.need(0), op.need(1)
    left, right, out = matmul_names(a, b, op.outs[0].rank)
    dynamic = not a.constant and not b.constant
    op.outs[0].fields = contract(op.space, [(a, left), (b, right)], out, op.what, attention=dynamic)


@rule("FusedMatMul", domain="com.microsoft")
def fused_matmul(op: Op) -> None:
    """MatMul with transposed operands and a factor."""
    a, b = op.need(0), op.need(1)
    left, right, out = matmul_names(a, b, op.outs[0].rank)
    for names, flag, batch in ((left, "transA", "transBatchA"), (right, "transB", "transBatchB")):
        if op.attr(batch, 0):
            op.freeze_all(f"{op.what} transposes a batch axis")
            return
        if op.attr(flag, 0) and len(names) > 1:
            names[-1], names[-2] = names[-2], names[-1]
    dynamic = not a.constant and not b.constant
    op.outs[0].fields = contract(op.space, [(a, left), (b, right)], out, op.what, attention=dynamic)


@rule("Gemm")
@rule("FusedGemm", domain="com.microsoft")
def gemm(op: Op) -> None:
    """Alpha * A' B' + beta * C."""
    left: list[Index] = ["k", "m"] if op.attr("transA", 0) else ["m", "k"]
    right: list[Index] = ["n", "k"] if op.attr("transB", 0) else ["k", "n"]
    add_bias(op, contract(op.space, [op.indexed(0, left), op.indexed(1, right)], ["m", "n"], op.what), 2)


def add_bias(op: Op, fields: list, i: int) -> None:  # type: ignore[type-arg]
    """Output = product + input `i`, broadcast."""
    out = op.outs[0]
    bias = op.given(i)
    if bias is None:
        out.fields = fields
        return
    product = Value(op.what, out.dtype, out.shape, fields=fields)
    names = list(range(out.rank))
    operands = [(product, names), (bias, names[out.rank - bias.rank :])]
    out.fields = contract(op.space, operands, names, op.what, zero=all)


@rule("Einsum")
def einsum(op: Op) -> None:
    """Any number of operands; a repeated index within one operand can't shrink."""
    equation = op.attr("equation").replace(" ", "")
    terms, _, output = equation.partition("->")
    names = terms.split(",")
    values = [op.need(i) for i in range(len(names))]
    ellipsis = max(v.rank - len(n.replace("...", "")) for v, n in zip(values, names, strict=True))
    if "->" not in equation:
        letters = terms.replace(",", "").replace("...", "")
        output = ("..." if "..." in terms else "") + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))

    def expand(term: str, rank: int | None = None) -> list[Index]:
        before, dots, after = term.partition("...")
        count = 0 if not dots else ellipsis if rank is None else rank - len(before) - len(after)
        return [*before, *[f"...{k}" for k in range(ellipsis - count, ellipsis)], *after]

    operands = [(v, expand(n, v.rank)) for v, n in zip(values, names, strict=True)]
    dynamic = sum(not v.constant for v in values) > 1
    op.outs[0].fields = contract(op.space, operands, expand(output), op.what, attention=dynamic)
