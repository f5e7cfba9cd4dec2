"""A model of one weight, in one file or in two."""

import numpy as np
import onnx
import onnx.parser
from onnx import TensorProto, numpy_helper

WEIGHT = np.arange(1024 * 4, dtype=np.float32).reshape(4, 1024)


def make_model(extra: str = "") -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        f"""
        <ir_version: 8, opset_import: ["" : 17, "acme" : 1]>
        agraph (float[1, 4] x) => (float[1, 1024] y) {{
          h = MatMul (x, w)
          {extra}
          y = Relu (h)
        }}
        """
    )
    model.graph.initializer.append(numpy_helper.from_array(WEIGHT, "w"))
    return model


def make_external(model: onnx.ModelProto, folder, **changes) -> None:
    """Writes m.onnx, whose tensor w is in w.bin at offset 64, with changed external data entries."""
    tensor = model.graph.initializer[0]
    (folder / "w.bin").write_bytes(bytes(64) + tensor.raw_data)
    entries = {"location": "w.bin", "offset": "64", "length": str(len(tensor.raw_data))} | changes
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
