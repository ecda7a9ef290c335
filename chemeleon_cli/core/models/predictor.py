"""Prediction of properties of a crystal from the encoder of a VAE and from its composition, for example for rewards.

Legend: B crystals, N atoms padded, K targets, F features per atom.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from chemeleon_cli.core.data.batches import in_batches
from chemeleon_cli.core.data.crystals import Crystals, origin_atoms, shift_to_atom
from chemeleon_cli.core.data.dataset import Table
from chemeleon_cli.core.data.elements import STATISTICS, composition_statistics, element_table
from chemeleon_cli.core.models.build import build
from chemeleon_cli.core.models.layers import masked_mean
from chemeleon_cli.core.models.vae import Encoder
from chemeleon_cli.errors import UserError


class Predictor(nn.Module):
    """An encoder, and a small head on its pooled features and on statistics of the elements.

    Args:
        encoder: config of the encoder.
        targets: names of the properties.
        use_encoder_features: whether to pool the last layer of the encoder in addition to the latent means.
        use_composition_features: whether to add `elements.composition_statistics` to the pooled features.
        reduce: "mean" or "sum" over the atoms of a crystal.
        dropout: of the head.
        origins: largest number of origins of a crystal that a prediction is averaged over.
    """

    def __init__(
        self,
        encoder: Mapping[str, Any],
        targets: Sequence[str],
        use_encoder_features: bool,
        use_composition_features: bool,
        reduce: str,
        dropout: float,
        origins: int,
    ) -> None:
        super().__init__()
        self.encoder: Encoder = build("encoder", encoder)
        self.targets = list(targets)
        self.use_encoder_features, self.use_composition_features = use_encoder_features, use_composition_features
        self.reduce, self.origins = reduce, origins
        self.config: dict[str, Any] = {
            "encoder": self.encoder.config,
            "targets": self.targets,
            "use_encoder_features": use_encoder_features,
            "use_composition_features": use_composition_features,
            "reduce": reduce,
            "dropout": dropout,
            "origins": origins,
        }
        width = self.encoder.config["hidden_dim"]
        features = self.encoder.config["latent_dim"] + (width if use_encoder_features else 0)
        self.norm = nn.LayerNorm(features)
        self.register_buffer("elements", element_table())
        self.elements: Tensor
        if use_composition_features:
            features += STATISTICS * self.elements.shape[1]
        self.head = nn.Sequential(
            nn.Linear(features, width),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(width, len(self.targets)),
        )
        self.register_buffer("mean", torch.zeros(len(self.targets)))
        self.register_buffer("std", torch.ones(len(self.targets)))
        self.mean: Tensor
        self.std: Tensor

    def train(self, mode: bool = True) -> Predictor:
        """Training mode; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if not any(p.requires_grad for p in self.encoder.parameters()):
            self.encoder.eval()
        return self

    def standardise(self, table: Table, mean: Sequence[float | None], std: Sequence[float | None]) -> None:
        """Set the mean and the standard deviation of each target.

        Args:
            table: crystals with labels, which give what is None below.
            mean: K means in the targets' units.
            std: K standard deviations in the targets' units; zero becomes one.
        """
        for k, name in enumerate(self.targets):
            values = table.properties[name]
            known = values[~values.isnan()]
            given_mean, given_std = mean[k], std[k]
            self.mean[k] = known.mean() if given_mean is None else given_mean
            spread = known.std(correction=0).item() if given_std is None else given_std
            self.std[k] = spread if spread > 0 else 1.0

    def forward(self, crystals: Crystals) -> Tensor:
        """Standardised predictions (B, K) at the given origins."""
        posterior = self.encoder(crystals)
        atoms = torch.cat([posterior.mean, posterior.hidden], -1) if self.use_encoder_features else posterior.mean
        pooled = self.norm(masked_mean(atoms, posterior.mask))
        if self.use_composition_features:
            pooled = torch.cat([pooled, composition_statistics(self.elements, crystals.numbers)], -1)
        if self.reduce == "sum":
            pooled = pooled * crystals.num_atoms.unsqueeze(-1)
        return self.head(pooled)

    def loss(self, crystals: Crystals, weights: Tensor) -> dict[str, Tensor]:
        """Mean absolute error of the standardised targets, each over the crystals that have the label.

        Args:
            crystals: a batch whose `properties` hold the targets; missing labels are NaN.
            weights: (K,) weight of each target.

        Returns:
            `loss`, and the term of each target by its name; zero for a target without labels in this batch.
        """
        truth = torch.stack([crystals.properties[name] for name in self.targets], -1)  # (B, K)
        known = ~truth.isnan()
        wanted = torch.where(known, (truth - self.mean) / self.std, 0.0)
        errors = (self(crystals) - wanted).abs() * known
        terms = errors.sum(0) / known.sum(0).clamp(min=1)
        return {"loss": (terms * weights).sum(), **dict(zip(self.targets, terms, strict=True))}

    @torch.no_grad()
    def predict(self, crystals: Crystals) -> Tensor:
        """Predictions (B, K) in the units of the targets, averaged over origins.

        The origins are the atoms that `canonical` chooses among, at most `origins` of them. If a crystal has no more
        than that, its prediction does not depend on shifts and permutations.
        """
        candidates = origin_atoms(crystals)
        count = candidates.sum(1).clamp(max=self.origins)
        rank = torch.where(candidates, candidates.cumsum(1) - 1, -1)
        total = self.mean.new_zeros(len(crystals), len(self.targets))
        for k in range(int(count.max()) if len(crystals) else 0):
            rows = (count > k).nonzero().flatten()
            atom = (rank == k).int().argmax(1, keepdim=True)[rows]
            total[rows] += self(shift_to_atom(crystals[rows], atom))
        return total / count.unsqueeze(1) * self.std + self.mean


def predict_table(model: Predictor, table: Table) -> Tensor:
    """(M, K) predictions for the M crystals of a table, in the targets' units, on the CPU."""
    out = torch.zeros(len(table), len(model.targets))
    for rows, crystals in in_batches(table, 256):
        out[rows] = model.predict(crystals.to(model.mean.device)).cpu()
    return out


def labelled(table: Table, targets: Sequence[str]) -> Table:
    """The rows that have at least one of the targets.

    Raises:
        UserError: a target is not among the labels, or has no value at all.
    """
    for name in targets:
        if name not in table.properties or bool(table.properties[name].isnan().all()):
            known = ", ".join(table.properties) or "none"
            raise UserError(f"{table.path}: no numbers in a column '{name}'; labels there: {known}", "change targets:")
    known = torch.stack([~table.properties[name].isnan() for name in targets]).any(0)
    return table.select(known.nonzero().flatten())


def validate(model: Predictor, table: Table, weights: Tensor) -> dict[str, float]:
    """Mean absolute error of each target in its unit, and their weighted sum in standard deviations.

    Args:
        model: in evaluation mode.
        table: crystals with labels; missing ones are NaN.
        weights: (K,) weight of each target.

    Returns:
        `val/loss`, and `val/<target>_mae` of each target.
    """
    prediction = predict_table(model, table)
    metrics, loss = {}, 0.0
    for k, name in enumerate(model.targets):
        mae = (prediction[:, k] - table.properties[name]).abs().nanmean()
        metrics[f"val/{name}_mae"] = mae.item()
        loss += weights[k].item() * (mae / model.std[k].cpu()).item()
    return {"val/loss": loss, **metrics}
