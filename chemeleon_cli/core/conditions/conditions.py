"""What a generator can be asked for: a band gap, elements, a composition, a space group, a class, oxidation states.

Every condition can be left unsaid (classifier-free guidance, Ho & Salimans 2022). In tensors, what is not said is NaN
for numbers and 0 for all else; a tensor has a row for each crystal. A composition says which element each atom is:
crystals in canonical order have their atoms sorted by atomic number, so the formula and the number of atoms leave
nothing open.

Oxidation states are the one condition that is drawn where nothing is asked for: those of a training crystal, atom by
atom, and with them its size. Charges then balance from the start, and which elements can have them is an easy question.

Legend: B crystals, N atoms padded, H hidden width, C conditions.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chemeleon_cli.core.data.crystals import atom_mask
from chemeleon_cli.core.data.limits import MAX_Z
from chemeleon_cli.core.models.layers import masked_mean, mlp
from chemeleon_cli.errors import UserError, did_you_mean

SPACE_GROUPS = 230
LARGEST_UNIT = 1000
"""Atoms of a formula unit."""
PER_ATOM = ("composition", "oxidation_states")
"""Kinds that say something of each atom."""
CODED_ALIKE = ("composition", "chemical_system", "space_group", "oxidation_states")
"""Kinds whose tensors mean the same in every model, whatever it was trained on."""
LOWEST_STATE, HIGHEST_STATE = -5, 8
STATE_CODES = HIGHEST_STATE - LOWEST_STATE + 3
UNKNOWN_STATE = "x"
"""Of atoms in a crystal whose charges do not balance in any way that is known; never drawn."""

Wanted = Mapping[str, Any]
"""What one crystal is asked to be: number, formula, "Li-O", space group or class by the condition's name; None is
not said."""

Settings = Mapping[str, Mapping[str, Any]]
"""A model's conditions by name: `kind` ("value", "composition", "chemical_system", "space_group", "category" or
"oxidation_states"), with `mean` and `std` of a value in the train split, and `known` of all others: the atomic numbers,
space groups or classes that it has; of oxidation states, how many crystals have them by their text, such as "-2 -2 4",
an entry for each atom."""


@dataclass(frozen=True)
class Said:
    """What B crystals are asked to be, as a denoiser reads it.

    Attributes:
        values: by the condition's name: (B,) float of a value; (B,) int64 number of a space group or 1 + index of a
            class; (B, MAX_Z + 1) bool, element Z in a chemical system; (B, N) int64 atomic numbers of a composition,
            or codes of oxidation states.
        numbers: (B, N) atomic numbers that the crystals are to have, ascending, 0 at padding; None: any.
    """

    values: dict[str, Tensor] = field(default_factory=dict)
    numbers: Tensor | None = None

    def to(self, device: torch.device) -> Said:
        """The same on another device."""
        numbers = None if self.numbers is None else self.numbers.to(device)
        return Said({name: value.to(device) for name, value in self.values.items()}, numbers)


NOTHING = Said()
"""Nothing is asked for."""


class Conditions(nn.Module):
    """Conditions as vectors that a denoiser adds to what it knows of crystals and atoms.

    Args:
        hidden_dim: H.
        settings: what there is to say.
    """

    def __init__(self, hidden_dim: int, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.embeddings = nn.ModuleList(mlp(_width(s), hidden_dim, hidden_dim) for s in settings.values())
        self.missing = nn.Parameter(torch.zeros(len(settings), hidden_dim))

    def forward(self, values: Mapping[str, Tensor], num_atoms: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """What is said, and the learned vector of each condition that is not.

        Args:
            values: see `Said`; a name that is not there is not said of any crystal.
            num_atoms: (B,).
            width: N.

        Returns:
            (B, N, H) for atoms and (B, H) for crystals.
        """
        B, mask = len(num_atoms), atom_mask(num_atoms, width)
        crystals = self.missing.new_zeros(B, self.missing.shape[1])
        atoms = crystals.unsqueeze(1)
        for (name, s), embedding, missing in zip(self.settings.items(), self.embeddings, self.missing, strict=True):
            per_atom = s["kind"] in PER_ATOM
            told = missing.expand(B, width, -1) if per_atom else missing.expand(B, -1)
            if name in values:
                said = is_said(values[name]).view(-1, *[1] * (told.ndim - 1))
                told = torch.where(said, embedding(_features(s, values[name])), told)
            if per_atom:
                atoms, told = atoms + told, masked_mean(told, mask)
            crystals = crystals + told
        return atoms.expand(-1, width, -1), crystals

    @torch.no_grad()
    def take_over(self, old: Conditions) -> set[str]:
        """Copy what another model has learned of conditions that mean the same here; the names of these."""
        alike = set()
        for i, (name, s) in enumerate(old.settings.items()):
            if s["kind"] in CODED_ALIKE and self.settings.get(name, {}).get("kind") == s["kind"]:
                own = list(self.settings).index(name)
                self.embeddings[own].load_state_dict(old.embeddings[i].state_dict())
                self.missing[own] = old.missing[i]
                alike.add(name)
        return alike

    def add_when_unsaid(self, names: Collection[str]) -> tuple[Tensor, Tensor]:
        """(H,) for atoms and (H,) for crystals: what these conditions add where they are not said."""
        rows = [i for i, name in enumerate(self.settings) if name in names]
        of_atoms = [i for i in rows if list(self.settings.values())[i]["kind"] in PER_ATOM]
        return self.missing[of_atoms].sum(0), self.missing[rows].sum(0)


def is_said(value: Tensor) -> Tensor:
    """(B,) bool, of one of `Said.values`."""
    return ~value.isnan() if value.is_floating_point() else (value != 0).reshape(len(value), -1).any(1)


def drop(said: Said, rates: Mapping[str, float], generator: torch.Generator) -> Said:
    """Leave each condition of each crystal unsaid with the probability `rates[name]`, each on its own."""
    values = {}
    for name, value in said.values.items():
        gone = torch.rand(len(value), generator=generator) < rates[name]
        values[name] = value.masked_fill(gone.view(-1, *[1] * (value.ndim - 1)), _null(value))
    return Said(values)


def unsaid(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors with nothing said in them."""
    return {name: torch.full_like(value, _null(value)) for name, value in values.items()}


def encode(settings: Settings, wanted: Sequence[Wanted], num_atoms: Tensor) -> Said:
    """What B crystals are asked to be.

    Args:
        settings: the model's conditions.
        wanted: of each crystal.
        num_atoms: (B,); whole multiples of the formulas that are wanted, and as many as there are oxidation states.

    Raises:
        UserError: a condition that the model was not trained for, a value that it does not know, or a formula or
            oxidation states that do not fit the number of atoms.
    """
    rows = [resolve(settings, one) for one in wanted]
    values = {}
    for name in {name: None for row in rows for name in row}:
        s = settings[name]
        codes = [None if row.get(name) is None else _code(name, s, row[name]) for row in rows]
        values[name] = _tensor(s["kind"], codes, num_atoms)
    numbers = next((v for name, v in values.items() if settings[name]["kind"] == "composition"), None)
    if numbers is not None and not is_said(numbers).all():
        raise ValueError("a batch has crystals with a composition and crystals without")
    return Said(values, numbers)


def resolve(settings: Settings, wanted: Wanted) -> dict[str, Any]:
    """What is wanted by the names of the model; the name of a kind stands for its only condition of that kind.

    Raises:
        UserError: the model was not trained for it.
    """
    out = {}
    for name, value in wanted.items():
        of_kind = [own for own, s in settings.items() if s["kind"] == name]
        own = name if name in settings or len(of_kind) != 1 else of_kind[0]
        if own not in settings:
            have = ", ".join(f"{n} ({s['kind']})" for n, s in settings.items()) or "no conditions"
            raise UserError(
                f"the model was not trained for the condition '{name}'; it has {have}{did_you_mean(name, settings)}",
                "train-ldm takes a section conditions: that says what a model can be asked for",
            )
        if value is not None:
            out[own] = value
    return out


def formula_of(settings: Settings, wanted: Wanted) -> str | None:
    """The composition that is wanted, None where that is left open.

    Raises:
        UserError: the model was not trained for it, or does not know its elements.
    """
    for name, value in resolve(settings, wanted).items():
        if settings[name]["kind"] == "composition":
            _code(name, settings[name], value)
            return str(value)
    return None


@functools.lru_cache(maxsize=10_000)
def formula_unit(text: str) -> tuple[int, ...]:
    """Atomic numbers of the smallest formula unit, ascending: "Sr2Ti2O6" -> (8, 8, 8, 22, 38).

    Raises:
        UserError: it is no formula with whole numbers, or a very large one.
    """
    from pymatgen.core import Composition, Element

    mend = "write it like SrTiO3"
    try:
        amounts = Composition(str(text)).get_el_amt_dict()
        counts = {Element(symbol).Z: amount for symbol, amount in amounts.items()}
    except ValueError as error:
        raise UserError(f"composition: found '{text}'; expected a formula ({error})", mend) from None
    if not counts or any(not float(amount).is_integer() or amount < 1 for amount in counts.values()):
        raise UserError(f"composition: found '{text}'; expected whole numbers of atoms", mend)
    divisor = math.gcd(*(round(amount) for amount in counts.values()))
    if (size := sum(counts.values()) / divisor) > LARGEST_UNIT:
        found = f"composition: found '{text}', with {size:g} atoms in a formula unit"
        raise UserError(f"{found}; expected at most {LARGEST_UNIT:,}", mend)
    return tuple(z for z in sorted(counts) for _ in range(round(counts[z]) // divisor))


def state_codes(text: str) -> tuple[int, ...]:
    """Oxidation states as they stand in a tensor: 1 is unknown, 2 the lowest there is, 0 stays for what is not said."""
    whole = [None if word == UNKNOWN_STATE else int(word) for word in text.split()]
    return tuple(1 if q is None else 2 + min(max(q, LOWEST_STATE), HIGHEST_STATE) - LOWEST_STATE for q in whole)


def state_shares(texts: Iterable[str]) -> Tensor:
    """(K, C) how much of each crystal's atoms has each of the C codes of oxidation states."""
    codes = [torch.tensor(state_codes(text)) for text in texts]
    return torch.stack([F.one_hot(code, STATE_CODES).float().mean(0) for code in codes])


def assign_elements(logits: Tensor, numbers: Tensor) -> Tensor:
    """The likeliest way to give atoms the elements that they must have, each exactly as often as it is there.

    Args:
        logits: (B, N, MAX_Z) of a decoder; column k stands for atomic number k + 1.
        numbers: (B, N) the elements of each crystal in any order, 0 at padding.

    Returns:
        (B, N) the elements of each crystal in the order of its atoms.
    """
    from scipy.optimize import linear_sum_assignment

    costs = -logits.detach().double().log_softmax(-1).cpu().numpy()
    costs = np.nan_to_num(costs, nan=0.0, posinf=1e6)  # latents without bounds still get the elements asked for
    out = np.zeros(numbers.shape, np.int64)
    for row, cost, wanted in zip(out, costs, numbers.cpu().numpy(), strict=True):
        elements = wanted[wanted > 0]
        atoms, chosen = linear_sum_assignment(cost[: len(elements), elements - 1])
        row[atoms] = elements[chosen]
    return torch.from_numpy(out).to(numbers.device)


def _null(value: Tensor) -> float:
    return math.nan if value.is_floating_point() else 0


def _width(s: Mapping[str, Any]) -> int:
    widths = {"value": 1, "space_group": SPACE_GROUPS + 1, "oxidation_states": STATE_CODES}
    return len(s["known"]) + 1 if s["kind"] == "category" else widths.get(s["kind"], MAX_Z + 1)


def _features(s: Mapping[str, Any], value: Tensor) -> Tensor:
    """(B, F), or (B, N, F) of kinds PER_ATOM: a standardised number, or zeros and ones; anything where it is unsaid."""
    if s["kind"] == "value":
        return ((value - s["mean"]) / s["std"]).nan_to_num().unsqueeze(-1)
    return value.float() if s["kind"] == "chemical_system" else F.one_hot(value, _width(s)).float()


def _code(name: str, s: Mapping[str, Any], value: Any) -> Any:
    """A value as it stands in a tensor: a number; atomic numbers; codes; the number of a space group, of a class."""
    kind, found = s["kind"], f"{name}: found {value!r}"
    if kind == "value":
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"{found}; expected a number")
        return float(value)
    if kind == "category":
        if str(value) not in s["known"]:
            raise UserError(f"{found}; the model knows {', '.join(s['known'])}{did_you_mean(str(value), s['known'])}")
        return s["known"].index(str(value)) + 1
    if kind == "space_group":
        if isinstance(value, bool) or value not in range(1, SPACE_GROUPS + 1):
            raise UserError(f"{found}; expected the number of a space group, 1 to {SPACE_GROUPS}")
        if value not in s["known"]:
            raise UserError(f"{found}; none of the crystals that the model was trained on has that space group")
        return int(value)
    if kind == "oxidation_states":
        if str(value) not in s["known"]:
            raise UserError(
                f"{found}; no crystal that the model was trained on has these oxidation states",
                "one for each atom, lightest element first, such as '-2 -2 4'; drawn where nothing is asked for",
            )
        return state_codes(str(value))
    elements = formula_unit(value) if kind == "composition" else _system(name, value)
    unknown = sorted(set(elements) - set(s["known"]))
    if unknown:
        from pymatgen.core import Element

        symbols = ", ".join(Element.from_Z(z).symbol for z in unknown)
        raise UserError(f"{found}; the model knows no {symbols}", "name elements of the crystals it was trained on")
    return elements


def _system(name: str, text: Any) -> list[int]:
    from pymatgen.core import Element

    try:
        return sorted({Element(symbol.strip()).Z for symbol in str(text).split("-")})
    except ValueError:
        raise UserError(f"{name}: found {text!r}; expected elements joined by '-', such as Li-Fe-P-O") from None


def _tensor(kind: str, codes: Sequence[Any], num_atoms: Tensor) -> Tensor:
    if kind == "value":
        return torch.tensor([math.nan if code is None else code for code in codes], dtype=torch.float32)
    if kind in ("category", "space_group"):
        return torch.tensor([code or 0 for code in codes])
    if kind == "chemical_system":
        out = torch.zeros(len(codes), MAX_Z + 1, dtype=torch.bool)
        for row, elements in zip(out, codes, strict=True):
            row[list(elements or ())] = True
        return out
    out = torch.zeros(len(codes), int(num_atoms.max()), dtype=torch.int64)
    for row, unit, count in zip(out, codes, num_atoms.tolist(), strict=True):
        if unit is not None:
            if count % len(unit) or (kind == "oxidation_states" and count != len(unit)):
                raise UserError(f"{kind}: found {len(unit)} atoms; they do not fit a crystal of {count}")
            row[:count] = torch.tensor(unit).repeat_interleave(count // len(unit))
    return out
