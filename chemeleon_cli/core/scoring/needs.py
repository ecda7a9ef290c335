"""What rewards and reports ask for before crystals are scored. Read with recipes, so without torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

FindModel = Callable[[str, str], Path | None]
"""(name, kind) -> checkpoint folder, or None for a published model, which is downloaded only when it is used; raises
UserError where there is no such model or it is of another kind."""


@dataclass(frozen=True)
class Needs:
    """What is to be loaded into a `ScoringContext`.

    Attributes:
        predictors: names of predictors.
        references: data folders whose features are compared with; None is the generator's training set.
        encoder: whether features of an autoencoder are used.
        known: data folders with whose crystals others are compared, those of all splits; None is the generator's
            training set, its train split alone.
        hull: whether energies above the hull are used.
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
