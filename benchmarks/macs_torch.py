"""Multiply-accumulates as `onnxprune profile` counts them, against `torch.utils.flop_counter` on the module they were exported from.

    python benchmarks/macs_torch.py --torch PYTHON

PYTHON has torch and onnx; it builds and exports the modules and counts them with torch. This process needs none of that: it
profiles the exported files. Writes `benchmarks/results/macs_torch.json`; exit code 1 where a count differs that torch knows.

Torch does not count recurrent layers (their kernels are one operator to it): those rows have a formula in place of its count.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "macs_torch.json"


# ---- in the process that has torch ----


def modules() -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Module and input shape by name."""
    import torch
    from torch import nn

    sys.path.insert(0, str(HERE.parent / "models"))
    import architectures

    image = (1, 1, 28, 28)
    found: dict[str, tuple[Any, tuple[int, ...]]] = {
        "resnet": (architectures.ResNet(), image),
        "mobilenet": (architectures.MobileNet(), image),
        "vit": (architectures.ViT(), image),
        "unet": (architectures.UNet(), image),
        "conv_grouped": (nn.Conv2d(12, 24, 3, padding=1, groups=4), (2, 12, 16, 16)),
        "conv_dilated_strided": (nn.Conv2d(8, 16, 5, stride=2, dilation=2), (1, 8, 40, 40)),
        "conv_depthwise": (nn.Conv2d(32, 32, 3, padding=1, groups=32), (1, 32, 14, 14)),
        "conv_1d": (nn.Conv1d(6, 10, 7), (3, 6, 50)),
        "conv_3d": (nn.Conv3d(3, 5, 3), (1, 3, 8, 9, 10)),
        "conv_transposed": (nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1), (1, 8, 10, 10)),
        "conv_transposed_grouped": (nn.ConvTranspose2d(8, 12, 3, stride=2, groups=4), (2, 8, 7, 7)),
        "linear": (nn.Linear(20, 30), (4, 20)),
        "linear_3d": (nn.Linear(20, 30), (2, 5, 20)),
        "encoder_layer": (nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval(), (2, 9, 32)),
    }

    class Attention(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = x.reshape(2, 7, 3, 4, 8).permute(2, 0, 3, 1, 4)
            return nn.functional.scaled_dot_product_attention(q, k, v)

    class Einsum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(4, 8, 16))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.einsum("bthd,hde->bthe", x, self.w)

    class Products(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.bmm(x, x.transpose(1, 2)) @ x

    found["attention"] = (Attention(), (2, 7, 96))
    found["einsum"] = (Einsum(), (2, 5, 4, 8))
    found["batched_products"] = (Products(), (3, 6, 10))
    found["lstm"] = (nn.LSTM(6, 8, num_layers=2, bidirectional=True), (11, 3, 6))
    found["gru"] = (nn.GRU(6, 8), (11, 3, 6))
    return found


# 11 steps of 3 sequences; gates * H * (I + H) a direction; the second layer reads both directions of the first.
FORMULAS = {"lstm": 33 * 2 * (32 * (6 + 8) + 32 * (16 + 8)), "gru": 33 * 24 * (6 + 8)}


def count(folder: Path) -> None:
    """Exports all modules, and writes what torch counts."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    counts = {}
    for name, (module, shape) in modules().items():
        module.eval()
        x = torch.randn(*shape)
        # the fast path of a transformer layer is one operator that the counter does not know
        torch.backends.mha.set_fastpath_enabled(False)
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # products that the counter sees
            module(x)
        counts[name] = counter.get_total_flops() // 2
        # legacy, which keeps recurrent layers whole, but can't trace the layer of a transformer
        dynamo = name == "encoder_layer"
        torch.onnx.export(module, (x,), str(folder / f"{name}.onnx"), dynamo=dynamo, opset_version=18 if dynamo else 17)
    (folder / "torch.json").write_text(json.dumps({"torch": torch.__version__, "macs": counts}))


# ---- in the process that has onnxprune ----


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", help="Python with torch and onnx")
    parser.add_argument("--count", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.count:
        count(arguments.count)
        return 0
    from onnxprune.io.load import load_model
    from onnxprune.profiling.count import profile

    with tempfile.TemporaryDirectory() as folder:
        command = [arguments.torch or sys.executable, __file__, "--count", folder]
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        counted = json.loads((Path(folder) / "torch.json").read_text())
        rows = []
        for name, macs in counted["macs"].items():
            found = profile(load_model(Path(folder) / f"{name}.onnx"))
            against = FORMULAS.get(name, macs)
            row = {"module": name, "onnxprune": found.macs, "torch": macs, "formula": FORMULAS.get(name)}
            rows.append({**row, "same": found.macs == against, "unknown": found.unknown})
    RESULT.write_text(json.dumps({"torch": counted["torch"], "modules": rows}, indent=1) + "\n")
    for row in rows:
        print(f"{row['module']:26} {row['onnxprune']:>12,} {row['torch']:>12,} {'' if row['same'] else 'DIFFERS'}")
    return 0 if all(row["same"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
