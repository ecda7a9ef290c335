"""What rewards and reports need to have loaded. This is imported with recipes, so it does not import torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

FindModel = Callable[[str, str], Path | None]
"""(name, kind) -> checkpoint folder, or None for a published model, which is downloaded only when it is used; raises
UserError if there is no such model or it is of another kind."""


@dataclass(frozen=True)
class Needs:
    """What must be loaded into a `ScoringContext`.

    Attributes:
        predictors: names of predictors.
        references: data folders whose features are needed; None for the training set of the generator.
        encoder: whether features of an autoencoder are needed.
        known: data folders that novelty is measured against, with all splits; None for the training set of the
            generator, with its train split only.
        hull: whether energies above the hull are needed.
    """

    predictors: frozenset[str] = field(default_factory=frozenset)
    references: frozenset[str | None] = field(default_factory=frozenset)
    encoder: bool = False
    known: frozenset[str | None] = field(default_factory=frozenset)
    hull: bool = False

    def __or__(self, other: Needs) -> Needs:
        return Needs(
            self.predictors | other.predictors,
            self.references | other.references,
            self.encoder or other.encoder,
            self.known | other.known,
            self.hull or other.hull,
        )
