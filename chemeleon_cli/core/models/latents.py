"""A table of crystals as latents, encoded once, and what is said of each: what the denoiser trains on.

The VAE is frozen by then, so encoding every batch anew would be work done over and over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from pymatgen.core import Composition, Element
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from chemeleon_cli.core.conditions.conditions import PER_ATOM, UNKNOWN_STATE, Said, Settings, state_codes
from chemeleon_cli.core.data.batches import in_batches
from chemeleon_cli.core.data.dataset import ID_COLUMN, Table
from chemeleon_cli.core.data.limits import MAX_Z
from chemeleon_cli.core.models.vae import VAE
from chemeleon_cli.errors import UserError


@dataclass(frozen=True)
class Latents:
    """Posterior means of a table's crystals with A atoms in all.

    Each crystal is there in its canonical form alone. Other origins are other descriptions of the same crystal, and
    a generator that learns all of them spreads itself over copies.

    Attributes:
        means: (A, D), the atoms of one crystal after the other.
        table: the crystals.
        labels: what is known of the M crystals, by the condition's name; rows as in `conditions.Said.values`.
    """

    means: Tensor
    table: Table
    labels: Mapping[str, Tensor] = field(default_factory=dict)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, D) latents of the chosen crystals, zero at padding, and their (B,) atom counts."""
        atoms, mask = self.table.atoms_of(rows)
        return self.means[atoms] * mask.unsqueeze(-1), self.table.num_atoms[rows]

    def said(self, rows: Tensor) -> Said:
        """What is known of the chosen crystals."""
        width = int(self.table.num_atoms[rows].max())
        return Said({name: v[rows, :width] if name in PER_ATOM else v[rows] for name, v in self.labels.items()})


@torch.no_grad()
def encode(vae: VAE, table: Table, batch_size: int, conditions: Settings | None = None) -> Latents:
    """Encode a table of canonical crystals, `batch_size` at a time, on the device where the VAE is."""
    device = next(vae.parameters()).device
    means = torch.zeros(len(table.numbers), vae.config["latent_dim"])
    for rows, crystals in in_batches(table, batch_size):
        atoms, mask = table.atoms_of(rows)
        means[atoms[mask]] = vae.encoder(crystals.to(device)).mean[mask.to(device)].cpu()
    return Latents(means, table, {name: _label(table, name, s) for name, s in (conditions or {}).items()})


@torch.no_grad()
def elements_kept(vae: VAE, latents: Latents, rows: Tensor) -> float:
    """The share of atoms of the chosen crystals that the decoder gives their element: near 1, unless the autoencoder
    was trained on other elements."""
    device = next(vae.parameters()).device
    x, num_atoms = latents.batch(rows)
    found = vae.decoder(x.to(device), num_atoms.to(device)).to_crystals().numbers.cpu()
    atoms, mask = latents.table.atoms_of(rows)
    return (found == latents.table.numbers[atoms])[mask].double().mean().item()


def learn(table: Table, kinds: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """What a model trained on a table can be asked for.

    Args:
        table: the train split.
        kinds: the kind of each condition by its name, which is that of a column for a "value" or a "category".

    Returns:
        Settings for `conditions.Conditions`.

    Raises:
        UserError: there is no such column, or nothing in it.
    """
    settings: dict[str, dict[str, Any]] = {}
    for name, kind in kinds.items():
        if kind == "value":
            values = table.properties.get(name, torch.zeros(0)).double()
            values = values[~values.isnan()]
            if not len(values):
                raise UserError(f"{table.path}: no numbers in a column '{name}' to condition on")
            std = values.std(correction=0).item()
            settings[name] = {"kind": kind, "mean": values.mean().item(), "std": std or 1.0}
            continue
        if kind == "category":
            known: Any = sorted(set(_texts(table, name)) - {""})
        elif kind == "oxidation_states":
            known = dict(sorted(Counter(t for t in _states(table) if UNKNOWN_STATE not in t).items()))
        elif kind == "space_group":
            known = sorted(set(table.space_groups.tolist()) - {0})
        else:
            known = table.numbers.unique().tolist()
        if not known:
            raise UserError(f"{table.path}: nothing to condition on in '{name}'")
        settings[name] = {"kind": kind, "known": known}
    return settings


def _label(table: Table, name: str, s: Mapping[str, Any]) -> Tensor:
    """One condition of all crystals of a table; an element, space group or class that the train split does not have
    is not said."""
    if s["kind"] == "value":
        return table.properties.get(name, torch.full((len(table),), torch.nan))
    if s["kind"] == "category":
        place = {text: number for number, text in enumerate(s["known"], start=1)}
        return torch.tensor([place.get(text, 0) for text in _texts(table, name)])
    if s["kind"] == "oxidation_states":
        codes = [torch.tensor(state_codes(text)) for text in _states(table)]
        return pad_sequence(codes, batch_first=True)
    known = torch.tensor(s["known"])
    if s["kind"] == "space_group":
        return table.space_groups.where(torch.isin(table.space_groups, known), 0)
    numbers = table.crystals().numbers
    numbers = numbers * torch.isin(numbers, torch.cat([known, known.new_zeros(1)])).all(1, keepdim=True)
    if s["kind"] == "composition":
        return numbers
    out = torch.zeros(len(table), MAX_Z + 1, dtype=torch.bool).scatter_(1, numbers, True)
    out[:, 0] = False  # padding
    return out


def _states(table: Table) -> list[str]:
    """The oxidation states of the atoms of each crystal, in their order, as text. Where an element has a mean between
    two whole numbers, as many of its atoms have the higher one as balance: Fe in Fe3O4 has 2, 3 and 3."""
    from chemeleon_cli.core.data.validity import oxidation_states

    found = []
    for numbers in table.numbers.split(table.num_atoms.tolist()):
        counts = Counter(Element.from_Z(z).symbol for z in numbers.tolist())  # in the order of the atoms
        states = oxidation_states(Composition(counts))
        words = []
        for symbol, count in counts.items():
            low, more = (0, 0) if states is None else divmod(round(states[symbol] * count), count)
            each = [low] * (count - more) + [low + 1] * more
            words += [UNKNOWN_STATE] * count if states is None else map(str, each)
        found.append(" ".join(words))
    return found


def _texts(table: Table, name: str) -> list[str]:
    """A label column as M texts, empty where there is none; whole numbers without a decimal point."""
    if name in table.properties:
        return ["" if v != v else str(int(v) if v.is_integer() else v) for v in table.properties[name].tolist()]
    try:
        frame = pd.read_csv(table.path, dtype=str, keep_default_na=False, usecols=[ID_COLUMN, name])
    except ValueError as error:
        raise UserError(f"{table.path}: needs the columns {ID_COLUMN} and '{name}' to condition on ({error})") from None
    texts = dict(zip(frame[ID_COLUMN], frame[name], strict=True))
    if len(texts) < len(frame):
        raise UserError(f"{table.path}: {ID_COLUMN} names some crystals twice, so '{name}' cannot be told apart")
    return [texts[i] for i in table.ids]
