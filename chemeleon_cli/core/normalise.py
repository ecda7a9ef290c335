"""Normalisation of rewards to a common scale, so that the weights of components are comparable.

It uses only methods of tensors and does not import torch, because recipes that name rewards are read without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

NormalizeFn = Literal["norm", "std", "subtract_mean", "clip", "none"] | None


def normalise(x: Tensor, fn: NormalizeFn, eps: float = 1e-4) -> Tensor:
    """Normalise x. NaN marks missing values; they stay NaN and do not enter the statistics.

    Args:
        x: (B,) finite numbers or NaN.
        fn: "norm": (x - min) / (max - min + eps), in [0, 1); "std": (x - mean) / (std + eps), with the standard
            deviation of the population; "subtract_mean": x - mean; "clip": x clamped to [-1, 1]; "none" or None: x.
        eps: if the spread (max - min for "norm", std for "std") is smaller, the numbers count as equal and become 0,
            because dividing by so small a spread would amplify noise.

    Returns:
        (B,)
    """
    known = x[~x.isnan()]
    if fn in (None, "none") or not len(known):
        return x.clone()
    if fn == "clip":
        return x.clamp(-1, 1)
    if fn == "subtract_mean":
        return x - known.mean()
    if fn == "norm":
        start, spread = known.min(), known.max() - known.min()
    else:
        start, spread = known.mean(), known.std(correction=0)
    return (x - start) * 0.0 if spread < eps else (x - start) / (spread + eps)
