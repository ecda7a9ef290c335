"""The published predictor of properties, with the interface of ours.

Legend: B crystals, K targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from chemeleon_cli.core.data.crystals import Crystals
from chemeleon_cli.core.models import predictor
from chemeleon_cli.core.models.build import build
from chemeleon_cli.core.models.layers import masked_mean


class Predictor(predictor.Predictor):
    """An encoder and a small head on its pooled features.

    Arguments as of `models.predictor.Predictor`, which has statistics of the composition as well.
    """

    def __init__(
        self,
        encoder: Mapping[str, Any],
        targets: Sequence[str],
        use_encoder_features: bool,
        reduce: str,
        dropout: float = 0.1,
        origins: int = 4,
    ) -> None:
        nn.Module.__init__(self)  # not our networks
        self.encoder = build("encoder", encoder)
        self.targets = list(targets)
        self.use_encoder_features, self.reduce, self.origins = use_encoder_features, reduce, origins
        self.config = {
            "layout": "chemeleon2",
            "encoder": self.encoder.config,
            "targets": self.targets,
            "use_encoder_features": use_encoder_features,
            "reduce": reduce,
            "dropout": dropout,
            "origins": origins,
        }
        width = self.encoder.config["latent_dim"]
        width += self.encoder.config["hidden_dim"] if use_encoder_features else 0
        narrow, middle = width // 4, width // 2
        self.head = nn.Sequential(
            *(nn.Linear(width, narrow), nn.LayerNorm(narrow), nn.SiLU(), nn.Dropout(dropout)),
            *(nn.Linear(narrow, middle), nn.LayerNorm(middle), nn.SiLU(), nn.Dropout(dropout)),
            nn.Linear(middle, len(self.targets)),
        )
        self.register_buffer("mean", torch.zeros(len(self.targets)))
        self.register_buffer("std", torch.ones(len(self.targets)))

    def forward(self, crystals: Crystals) -> Tensor:
        """Standardised predictions (B, K) at the given origins."""
        posterior = self.encoder(crystals)
        atoms = torch.cat([posterior.mean, posterior.hidden], -1) if self.use_encoder_features else posterior.mean
        pooled = masked_mean(atoms, posterior.mask)
        if self.reduce == "sum":
            pooled = pooled * crystals.num_atoms.unsqueeze(-1)
        return self.head(pooled)
