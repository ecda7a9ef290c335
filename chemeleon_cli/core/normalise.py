"""Rewards brought to one scale, so that weights mean what they say.

Tensor methods only: reward recipes are read without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

NormalizeFn = Literal["norm", "std", "subtract_mean", "clip", "none"] | None


def normalise(x: Tensor, fn: NormalizeFn, eps: float = 1e-4) -> Tensor:
    """Normalise the numbers of x; NaN means "no number", stays NaN and stays out of the statistics.

    Args:
        x: (B,) finite numbers or NaN.
        fn: "norm": (x - min) / (max - min + eps), in [0, 1); "std": (x - mean) / (std + eps), with the
            population's
            standard deviation; "subtract_mean": x - mean; "clip": x within [-1, 1]; "none" or None: x.
        eps: where the spread (max - min for "norm", std for "std") is smaller, the numbers count as equal and
            come
            out as 0, because dividing by it would make noise look like a preference.

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
