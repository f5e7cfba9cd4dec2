from collections.abc import Callable

import onnx
import onnx.parser
import pytest


@pytest.fixture
def model() -> Callable[[str], onnx.ModelProto]:
    """A model with inputs such as `float[N, 3] x, int64[N] k`, of which each has an output."""

    def build(inputs: str) -> onnx.ModelProto:
        text = f'<ir_version: 8, opset_import: ["" : 17]> m ({inputs}) => () {{ }}'
        parsed = onnx.parser.parse_model(text)
        for value in parsed.graph.input:
            parsed.graph.node.add(op_type="Identity", input=[value.name], output=[f"{value.name}_out"])
            out = parsed.graph.output.add()
            out.CopyFrom(value)
            out.name = f"{value.name}_out"
        return parsed

    return build
