"""Generated crystals and the facts about them, each computed once, for rewards and for `score`.

Legend: B candidates, of which V are possible and have a canonical form.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from pymatgen.core import Structure
from torch import Tensor

from chemeleon_cli.core.data.crystals import Crystals, canonical
from chemeleon_cli.core.data.validity import problem, smact_valid
from chemeleon_cli.core.potentials import relaxation
from chemeleon_cli.core.potentials.relaxation import Relaxed
from chemeleon_cli.core.scoring.context import ScoringContext
from chemeleon_cli.core.scoring.features import BATCH, features
from chemeleon_cli.core.scoring.hull import HOLE, Hull
from chemeleon_cli.core.scoring.novelty import Novelty, creativity, find_novel
from chemeleon_cli.core.scoring.uniqueness import Uniqueness, find_duplicates
from chemeleon_cli.errors import UserError


class Candidates:
    """B crystals to be scored. Every fact about them (`valid`, `novel`, `e_above_hull`, ...) but `rows` and `crystals`
    has B rows, on the CPU, with NaN, False or None for missing values.

    Attributes:
        structures: as generated; None if there is no structure. An impossible one may contain NaN.
        context: what they are scored with.
        notes: why a possible crystal has no value: component or fact -> row -> reason.
        left_out: (B,) bool: possible crystals that a guard of the reward stopped. They are not scored and do not
            affect the scores of others. Set by the reward.
    """

    def __init__(self, structures: Sequence[Structure | None], context: ScoringContext | None = None) -> None:
        self.structures = list(structures)
        self.context = context or ScoringContext()
        self.notes: dict[str, dict[int, str]] = defaultdict(dict)
        self.left_out = torch.zeros(len(self.structures), dtype=torch.bool)
        self._predictions: dict[str, dict[str, Tensor]] = {}
        self._novelty: dict[str | None, Novelty] = {}
        self._creativity: dict[str | None, Tensor] = {}

    def __len__(self) -> int:
        return len(self.structures)

    def note(self, component: str, index: int, reason: str) -> None:
        """Record why a possible crystal gets no value from a component."""
        self.notes[component][index] = reason

    @functools.cached_property
    def problems(self) -> list[str | None]:
        """(B) Why each structure cannot be a crystal (see `validity.problem`), or None."""
        return [problem(structure) for structure in self.structures]

    @functools.cached_property
    def valid(self) -> Tensor:
        """(B,) bool: the crystal is possible: known elements, a sane cell, 4-100 Å^3 per atom, distances of at least
        0.5 Å."""
        return torch.tensor([reason is None for reason in self.problems], dtype=torch.bool)

    @functools.cached_property
    def canonical(self) -> list[Structure | None]:
        """(B) The canonical form of each possible crystal, from which all facts below are computed; None if there is
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
        """(V,) int64 indices of the candidates that have a canonical form."""
        return torch.tensor([i for i, form in enumerate(self.canonical) if form is not None], dtype=torch.int64)

    @functools.cached_property
    def crystals(self) -> Crystals:
        """The V canonical crystals; `scatter` maps values computed from them back to B rows."""
        return Crystals.from_structures([form for form in self.canonical if form is not None])

    @property
    def has_form(self) -> Tensor:
        """(B,) bool: the crystal has a canonical form."""
        return torch.tensor([form is not None for form in self.canonical], dtype=torch.bool)

    def scatter(self, values: Tensor) -> Tensor:
        """Map (V, ...) to (B, ...), on the CPU, with NaN for candidates that have no canonical form."""
        out = torch.full((len(self), *values.shape[1:]), torch.nan)
        out[self.rows] = values.detach().float().cpu()
        return out

    def each(self, function: Callable[[Structure], float], component: str = "each") -> Tensor:
        """Apply a function to the canonical structure of each possible crystal.

        Args:
            function: may raise ValueError for a crystal that it has no value for; the message is noted as the reason.
            component: name under which reasons are noted.

        Returns:
            (B,) float64, NaN where there is no value.
        """
        out = torch.full((len(self),), torch.nan, dtype=torch.float64)
        for i, form in enumerate(self.canonical):
            if form is not None:
                try:
                    out[i] = float(function(form))
                except ValueError as error:
                    self.note(component, i, str(error))
        return out

    @functools.cached_property
    def smact_valid(self) -> Tensor:
        """(B,) bool: possible, and charge-balanced by SMACT's rule (see `validity.smact_valid`)."""
        found = [form is not None and smact_valid(form.composition) for form in self.canonical]
        return torch.tensor(found, dtype=torch.bool)

    # --- unique and novel -----------------------------------------------------------------------

    @property
    def ranking(self) -> list[float] | None:
        """(B) eV/atom, the energy or, with a hull, the energy above it; None without a potential. The duplicate with
        the lowest value is the representative. Where the potential fails, the energy above the hull is NaN, and NaN
        counts as the highest."""
        if self.context.energy_model is None:
            return None
        return (self.energy_per_atom if self.context.hull is None else self.e_above_hull).tolist()

    @functools.cached_property
    def uniqueness(self) -> Uniqueness:
        """The duplicates among these crystals and, in a training run, of crystals generated earlier. Of duplicates
        only the one with the lowest `ranking` is unique."""
        return find_duplicates(self.canonical, self.context.memory, self.ranking, self.context.matching)

    def novelty(self, name: str | None = None) -> Novelty:
        """Comparison of these crystals with a reference set.

        Args:
            name: of the set in the context; None for the training set of the generator.

        Raises:
            UserError: the context holds no such set.
        """
        self._check_known(name)
        if name not in self._novelty:
            self._novelty[name] = find_novel(self.canonical, self.context.known[name], self.context.matching)
        return self._novelty[name]

    def creativity_against(self, name: str | None) -> Tensor:
        """(B,) float64, dimensionless: `novelty.creativity` of each crystal; NaN where unknown.

        Args:
            name: of the reference set, as in `novelty`.
        """
        if name not in self._creativity:
            values = creativity(self.canonical, self.uniqueness, self.novelty(name), self.context.matching)
            self._creativity[name] = torch.tensor(values, dtype=torch.float64)
        return self._creativity[name]

    @property
    def unique(self) -> list[bool | None]:
        """(B) Whether each crystal is unique in the batch and in the run (see `Uniqueness.unique`); None where unknown.

        Raises:
            UserError: the context holds no reference set; a run then keeps no memory of earlier crystals either.
        """
        self._check_known(next(iter(self.context.known), None))
        return self.uniqueness.unique

    @property
    def novel(self) -> list[bool | None]:
        """(B) Whether each crystal is absent from the training set of the generator; None where unknown."""
        return self.novelty().novel

    @property
    def creativity(self) -> Tensor:
        """(B,) `creativity_against` the training set of the generator."""
        return self.creativity_against(None)

    def _check_known(self, name: str | None) -> None:
        if name not in self.context.known:
            hint = "reward creativity, give a reward of your own `needs = ('novelty',)`, or score with --reference DIR"
            raise UserError("novelty needs a reference set", hint)

    # --- stable ---------------------------------------------------------------------------------

    @functools.cached_property
    def energy_per_atom(self) -> Tensor:
        """(B,) eV/atom, float64, by the potential, of the crystals without relaxation."""
        model = self.context.energy_model
        if model is None:
            raise UserError("these energies need a potential", "name one: --set reward.energy_model=chgnet")
        forms = [(i, form) for i, form in enumerate(self.canonical) if form is not None]
        out = torch.full((len(self),), torch.nan, dtype=torch.float64)
        for (i, form), energy in zip(forms, model.energies([form for _, form in forms]), strict=True):
            out[i] = energy.value / len(form)
            if energy.problem is not None:
                self.note("energy_per_atom", i, energy.problem)
        return out

    @functools.cached_property
    def e_above_hull(self) -> Tensor:
        """(B,) energy above the hull, eV/atom, float64, negative below it. NaN, with the reason noted, where the
        potential fails, the hull lacks references, or the crystal lies implausibly far below the hull."""
        energies = self.energy_per_atom.tolist()
        out = torch.full((len(self),), torch.nan, dtype=torch.float64)
        for i, form in enumerate(self.canonical):
            if form is None:
                continue
            if math.isnan(energies[i]):
                reason = self.notes.get("energy_per_atom", {}).get(i, "no energy")
            else:
                out[i], reason = self._hull.e_above_hull(form.composition, energies[i])
            if reason is not None:
                self.note("e_above_hull", i, reason)
        return out

    @functools.cached_property
    def relaxations(self) -> list[Relaxed | None]:
        """(B) The relaxation of each possible crystal, with the settings of the context; None for the others."""
        model, how = self.context.energy_model, self.context.relax
        if model is None or how is None:
            raise UserError(
                "relaxing needs a potential and settings", "name them: --set 'reward.relax={steps: 200, fmax: 0.05}'"
            )
        rows = self.rows.tolist()
        found: list[Relaxed | None] = [None] * len(self)
        forms = [form for form in self.canonical if form is not None]
        for i, result in zip(rows, relaxation.relax(model, forms, how.fmax, how.steps), strict=True):
            found[i] = result
            if result.problem is not None:
                self.note("relaxation", i, result.problem)
        return found

    @functools.cached_property
    def relaxed(self) -> Candidates:
        """The relaxed crystals, converged or not, in the same context; a structure is None if the relaxation failed."""
        structures = [None if result is None else result.structure for result in self.relaxations]
        relaxed = Candidates(structures, replace(self.context, relax=None))
        for i in self.rows.tolist():
            reason = relaxed.problems[i]
            if reason is not None:
                relaxed.note("e_above_hull", i, f"relaxation: {self.notes.get('relaxation', {}).get(i, reason)}")
        return relaxed

    @property
    def evaluated(self) -> Candidates:
        """The candidates that rewards are computed for: the relaxed ones if the context says so, else these."""
        return self.relaxed if self.context.relax is not None and self.context.reward_relaxed else self

    # --- guards ---------------------------------------------------------------------------------

    @functools.cached_property
    def too_close(self) -> Tensor:
        """(B,) bool: atoms closer than 0.5 Å."""
        return torch.tensor([reason == "distance" for reason in self.problems], dtype=torch.bool)

    @functools.cached_property
    def bad_cell(self) -> Tensor:
        """(B,) bool: a degenerate cell, or a volume outside 4-100 Å^3 per atom."""
        return torch.tensor([reason in ("cell", "volume") for reason in self.problems], dtype=torch.bool)

    @property
    def charge_imbalance(self) -> Tensor:
        """(B,) bool: possible, but not charge-balanced by SMACT's rule; elements and alloys pass."""
        return self.has_form & ~self.smact_valid

    @functools.cached_property
    def single_element(self) -> Tensor:
        """(B,) bool: possible, but made of a single element."""
        alone = [form is not None and len(form.composition.element_composition) == 1 for form in self.canonical]
        return torch.tensor(alone, dtype=torch.bool)

    @functools.cached_property
    def sparse_hull(self) -> Tensor:
        """(B,) bool: possible, but the hull lacks references for it (see `Hull.gap`)."""
        gaps = [form is not None and self._hull.gap(form.composition) is not None for form in self.canonical]
        return torch.tensor(gaps, dtype=torch.bool)

    @functools.cached_property
    def uncharted_alloy(self) -> Tensor:
        """(B,) bool: possible, but an alloy two of whose elements have no compound in the hull."""
        alone = [form is not None and self._hull.uncharted_alloy(form.composition) for form in self.canonical]
        return torch.tensor(alone, dtype=torch.bool)

    @property
    def potential_hole(self) -> Tensor:
        """(B,) bool: so far below a hull that is not sparse that the potential is more likely wrong."""
        _ = self.e_above_hull
        reasons = self.notes.get("e_above_hull", {})
        return torch.tensor([reasons.get(i, "").startswith(HOLE) for i in range(len(self))], dtype=torch.bool)

    @property
    def guards(self) -> dict[str, Tensor]:
        """(B,) bool of each guard by name, True where it stops a crystal; guards on the hull only if there is one."""
        names = ["too_close", "bad_cell", "charge_imbalance", "single_element"]
        if self.context.hull is not None:
            names += ["sparse_hull", "uncharted_alloy"] + ["potential_hole"] * (self.context.energy_model is not None)
        return {name: getattr(self, name) for name in names}

    @property
    def _hull(self) -> Hull:
        if self.context.hull is None:
            raise UserError("energies above the hull need a hull", "name one: --set reward.hull=hull.csv.gz")
        return self.context.hull

    # --- features and predictions ---------------------------------------------------------------

    @functools.cached_property
    def _features(self) -> tuple[Tensor, Tensor]:
        encoder = self.context.encoder
        if encoder is None:
            raise UserError("these features need a generator's autoencoder", "name the generator: --set model=NAME")
        widths = [encoder.config["latent_dim"], encoder.atom_embedding.embedding_dim]
        both = self._in_batches(lambda crystals: torch.cat(features(encoder, crystals), -1), sum(widths))
        structure, composition = both.split(widths, -1)
        return self.scatter(structure), self.scatter(composition)

    @property
    def structure_features(self) -> Tensor:
        """(B, D) latents of each crystal, averaged over its atoms."""
        return self._features[0]

    @property
    def composition_features(self) -> Tensor:
        """(B, E) atom-type embedding of each crystal, averaged over its atoms."""
        return self._features[1]

    @property
    def predictions(self) -> dict[str, Tensor]:
        """(B,) every target of every predictor, in the target's unit, by the target's name. If an earlier predictor has
        the same target, the name of the predictor is appended."""
        found: dict[str, Tensor] = {}
        for name in self.context.predictors:
            for target, values in self.predict(name).items():
                found[target if target not in found else f"{target}_{Path(name).name}"] = values
        return found

    def predict(self, name: str) -> dict[str, Tensor]:
        """(B,) every target of one predictor, in the target's unit.

        Args:
            name: of the predictor in the recipe.
        """
        if name not in self._predictions:
            predictor = self.context.predictors[name]
            values = self._in_batches(predictor.predict, len(predictor.targets))
            found = {target: self.scatter(values[:, k]) for k, target in enumerate(predictor.targets)}
            self._predictions[name] = found
        return self._predictions[name]

    def _in_batches(self, function: Callable[[Crystals], Tensor], width: int) -> Tensor:
        """Apply a function to all canonical crystals, in batches of similar size; (V, width)."""
        if not len(self.rows):
            return torch.zeros(0, width)
        order = torch.argsort(self.crystals.num_atoms, stable=True)
        values = torch.cat([function(self.crystals[rows].to(self.context.device)).cpu() for rows in order.split(BATCH)])
        return values[torch.argsort(order)]
