"""The oxidation state of each atom, such as "-2 -2 4" for a dioxide.

A text has one word for each atom of the crystal, in canonical order (the lightest element first): an integer, or `x`
for every atom of a crystal for which no known oxidation states balance.

In a tensor, a state is a code: 0 for not given (or padding), 1 for unknown (`x`), 2 for the lowest state, -5, and so on
up to 15 for the highest, 8.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from chemeleon_cli.core.arguments import PositiveInt
from chemeleon_cli.core.conditions.base import Condition, nothing_to_learn
from chemeleon_cli.core.data.dataset import Table
from chemeleon_cli.errors import UserError

LOWEST_STATE, HIGHEST_STATE = -5, 8
STATE_CODES = HIGHEST_STATE - LOWEST_STATE + 3
UNKNOWN_STATE = "x"


StatesText = Annotated[str, Field(pattern=r"^(x|-?\d{1,2})( (x|-?\d{1,2}))*$")]
"""Oxidation states of the atoms of a crystal, such as "-2 -2 4"; x of one that is unknown."""


@dataclass(frozen=True)
class OxidationStates(Condition):
    """The oxidation states of all atoms, as pymatgen guesses them from the composition.

    A crystal prior samples them (see `core.models.prior`), so the condition also stores how often each occurs.

    Attributes:
        known: number of crystals of the train split with these states, by their text; unknown states are left out.
    """

    known: Annotated[dict[StatesText, PositiveInt], Field(min_length=1)]

    kind = "oxidation_states"
    per_atom = True
    same_in_every_model = True

    @classmethod
    def fit(cls, name: str, table: Table) -> Self:
        """The oxidation states that occur in the table, counted."""
        known = dict(sorted(Counter(text for text in state_texts(table) if UNKNOWN_STATE not in text).items()))
        if not known:
            raise nothing_to_learn(name, table)
        return cls(name, known)

    @property
    def width(self) -> int:
        """A feature for each code."""
        return STATE_CODES

    def labels(self, table: Table) -> Tensor:
        """(M, N) int64 codes."""
        return pad_sequence([torch.tensor(state_codes(text)) for text in state_texts(table)], batch_first=True)

    def parse(self, value: Any) -> tuple[int, ...]:
        """A code for each atom."""
        if str(value) not in self.known:
            raise UserError(
                f"{self.name}: found {value!r}; no crystal that the model was trained on has these oxidation states",
                "give one for each atom, the lightest element first, such as '-2 -2 4'; "
                "without a request, the model chooses them itself",
            )
        return state_codes(str(value))

    def batch(self, parsed: Sequence[tuple[int, ...] | None], num_atoms: Tensor) -> Tensor:
        """(B, N) int64 codes."""
        out = torch.zeros(len(parsed), int(num_atoms.max()), dtype=torch.int64)
        for row, codes, count in zip(out, parsed, num_atoms.tolist(), strict=True):
            if codes is not None:
                if count != len(codes):
                    raise UserError(f"{self.name}: found {len(codes)} atoms; they do not fit a crystal of {count}")
                row[:count] = torch.tensor(codes)
        return out

    def features(self, values: Tensor) -> Tensor:
        """(B, N, F) one-hot."""
        return F.one_hot(values, self.width).float()


def state_codes(text: str) -> tuple[int, ...]:
    """The code of the oxidation state of each atom; states below -5 or above 8 get the code of that limit."""
    states = [None if word == UNKNOWN_STATE else int(word) for word in text.split()]
    return tuple(1 if q is None else 2 + min(max(q, LOWEST_STATE), HIGHEST_STATE) - LOWEST_STATE for q in states)


def state_shares(texts: Iterable[str]) -> Tensor:
    """(K, STATE_CODES) share of the atoms with each code, for each of K texts."""
    codes = [torch.tensor(state_codes(text)) for text in texts]
    return torch.stack([F.one_hot(code, STATE_CODES).float().mean(0) for code in codes])


def state_texts(table: Table) -> list[str]:
    """The oxidation states of every crystal of a table, as texts (see the top of this file).

    If the mean state of an element lies between two integers, as many of its atoms get the higher one as balance the
    charges: 2, 3 and 3 for Fe in Fe3O4.
    """
    from pymatgen.core import Composition, Element

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
