"""The transformer that all models share, and small embeddings.

Legend: B crystals, N atoms padded, H width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head self-attention over the atoms of a crystal; padding is masked.

    Torch's fused kernel is not used, because at 20 tokens its backward pass took 60 % of a training step on a CPU, and
    the whole step was 2.3 times slower with it.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"hidden_dim {dim} is not a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Apply attention to (B, N, H) tokens; `mask` (B, N) marks atoms."""
        B, N, H = x.shape
        q, k, v = self.qkv(x).view(B, N, 3, self.num_heads, H // self.num_heads).permute(2, 0, 3, 1, 4)
        scores = (q * (H // self.num_heads) ** -0.5) @ k.transpose(-1, -2)  # (B, heads, N, N)
        scores = scores.masked_fill(~mask[:, None, None, :], -torch.inf)
        mixed = scores.softmax(-1).to(v.dtype) @ v
        return self.out(mixed.transpose(1, 2).reshape(B, N, H))


class Block(nn.Module):
    """Pre-norm transformer block; with a condition, the adaLN-Zero block of DiT (Peebles & Xie 2023).

    Args:
        dim: width H.
        num_heads: attention heads.
        dropout: on both residual branches.
        conditioned: whether `forward` takes a condition (B, H) that shifts, scales and gates.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0, conditioned: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=not conditioned)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=not conditioned)
        self.attention = Attention(dim, num_heads)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.SiLU(), nn.Linear(4 * dim, dim))
        self.dropout = nn.Dropout(dropout)
        self.modulation = zero_init(nn.Linear(dim, 6 * dim)) if conditioned else None

    def forward(self, x: Tensor, mask: Tensor, condition: Tensor | None = None) -> Tensor:
        """Transform (B, N, H) tokens; `condition` (B, H) is needed if the block is conditioned."""
        if self.modulation is None or condition is None:
            x = x + self.dropout(self.attention(self.norm1(x), mask))
            return x + self.dropout(self.mlp(self.norm2(x)))
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition).unsqueeze(1).chunk(6, -1)
        x = x + gate1 * self.dropout(self.attention(self.norm1(x) * (1 + scale1) + shift1, mask))
        return x + gate2 * self.dropout(self.mlp(self.norm2(x) * (1 + scale2) + shift2))


class Transformer(nn.Module):
    """A stack of blocks. bfloat16 is used only here; input and output are float32.

    Attributes:
        bf16: whether the blocks run under bfloat16 autocast; set by `set_precision`.
    """

    def __init__(
        self, dim: int, num_layers: int, num_heads: int, dropout: float = 0.0, conditioned: bool = False
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim, num_heads, dropout, conditioned) for _ in range(num_layers))
        self.bf16 = False

    def forward(self, x: Tensor, mask: Tensor, condition: Tensor | None = None) -> Tensor:
        """Transform (B, N, H) tokens; `mask` (B, N) marks atoms, `condition` is (B, H) or None."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            for block in self.blocks:
                x = block(x, mask, condition)
        return x.float()


def set_precision(model: nn.Module, precision: str) -> str:
    """Set the precision of all transformers in a model.

    Args:
        model: any model of this package.
        precision: "float32", "bf16", or "auto", which is bf16 on a processor or GPU with fast bf16 arithmetic.

    Returns:
        The chosen precision, "float32" or "bf16".
    """
    if precision == "auto":
        precision = "bf16" if _bf16_is_fast(next(model.parameters()).device) else "float32"
    for module in model.modules():
        if isinstance(module, Transformer):
            module.bf16 = precision == "bf16"
    return precision


def _bf16_is_fast(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def zero_init(linear: nn.Linear) -> nn.Linear:
    """Set weight and bias of a layer to zero, so that a residual branch starts as the identity."""
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def sinusoidal(x: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Sinusoidal embedding of scalars (Vaswani et al. 2017): (B,) -> (B, dim), cosines first."""
    rates = torch.exp(-math.log(max_period) * torch.arange(dim // 2, device=x.device) / (dim // 2))
    phase = x.float().unsqueeze(-1) * rates
    return torch.cat([phase.cos(), phase.sin()], -1)


def periodic_features(frac: Tensor, frequencies: int) -> Tensor:
    """Sines and cosines of 2 pi k x, k = 1..frequencies: (..., 3) -> (..., 6 * frequencies).

    The features of x and x + 1 are equal, so the boundary of the cell does not matter to the network.
    """
    k = torch.arange(1, frequencies + 1, device=frac.device)
    phase = (2 * math.pi * frac.unsqueeze(-1) * k).flatten(-2)
    return torch.cat([phase.sin(), phase.cos()], -1)


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Linear, SiLU, Linear."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs))


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over the atoms of each crystal: (B, N, F), (B, N) -> (B, F)."""
    weight = mask.unsqueeze(-1).to(x.dtype)
    return (x * weight).sum(1) / weight.sum(1)
