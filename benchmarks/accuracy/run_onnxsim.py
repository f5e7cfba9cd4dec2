"""Contestant: onnxsim's structured pruning, by weight or calibrated (Wanda), with or without its ridge fine-tuning.

The model goes through `onnxsim.simplify` first, which folds the BatchNormalization that its pruning does not cross.

Options: `ratio`, `score` (`l2` or `wanda`), `finetune`, `heads` (attention heads too), `inner` (the sums of two computed
tensors are graph outputs meanwhile, so that residual streams keep their width).
"""

from __future__ import annotations

from typing import Any

import onnx
from exchange import Answer, Feeds, NothingPruned, serve


def prune(model: onnx.ModelProto, request: dict[str, Any], data: list[Feeds] | None) -> tuple[onnx.ModelProto, Answer]:
    """Prunes channels, then heads, then fits the weights."""
    from onnxsim import apply_pruning_finetune, pruning, simplify

    options = request["options"]
    model, _ = simplify(model)
    outputs = len(model.graph.output)
    source = onnx.ModelProto()
    source.CopyFrom(model)
    if options["inner"]:
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in _sums(model.graph))
        model = onnx.shape_inference.infer_shapes(_typed(model))
    ratio = options["ratio"]
    if options["score"] == "wanda":
        pruned = pruning.apply_structured_wanda_pruning(model, calibration_data=data, sparsity=ratio)
        if options["heads"]:
            pruned = pruning.apply_attention_head_wanda_pruning(pruned, calibration_data=data, sparsity=ratio)
    else:
        pruned = pruning.apply_structured_pruning(model, sparsity=ratio)
        if options["heads"]:
            pruned = pruning.apply_attention_head_pruning(pruned, sparsity=ratio)
    del pruned.graph.output[outputs:]
    if _sizes(pruned) == _sizes(source):
        raise NothingPruned("nothing was pruned")
    if options["finetune"]:
        pruned = apply_pruning_finetune(source, pruned, calibration_data=data)
    return pruned, {}


def _sizes(model: onnx.ModelProto) -> list[tuple[int, ...]]:
    return sorted(tuple(t.dims) for t in model.graph.initializer)


def _sums(graph: onnx.GraphProto) -> list[str]:
    """Outputs of Add nodes whose operands are both computed."""
    known = {t.name for t in graph.initializer} | {n.output[0] for n in graph.node if n.op_type == "Constant"}
    taken = {o.name for o in graph.output}
    return [n.output[0] for n in graph.node if n.op_type == "Add" and not set(n.input) & known and n.output[0] not in taken]


def _typed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with types for all outputs, which the checker asks for."""
    inferred = {v.name: v for v in onnx.shape_inference.infer_shapes(model).graph.value_info}
    for output in model.graph.output:
        if not output.HasField("type"):
            if output.name in inferred:
                output.CopyFrom(inferred[output.name])
            else:
                output.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return model


if __name__ == "__main__":
    serve(prune)
