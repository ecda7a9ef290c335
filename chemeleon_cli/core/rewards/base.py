"""What a reward component is, and a test for components written elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from chemeleon_cli.core.normalise import NormalizeFn
from chemeleon_cli.core.paths import split_path
from chemeleon_cli.core.scoring.needs import FindModel, Needs
from chemeleon_cli.core.scoring.settings import Section

if TYPE_CHECKING:
    from pymatgen.core import Structure
    from torch import Tensor

    from chemeleon_cli.core.scoring.candidates import Candidates
    from chemeleon_cli.core.scoring.context import ScoringContext

class RewardComponent(Section):
    """One thing that a crystal can be rewarded for.

    A subclass says what it `needs` and how to `compute`; its recipe fields are its attributes.
    """

    weight: float = 1.0
    """What the normalised number is multiplied by in the sum. 0: it is only reported, and leaves no crystal
    unscored."""
    normalize_fn: NormalizeFn = None
    """Over all scored crystals of the step: norm, to [0, 1]; std, to mean 0 and standard deviation 1;
    subtract_mean; clip, to [-1, 1]; none or null, as it is."""
    eps: Annotated[float, Field(gt=0)] = 1e-4
    """A spread below this counts as none: all crystals then get 0. In the component's unit."""

    relative: ClassVar[bool] = False
    """Whether a crystal's number depends on the others of the batch: it is then computed after those that do not, so
    that a crystal which one of these has no number for is left out of it."""

    @property
    def name(self) -> str:
        """What its metric and its column are called: its `type`, unless a subclass says more."""
        return self.type  # type: ignore[attr-defined]

    def needs(self) -> Needs:
        """What is to be loaded for it."""
        return Needs()

    def check(self, find_model: FindModel) -> list[tuple[str, str]]:
        """Look at what its fields name, without torch and without reading data.

        Returns:
            (field, what is wrong with it) of every mistake.
        """
        return []

    def prepare(self, context: ScoringContext) -> None:
        """Called once, before the first `compute`, with all that is loaded."""

    def compute(self, candidates: Candidates) -> Tensor:
        """A number for each of the B crystals.

        Returns:
            (B,) float; NaN where there is none, with the reason given to `candidates.note` if the crystal is
            possible.
        """
        raise NotImplementedError


def reference_mistake(folder: str | None) -> list[tuple[str, str]]:
    """What is wrong with the data folder that a `reference_dataset` names, as `RewardComponent.check` has it."""
    if folder is None or split_path(folder, "train") is not None:
        return []
    found = "which has no train.csv(.gz)" if Path(folder).is_dir() else "no such folder"
    return [("reference_dataset", f"found '{folder}', {found}; expected a folder made by `chemeleon fetch-data`")]


def check_reward(
    component: Any, structures: Sequence[Structure | None] | None = None, context: ScoringContext | None = None
) -> None:
    """Test a component, yours or ours, against what training and scoring rely on.

    It must return one float per crystal, NaN but never an infinity; give impossible crystals no say in what
    others get; return the same for the same crystals; edit none of the facts that it is handed; and survive a batch in
    which nothing is possible. In a run an edit reaches no other component, but all that this one reads after it.

    Args:
        component: anything with `compute(candidates) -> (B,)`.
        structures: crystals to try it on, possible ones; None takes four simple ones.
        context: what it needs loaded, see `core.scoring.loading.load_context`.

    Raises:
        AssertionError: it does not keep the contract; the message says where.
    """
    import torch
    from pymatgen.core import Lattice, Structure

    from chemeleon_cli.core.rewards.own_copies import OwnCopies
    from chemeleon_cli.core.scoring.candidates import Candidates

    def compute(batch: Sequence[Structure | None]) -> Tensor:
        candidates = OwnCopies(Candidates(batch, context), "reward")
        values = component.compute(candidates)
        edited = candidates.edited()
        assert edited is None, f"compute edited candidates.{edited}; expected it to edit a copy, as structure.copy() is"
        assert isinstance(values, torch.Tensor), f"compute returned {type(values).__name__}, expected a torch.Tensor"
        assert values.shape == (len(batch),), f"compute returned shape {tuple(values.shape)}, expected ({len(batch)},)"
        assert values.is_floating_point(), f"compute returned {values.dtype}, expected floats"
        assert not values.requires_grad, "compute returned a tensor that requires a gradient"
        assert not values.isinf().any(), "compute returned an infinity; NaN stands for 'no number'"
        return values.double().cpu()

    possible = _simple_crystals() if structures is None else list(structures)
    overlapping = Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0, 0, 0.01]])
    no_cell = Structure(Lattice([[float("nan")] * 3] * 3), ["Na"], [[0, 0, 0]])
    values = compute(possible)
    assert torch.equal(values.nan_to_num(), compute(possible).nan_to_num()), "the same crystals got other numbers"
    mixed = compute([overlapping, *possible, no_cell, None])
    assert torch.allclose(mixed[1:-2], values, rtol=1e-4, atol=1e-6, equal_nan=True), (
        "crystals got other numbers because impossible ones were in the batch"
    )
    compute([overlapping, no_cell, None])


def _simple_crystals() -> list[Structure | None]:
    from pymatgen.core import Lattice, Structure

    face = Lattice([[0, 2.8, 2.8], [2.8, 0, 2.8], [2.8, 2.8, 0]])
    return [
        Structure(face, ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
        Structure(face, ["Zn", "S"], [[0, 0, 0], [0.25, 0.25, 0.25]]),
        Structure(Lattice.cubic(2.87), ["Fe", "Fe"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
        Structure(
            Lattice.cubic(3.9),
            ["Sr", "Ti", "O", "O", "O"],
            [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
        ),
    ]
