"""Control flow that is decided before the model runs."""

from __future__ import annotations

import onnx_ir as ir

from onnxprune.cleanup.registry import model_pass, node_pass
from onnxprune.cleanup.work import Work


@model_pass("inline-functions", phase="clean")
def inline_functions(work: Work) -> int:
    """A call of a model-local function is its body.

    1. The body was written for the opset that the model imports; where one was not, only functions that nobody calls go.
    """
    from onnx_ir.passes.common import InlinePass, RemoveUnusedFunctionsPass

    model = work.model
    if any(_foreign(model, f) for f in model.functions.values()):
        count = len(model.functions)
        RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
        return count - len(model.functions)
    if not model.functions:
        return 0
    calls = sum(n.op_identifier() in model.functions for n in ir.traversal.RecursiveGraphIterator(model.graph))
    unused = len(model.functions)
    InlinePass()(model)
    model.functions.clear()
    work.rename_twice_named()
    return calls + unused


def _foreign(model: ir.Model, function: ir.Function) -> bool:
    return any(model.opset_imports.get(domain, version) != version for domain, version in function.opset_imports.items())


@node_pass("constant-branch", phase="clean", ops=("If",))
def constant_branch(work: Work, node: ir.Node) -> bool:
    """If(true) is its then-branch, If(false) its else-branch.

    1. The nodes of the branch take the place of the If; what they capture is defined before it.
    2. An output of the branch that is captured from outside, or an initializer, is read directly.
    """
    condition = node.inputs[0]
    if not work.is_constant(condition):
        return False
    taken: ir.Graph = work.attribute(node, "then_branch" if work.scalar(condition) else "else_branch")
    graph = node.graph
    assert graph is not None
    results = list(taken.outputs)
    for name, value in list(taken.initializers.items()):
        del taken.initializers[name]
        value.name = work.fresh(name)
        work.model.graph.register_initializer(value)
    inner = list(taken)
    taken.outputs.clear()
    taken.remove(inner)
    for one in inner:
        for out in one.outputs:
            out.name = work.fresh(out.name or "value") if out.name else out.name
    graph.insert_before(node, inner)
    for old, new in zip(node.outputs, results, strict=True):
        work.substitute(old, new)
    return True
