"""The models, sets and settings that crystals are scored with. `loading` loads them; `Candidates` uses them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chemeleon_cli.core.scoring.settings import DEFAULT_MATCHING, Matching, Relaxation

if TYPE_CHECKING:
    from torch import Tensor

    from chemeleon_cli.core.models.predictor import Predictor
    from chemeleon_cli.core.models.vae import Encoder
    from chemeleon_cli.core.potentials.base import Potential
    from chemeleon_cli.core.scoring.hull import Hull
    from chemeleon_cli.core.scoring.matching import Reference
    from chemeleon_cli.core.scoring.novelty import Memory


@dataclass(frozen=True)
class References:
    """The features of R reference crystals, for rewards that compare distributions.

    Attributes:
        name: of the set.
        structure_features: (R, D) latents of each crystal, averaged over its atoms.
        composition_features: (R, E) atom-type embedding of each crystal, averaged over its atoms.
    """

    name: str
    structure_features: Tensor
    composition_features: Tensor


@dataclass(frozen=True)
class ScoringContext:
    """Everything that candidates are scored with: models, a hull, reference sets and settings. Only the memory changes:
    a training run adds crystals to it after each step.

    Attributes:
        encoder: of the autoencoder whose features diversity is measured in.
        predictors: by their name in the recipe.
        references: features of reference sets, by the recipe's `reference_dataset`; None for the training set of the
            generator.
        device: of the models.
        known: crystals that novelty is measured against, by the same names.
        memory: the crystals that a training run has generated so far; None outside a run.
        matching: tolerances within which two crystals are the same.
        energy_model: the potential.
        hull: reference energies, on the energy scale of the potential.
        relax: how crystals are relaxed; None for no relaxation.
        reward_relaxed: whether rewards are computed for the relaxed crystals. A report may relax crystals that were
            rewarded without relaxation.
    """

    encoder: Encoder | None = None
    predictors: dict[str, Predictor] = field(default_factory=dict)
    references: dict[str | None, References] = field(default_factory=dict)
    device: str = "cpu"
    known: dict[str | None, Reference] = field(default_factory=dict)
    memory: Memory | None = None
    matching: Matching = DEFAULT_MATCHING
    energy_model: Potential | None = None
    hull: Hull | None = None
    relax: Relaxation | None = None
    reward_relaxed: bool = True

    @property
    def energies(self) -> str | None:
        """A line that describes the potential and the hull, for reports; None without a potential."""
        if self.energy_model is None:
            return None
        by, hull = f"energies by {self.energy_model.name} ({self.energy_model.energy_scale})", self.hull
        if hull is None:
            return by
        m = hull.manifest
        return f"{by}; hull {hull.name} ({m.energy_scale}): {m.source}, {m.count} energies, {m.sha256[:12]}"
