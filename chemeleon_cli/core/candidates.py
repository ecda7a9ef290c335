"""Generated crystals and what is known of them, each fact computed once, for rewards and for `score` alike.

Legend: B candidates; V of them possible, with a canonical form.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from pymatgen.core import Structure
from torch import Tensor

from chemeleon_cli.core import matching
from chemeleon_cli.core.crystals import Crystals, canonical
from chemeleon_cli.core.tools import BATCH, Tools, features
from chemeleon_cli.core.validity import problem, smact_valid
from chemeleon_cli.errors import UserError


class Candidates:
    """B crystals to be judged. Every fact has B rows, on the CPU, with NaN, False or None where there is
    none.

    Attributes:
        structures: as they came; None where there is none. An impossible one may hold NaN.
        tools: models and reference sets.
        notes: why a possible crystal has no number: component or fact -> row -> reason.
    """

    def __init__(self, structures: Sequence[Structure | None], tools: Tools | None = None) -> None:
        self.structures = list(structures)
        self.tools = tools or Tools()
        self.notes: dict[str, dict[int, str]] = defaultdict(dict)
        self._predictions: dict[str, dict[str, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.structures)

    def note(self, component: str, index: int, reason: str) -> None:
        """Say why a possible crystal gets no number from a component."""
        self.notes[component][index] = reason

    @functools.cached_property
    def problems(self) -> list[str | None]:
        """Why each cannot be a crystal (see `validity.problem`), or None."""
        return [problem(structure) for structure in self.structures]

    @functools.cached_property
    def valid(self) -> Tensor:
        """(B,) bool: a crystal is possible: known elements, a sane cell, 4-100 Å^3 per atom, distances >= 0.5
        Å."""
        return torch.tensor([reason is None for reason in self.problems], dtype=torch.bool)

    @functools.cached_property
    def canonical(self) -> list[Structure | None]:
        """The standard form of each possible crystal, which everything below sees; None where there is
        none."""
        forms: list[Structure | None] = []
        for i, (structure, reason) in enumerate(zip(self.structures, self.problems, strict=True)):
            form = None
            if structure is not None and reason is None:
                try:
                    form = canonical(structure)
                except ValueError as error:
                    self.note("canonical", i, str(error))
            forms.append(form)
        return forms

    @functools.cached_property
    def rows(self) -> Tensor:
        """(V,) int64: which candidates have a canonical form."""
        return torch.tensor([i for i, form in enumerate(self.canonical) if form is not None], dtype=torch.int64)

    @functools.cached_property
    def crystals(self) -> Crystals:
        """The V canonical crystals; `scatter` brings what is computed from them back to B rows."""
        return Crystals.from_structures([form for form in self.canonical if form is not None])

    def scatter(self, values: Tensor) -> Tensor:
        """(V, ...) to (B, ...), on the CPU, with NaN for candidates that have no canonical form."""
        out = torch.full((len(self), *values.shape[1:]), torch.nan)
        out[self.rows] = values.detach().float().cpu()
        return out

    def each(self, function: Callable[[Structure], float], component: str = "each") -> Tensor:
        """function(canonical structure) of each possible crystal.

        Args:
            function: may raise ValueError for a crystal that has no number; the message becomes its reason.
            component: whose reason it is.

        Returns:
            (B,) with NaN where there is no number.
        """
        out = torch.full((len(self),), torch.nan)
        for i, form in enumerate(self.canonical):
            if form is not None:
                try:
                    out[i] = float(function(form))
                except ValueError as error:
                    self.note(component, i, str(error))
        return out

    @functools.cached_property
    def smact_valid(self) -> Tensor:
        """(B,) bool: possible, and charges balance by SMACT's rule (see `validity.smact_valid`)."""
        found = [form is not None and smact_valid(form.composition) for form in self.canonical]
        return torch.tensor(found, dtype=torch.bool)

    @functools.cached_property
    def groups(self) -> list[int]:
        """The number of each crystal's group of duplicates, -1 where it has no canonical form."""
        return matching.unique_groups(self.canonical)

    @functools.cached_property
    def _features(self) -> tuple[Tensor, Tensor]:
        encoder = self.tools.encoder
        if encoder is None:
            raise UserError("these features need a generator's autoencoder", "name the generator: --set model=NAME")
        widths = [encoder.config["latent_dim"], encoder.atom_embedding.embedding_dim]
        both = self._in_batches(lambda crystals: torch.cat(features(encoder, crystals), -1), sum(widths))
        structure, composition = both.split(widths, -1)
        return self.scatter(structure), self.scatter(composition)

    @property
    def structure_features(self) -> Tensor:
        """(B, D) mean latent of each crystal."""
        return self._features[0]

    @property
    def composition_features(self) -> Tensor:
        """(B, E) mean atom-type embedding of each crystal."""
        return self._features[1]

    def predict(self, name: str) -> dict[str, Tensor]:
        """Every target of a predictor, (B,) each, in the target's unit.

        Args:
            name: what the recipe calls the predictor.
        """
        if name not in self._predictions:
            predictor = self.tools.predictors[name]
            values = self._in_batches(predictor.predict, len(predictor.targets))
            found = {target: self.scatter(values[:, k]) for k, target in enumerate(predictor.targets)}
            self._predictions[name] = found
        return self._predictions[name]

    def _in_batches(self, function: Callable[[Crystals], Tensor], width: int) -> Tensor:
        """function of all canonical crystals, like sizes together; (V, width)."""
        if not len(self.rows):
            return torch.zeros(0, width)
        order = torch.argsort(self.crystals.num_atoms, stable=True)
        values = torch.cat([function(self.crystals[rows].to(self.tools.device)).cpu() for rows in order.split(BATCH)])
        return values[torch.argsort(order)]
