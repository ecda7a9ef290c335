"""Rewards for covering the distribution of a reference set.

The distance between the batch X (n crystals) and the reference Y (R crystals) is the unbiased estimate of the squared
maximum mean discrepancy (Gretton et al. 2012, "A Kernel Two-Sample Test", equation 3), with the kernel
k(x, y) = (x.y / d + 1)^3 on features of width d. The reward of a crystal m is the increase of the distance without it:

    r_m = MMD2(X without m, Y) - MMD2(X, Y)

It is high where the reference is dense and the batch is sparse, so the batch learns to cover the reference without
repeating itself. It does not reward differing from the reference.

The r_m of a batch add up to zero: they rank the crystals of one batch and do not measure the progress of a run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from chemeleon_cli.core.rewards.base import RewardComponent, reference_mistake
from chemeleon_cli.core.scoring.needs import FindModel, Needs

if TYPE_CHECKING:
    from torch import Tensor

    from chemeleon_cli.core.scoring.candidates import Candidates

BLOCK = 4096
"""Rows and columns of the kernel that are computed at a time, which takes 128 MB."""


class Diversity(RewardComponent):
    """How much a crystal brings its batch closer to a reference set; dimensionless, and relative to the batch."""

    relative: ClassVar[bool] = True
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """If the spread over the step is smaller than this, all crystals get 0. It is much smaller than for other
    components, because values decrease with the number of crystals, to about 1e-4 for some thousands."""
    reference_dataset: str | None = None
    """A data folder whose train split is the reference; null for the training set of the generator."""

    def needs(self) -> Needs:
        """An autoencoder and the features of the reference set."""
        return Needs(references=frozenset([self.reference_dataset]), encoder=True)

    def check(self, find_model: FindModel) -> list[tuple[str, str]]:
        """Check that the data folder exists."""
        return reference_mistake(self.reference_dataset)

    def _drop(self, candidates: Candidates, features: Tensor, reference: Tensor) -> Tensor:
        import torch

        scored = ~features.isnan().any(1) & ~candidates.left_out
        out = torch.full((len(features),), torch.nan)
        if scored.sum() < 3:
            for i in scored.nonzero().flatten().tolist():
                candidates.note(self.name, i, "fewer than three crystals to compare")
            return out
        out[scored] = mmd_drop(features[scored].to(reference.device), reference).float().cpu()
        return out


class StructureDiversity(Diversity):
    """Cover the structures of a reference set. The feature of a crystal is the mean of its latents."""

    type: Literal["structure_diversity"] = "structure_diversity"
    """The kind of reward."""

    def compute(self, candidates: Candidates) -> Tensor:
        """(B,) dimensionless."""
        reference = candidates.context.references[self.reference_dataset].structure_features
        return self._drop(candidates, candidates.structure_features, reference)


class CompositionDiversity(Diversity):
    """Cover the compositions of a reference set. The feature of a crystal is the mean of its atom-type embeddings."""

    type: Literal["composition_diversity"] = "composition_diversity"
    """The kind of reward."""

    def compute(self, candidates: Candidates) -> Tensor:
        """(B,) dimensionless."""
        reference = candidates.context.references[self.reference_dataset].composition_features
        return self._drop(candidates, candidates.composition_features, reference)


def mmd_drop(x: Tensor, y: Tensor) -> Tensor:
    """MMD2(x without m, y) - MMD2(x, y) for each row m of x.

    With s_m the sum of k(m, other rows of x), S of all s_m, t_m the mean of k(m, rows of y) and T the sum of all
    t_m, MMD2(x, y) is S / n(n-1) - 2 T / n and, without m, (S - 2 s_m) / (n-1)(n-2) - 2 (T - t_m) / (n-1), both
    plus a term in y alone, which cancels. The cost is O(n^2 + n R); the R x R kernel is not needed.

    Args:
        x: (n, d), n >= 3.
        y: (R, d).

    Returns:
        (n,) float64.
    """
    x, y = x.double(), y.double()
    n, width = x.shape
    within = _kernel_sums(x, x) - (x.square().sum(1) / width + 1) ** 3  # (n,) s_m
    across = _kernel_sums(x, y) / len(y)  # (n,) t_m
    all_within, all_across = within.sum(), across.sum()
    whole = all_within / (n * (n - 1)) - 2 * all_across / n
    without = (all_within - 2 * within) / ((n - 1) * (n - 2)) - 2 * (all_across - across) / (n - 1)
    return without - whole


def _kernel_sums(x: Tensor, y: Tensor) -> Tensor:
    """(n,) sum of k(x_i, y_j) over the rows of y, in blocks, because n x R numbers may not fit into memory."""
    width = x.shape[1]
    sums = x.new_zeros(len(x))
    for some, total in zip(x.split(BLOCK), sums.split(BLOCK), strict=True):
        for others in y.split(BLOCK):
            total += ((some @ others.T / width + 1) ** 3).sum(1)
    return sums
