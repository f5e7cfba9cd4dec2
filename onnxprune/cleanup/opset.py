"""Raises a model to a newer opset, for operators that only it has."""

from __future__ import annotations

import onnx
from onnx import ModelProto

from onnxprune.errors import UsageError


def raise_opset(model: ModelProto, target: int | None) -> ModelProto:
    """The model at opset `target` of the ONNX domain, by onnx's own converter; the model itself where it is there already.

    Raises:
        UsageError: the target is older than the model's opset, or newer than onnx knows; or the converter refuses the model.
    """
    now = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if target is None or target == now:
        return model
    newest = onnx.defs.onnx_opset_version()
    if not now < target <= newest:
        raise UsageError(f"--opset {target}: the model has opset {now}, onnx {onnx.__version__} knows up to {newest}")
    from onnx import version_converter

    try:
        converted: ModelProto = version_converter.convert_version(model, target)
    except Exception as error:  # whatever its C++ code raises
        text = " ".join(str(error).split())
        raise UsageError(f"--opset {target}: onnx can't convert the model ({text}); leave the option out") from None
    return converted
