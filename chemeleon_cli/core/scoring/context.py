"""What crystals are scored with. `loading` fills it; `Candidates` reads it."""

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
        structure_features: (R, D) mean latent of each crystal.
        composition_features: (R, E) mean atom-type embedding of each crystal.
    """

    name: str
    structure_features: Tensor
    composition_features: Tensor


@dataclass(frozen=True)
class ScoringContext:
    """All that candidates are scored with: models, a hull, reference sets and settings. Nothing in it changes but the
    memory, which a training run adds to after each step.

    Attributes:
        encoder: of the autoencoder in whose features diversity is measured.
        predictors: by the name that the recipe gives them.
        references: features of reference sets, by the recipe's `reference_dataset`; None is the generator's training
            set.
        device: where the models are.
        known: crystals that novelty is measured against, by the same names.
        memory: the crystals that a run has generated so far; None outside of a run.
        matching: tolerances by which two crystals are the same.
        energy_model: the potential.
        hull: reference energies, on the potential's energy scale.
        relax: how crystals are relaxed; None: they are not.
        reward_relaxed: whether rewards are given for the relaxed crystals. A report may relax crystals that were
            rewarded as they were generated.
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
        """The potential and the hull in words, for people; None without a potential."""
        if self.energy_model is None:
            return None
        by, hull = f"energies by {self.energy_model.name} ({self.energy_model.energy_scale})", self.hull
        if hull is None:
            return by
        m = hull.manifest
        return f"{by}; hull {hull.name} ({m.energy_scale}): {m.source}, {m.count} energies, {m.sha256[:12]}"
