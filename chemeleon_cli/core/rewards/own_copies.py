"""The candidates that a user's reward gets: copies, so that its edits do not affect other components.

Common methods of pymatgen (`make_supercell`, `add_oxidation_state_by_guess`) and torch (`clamp_`) work in place. The
author of a reward should not have to think of the components that are computed after it.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from pymatgen.core import Structure
from torch import Tensor

from chemeleon_cli.core.scoring.candidates import Candidates
from chemeleon_cli.core.scoring.novelty import Novelty


class OwnCopies(Candidates):
    """The candidates of one component: each fact is copied when the component first reads it.

    Facts are still computed once for all components. Notes and context are not copied, because components are meant to
    write notes, and the context holds models and reference sets.

    Args:
        shared: the candidates of all components.
        component: name of the component, under which `each` notes reasons.
    """

    def __init__(self, shared: Candidates, component: str) -> None:
        self._shared, self._component = shared, component
        self.context, self.notes = shared.context, shared.notes

    def __len__(self) -> int:
        return len(self._shared)

    def __getattribute__(self, name: str) -> Any:
        own = object.__getattribute__(self, "__dict__")
        if name.startswith("_") or name in own or callable(getattr(OwnCopies, name, None)):
            return object.__getattribute__(self, name)
        shared = own["_shared"]
        value = getattr(shared, name)
        own[name] = self if value is shared else _copy(value, own["_component"])
        return own[name]

    def each(self, function: Callable[[Structure], float], component: str | None = None) -> Tensor:
        """See `Candidates.each`; applied to the copies, with reasons noted under the name of the component."""
        return super().each(function, component or self._component)

    def novelty(self, name: str | None = None) -> Novelty:
        """See `Candidates.novelty`."""
        return _copy(self._shared.novelty(name), self._component)

    def creativity_against(self, name: str | None) -> Tensor:
        """See `Candidates.creativity_against`."""
        return self._shared.creativity_against(name).clone()

    def predict(self, name: str) -> dict[str, Tensor]:
        """See `Candidates.predict`."""
        return _copy(self._shared.predict(name), self._component)

    def edited(self) -> str | None:
        """The first fact that the component has edited in place, for example `canonical[3] (NaCl)`, or None."""
        for name, value in vars(self).items():
            if name.startswith("_") or name in ("context", "notes") or value is self:
                continue
            found = _difference(value, getattr(self._shared, name, value))
            if found is not None:
                return name + found
        return None


def _copy(value: Any, component: str) -> Any:
    if isinstance(value, Structure):
        return value.copy()  # three times as fast as deepcopy
    if isinstance(value, Candidates):
        return OwnCopies(value, component)
    if isinstance(value, list):
        return [_copy(item, component) for item in value]
    return copy.deepcopy(value)


def _difference(own: Any, shared: Any) -> str | None:
    """Where a copy differs from its original, as a suffix of the name of the fact ("" for all of it); None if equal."""
    if isinstance(own, OwnCopies):
        edited = own.edited()
        return None if edited is None else f".{edited}"
    if dataclasses.is_dataclass(own):
        names = [field.name for field in dataclasses.fields(own)]  # not what is computed from them, and kept
        parts = [(f".{name}", getattr(own, name), getattr(shared, name)) for name in names]
    elif isinstance(own, dict) and isinstance(shared, dict) and own.keys() == shared.keys():
        parts = [(f"[{key!r}]", own[key], shared[key]) for key in own]
    elif isinstance(own, list) and isinstance(shared, list) and len(own) == len(shared):
        parts = [(f"[{i}]", *pair) for i, pair in enumerate(zip(own, shared, strict=True))]
    else:
        formula = f" ({shared.composition.reduced_formula})" if isinstance(shared, Structure) else ""
        return None if _same(own, shared) else formula
    found = ((name, _difference(mine, theirs)) for name, mine, theirs in parts)
    return next((name + rest for name, rest in found if rest is not None), None)


def _same(own: Any, shared: Any) -> bool:
    if isinstance(own, Tensor) and isinstance(shared, Tensor):
        return own.shape == shared.shape and bool(((own == shared) | (own.isnan() & shared.isnan())).all())
    if isinstance(own, Structure) and isinstance(shared, Structure):
        return json.dumps(own.as_dict(), default=str) == json.dumps(shared.as_dict(), default=str)  # NaN equals itself
    if isinstance(own, np.ndarray) and isinstance(shared, np.ndarray):
        return np.array_equal(own, shared, equal_nan=own.dtype.kind == "f")
    return bool(own == shared or (own != own and shared != shared))
