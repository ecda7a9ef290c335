"""The transformer of the published networks; it differs from ours in its norms, activation and index embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from chemeleon_cli.core.models.layers import Attention, Transformer


class Block(nn.Module):
    """Pre-norm block with GELU; with a condition, the adaLN-Zero block of DiT.

    The files say GELU(tanh) everywhere, and the conditioned blocks compute that. The others ran in torch's fused
    evaluation path, which takes the exact GELU whatever its module says (1e-4 in the latents).

    Args:
        dim: width H.
        num_heads: attention heads.
        feedforward: width of the MLP.
        conditioned: whether `forward` takes a condition (B, H) that shifts, scales and gates.
    """

    def __init__(self, dim: int, num_heads: int, feedforward: int, conditioned: bool) -> None:
        super().__init__()
        eps = 1e-6 if conditioned else 1e-5
        self.norm1 = nn.LayerNorm(dim, eps=eps, elementwise_affine=not conditioned)
        self.norm2 = nn.LayerNorm(dim, eps=eps, elementwise_affine=not conditioned)
        self.attention = Attention(dim, num_heads)
        gelu = nn.GELU("tanh" if conditioned else "none")
        self.mlp = nn.Sequential(nn.Linear(dim, feedforward), gelu, nn.Linear(feedforward, dim))
        self.modulation = nn.Linear(dim, 6 * dim) if conditioned else None

    def forward(self, x: Tensor, mask: Tensor, condition: Tensor | None = None) -> Tensor:
        """(B, N, H) tokens to tokens; `mask` (B, N) marks those that are attended to."""
        if self.modulation is None or condition is None:
            x = x + self.attention(self.norm1(x), mask)
            return x + self.mlp(self.norm2(x))
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition).unsqueeze(1).chunk(6, -1)
        x = x + gate1 * self.attention(self.norm1(x) * (1 + scale1) + shift1, mask)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


class Stack(Transformer):
    """Our transformer, which knows about precision, of the published blocks."""

    def __init__(self, dim: int, num_layers: int, num_heads: int, feedforward: int, conditioned: bool = False) -> None:
        super().__init__(dim, 0, num_heads)
        self.blocks.extend(Block(dim, num_heads, feedforward, conditioned) for _ in range(num_layers))


def index_embedding(index: Tensor, dim: int) -> Tensor:
    """[sin, cos](i pi / 2048^(2k/dim)), k = 0..dim/2-1, sines first: (...) -> (..., dim)."""
    rates = torch.pi / 2048 ** (2 * torch.arange(dim // 2, device=index.device) / dim)
    phase = index.unsqueeze(-1) * rates
    return torch.cat([phase.sin(), phase.cos()], -1)
