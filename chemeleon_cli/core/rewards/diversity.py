"""Rewards for covering the distribution of a reference set.

The distance between the batch X (n crystals) and the reference Y (R crystals) is the unbiased estimate of the
squared maximum mean discrepancy (Gretton et al. 2012, "A Kernel Two-Sample Test", equation 3), with the
kernel k(x, y) = (x.y / d + 1)^3 on features of width d. A crystal's reward is how much the distance would
grow without it:

    r_m = MMD2(X without m, Y) - MMD2(X, Y)

It is high for a crystal where the reference is dense and the batch is thin, so the batch comes to cover the
reference, without repeating itself. It does not ask a crystal to differ from the reference.

Over a batch the r_m add up to zero: they rank the crystals of one batch and say nothing of how far it has come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from chemeleon_cli.core.rewards.base import FindModel, Needs, RewardComponent, reference_mistake

if TYPE_CHECKING:
    from torch import Tensor

    from chemeleon_cli.core.scoring.candidates import Candidates

BLOCK = 4096
"""Crystals that are compared with as many at a time: a kernel of 128 MB."""


class Diversity(RewardComponent):
    """A crystal's share in bringing the batch close to a reference set; without unit, and relative to its
    batch."""

    relative: ClassVar[bool] = True
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """A spread below this counts as none. Far below that of other components: a crystal's drop falls with the number
    of crystals, to 1e-4 for some thousands."""
    reference_dataset: str | None = None
    """A data folder, whose train split is the reference; null: the set that the generator was trained on."""

    def needs(self) -> Needs:
        """An autoencoder and the reference set's features."""
        return Needs(references=frozenset([self.reference_dataset]), encoder=True)

    def check(self, find_model: FindModel) -> list[tuple[str, str]]:
        """Whether there is such a data folder."""
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
    """Cover the structures of a reference set. Feature: the mean of a crystal's latents."""

    type: Literal["structure_diversity"] = "structure_diversity"
    """The kind of reward."""

    def compute(self, candidates: Candidates) -> Tensor:
        """(B,) without unit."""
        reference = candidates.tools.references[self.reference_dataset].structure_features
        return self._drop(candidates, candidates.structure_features, reference)


class CompositionDiversity(Diversity):
    """Cover the compositions of a reference set. Feature: the mean of a crystal's atom-type embeddings."""

    type: Literal["composition_diversity"] = "composition_diversity"
    """The kind of reward."""

    def compute(self, candidates: Candidates) -> Tensor:
        """(B,) without unit."""
        reference = candidates.tools.references[self.reference_dataset].composition_features
        return self._drop(candidates, candidates.composition_features, reference)


def mmd_drop(x: Tensor, y: Tensor) -> Tensor:
    """MMD2(x without m, y) - MMD2(x, y) for each row m of x.

    With s_m the sum of k(m, other rows of x), S of all s_m, t_m the mean of k(m, rows of y) and T the sum of all
    t_m, MMD2(x, y) is S / n(n-1) - 2 T / n and, without m, (S - 2 s_m) / (n-1)(n-2) - 2 (T - t_m) / (n-1), both
    plus a term of y alone, which cancels. So this takes O(n^2 + n R) and never forms R x R.

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
    """(n,) sum of k(x_i, y_j) over the rows of y, in blocks, as n x R numbers need not fit the memory."""
    width = x.shape[1]
    sums = x.new_zeros(len(x))
    for some, total in zip(x.split(BLOCK), sums.split(BLOCK), strict=True):
        for others in y.split(BLOCK):
            total += ((some @ others.T / width + 1) ** 3).sum(1)
    return sums
