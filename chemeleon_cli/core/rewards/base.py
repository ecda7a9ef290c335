"""The base class of reward components, and a test for components of your own."""

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
    """One term of the reward of a crystal.

    A subclass defines what it `needs` and how to `compute` it. Its attributes are its fields in the recipe.
    """

    weight: float = 1.0
    """Factor on the normalised value in the sum. With 0 it is only reported, and leaves no crystal unscored."""
    normalize_fn: NormalizeFn = None
    """Normalisation over all scored crystals of the step: norm, to [0, 1]; std, to mean 0 and standard deviation 1;
    subtract_mean; clip, to [-1, 1]; none or null, no normalisation."""
    eps: Annotated[float, Field(gt=0)] = 1e-4
    """If the spread over the step is smaller than this, all crystals get 0. In the unit of the component."""

    relative: ClassVar[bool] = False
    """Whether the value of a crystal depends on the others of the batch. Such components are computed last, without
    crystals that another component has no value for."""

    @property
    def name(self) -> str:
        """Name of its metric and its column: its `type`, unless a subclass overrides it."""
        return self.type  # type: ignore[attr-defined]

    def needs(self) -> Needs:
        """What must be loaded for it."""
        return Needs()

    def check(self, find_model: FindModel) -> list[tuple[str, str]]:
        """Check its fields, without importing torch and without reading data.

        Returns:
            (field, message) for every mistake.
        """
        return []

    def prepare(self, context: ScoringContext) -> None:
        """Called once before the first `compute`, with everything that was loaded."""

    def compute(self, candidates: Candidates) -> Tensor:
        """Compute a value for each of the B crystals.

        Returns:
            (B,) float; NaN for a crystal without a value, whose reason is passed to `candidates.note` if the crystal is
            possible.
        """
        raise NotImplementedError


def reference_mistake(folder: str | None) -> list[tuple[str, str]]:
    """Check the data folder that a `reference_dataset` names; the result is as in `RewardComponent.check`."""
    if folder is None or split_path(folder, "train") is not None:
        return []
    found = "which has no train.csv(.gz)" if Path(folder).is_dir() else "no such folder"
    return [("reference_dataset", f"found '{folder}', {found}; expected a folder made by `chemeleon fetch-data`")]


def clip_mistakes(low: float | None, high: float | None) -> list[tuple[str, str]]:
    """Check that `clip_min` is below `clip_max`; the result is as in `RewardComponent.check`."""
    if low is not None and high is not None and low >= high:
        return [("clip_min", f"found {low:g}; expected less than clip_max, {high:g}")]
    return []


def check_reward(
    component: Any, structures: Sequence[Structure | None] | None = None, context: ScoringContext | None = None
) -> None:
    """Test that a component, yours or ours, does what training and scoring rely on.

    It must return one float per crystal, which may be NaN but not infinite; the values must not depend on impossible
    crystals in the batch, and must be the same for the same crystals; it must not edit the candidates; and it must not
    fail for a batch without possible crystals. In a run, edits do not affect other components, but they do affect what
    the component itself reads later.

    Args:
        component: any object with `compute(candidates) -> (B,)`.
        structures: possible crystals to test it on; None for four simple ones.
        context: what it needs to have loaded, see `core.scoring.loading.load_context`.

    Raises:
        AssertionError: the component breaks one of these rules, which the message names.
    """
    import torch
    from pymatgen.core import Lattice, Structure

    from chemeleon_cli.core.rewards.own_copies import OwnCopies
    from chemeleon_cli.core.scoring.candidates import Candidates

    def compute(batch: Sequence[Structure | None]) -> Tensor:
        candidates = OwnCopies(Candidates(batch, context), "reward")
        values = component.compute(candidates)
        edited = candidates.edited()
        assert edited is None, f"compute edited candidates.{edited}; expected it to edit a copy (structure.copy())"
        assert isinstance(values, torch.Tensor), f"compute returned {type(values).__name__}, expected a torch.Tensor"
        assert values.shape == (len(batch),), f"compute returned shape {tuple(values.shape)}, expected ({len(batch)},)"
        assert values.is_floating_point(), f"compute returned {values.dtype}, expected floats"
        assert not values.requires_grad, "compute returned a tensor that requires a gradient"
        assert not values.isinf().any(), "compute returned an infinity; expected NaN for a crystal without a value"
        return values.double().cpu()

    possible = _simple_crystals() if structures is None else list(structures)
    overlapping = Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0, 0, 0.01]])
    no_cell = Structure(Lattice([[float("nan")] * 3] * 3), ["Na"], [[0, 0, 0]])
    values = compute(possible)
    assert torch.equal(values.nan_to_num(), compute(possible).nan_to_num()), "the same crystals got other values"
    mixed = compute([overlapping, *possible, no_cell, None])
    assert torch.allclose(mixed[1:-2], values, rtol=1e-4, atol=1e-6, equal_nan=True), (
        "crystals got other values because impossible ones were in the batch"
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
