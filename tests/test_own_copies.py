"""What a user's reward does to the crystals that it is handed stays with it."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from levels import HULL, Levels, hull, relax_levels
from pymatgen.core import Lattice, Structure
from samples import body_centred, perovskite, rock_salt, zinc_blende
from torch import Tensor

from chemeleon_cli.core.data.crystals import Crystals
from chemeleon_cli.core.models.vae import Encoder
from chemeleon_cli.core.potentials import relaxation
from chemeleon_cli.core.rewards import CustomReward, ReinforceReward, check_reward
from chemeleon_cli.core.rewards.own_copies import OwnCopies
from chemeleon_cli.core.scoring.candidates import Candidates
from chemeleon_cli.core.scoring.context import References, ScoringContext
from chemeleon_cli.core.scoring.matching import Reference
from chemeleon_cli.core.scoring.novelty import Memory
from chemeleon_cli.core.scoring.settings import Relaxation

SALT = rock_salt(5.6)
CESIUM = body_centred(3.5, "Cs", "Cl")
IRON = body_centred(2.87, "Fe", "Fe")
CRUSHED = Structure(Lattice.cubic(1.0), ["Fe"], [[0, 0, 0]])
BATCH = [SALT, CRUSHED, CESIUM, None, perovskite(3.9), zinc_blende(5.41), IRON, SALT]


class MeanZ:
    """A predictor of the mean atomic number; a crystal of five atoms has none."""

    targets = ("mean_z",)

    def predict(self, crystals: Crystals) -> Tensor:
        mean = crystals.numbers.sum(1) / crystals.num_atoms
        return mean.masked_fill(crystals.num_atoms == 5, torch.nan).unsqueeze(1)


@pytest.fixture(autouse=True, scope="module")
def _relaxing_is_quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relaxation, "relax", relax_levels)
        yield


def context() -> ScoringContext:
    torch.manual_seed(0)
    encoder = Encoder(hidden_dim=16, num_heads=2, num_layers=1, latent_dim=4, dropout=0.0).eval()
    reference = References("set", torch.randn(50, 4), torch.randn(50, 16))
    return ScoringContext(
        encoder,
        {"p": MeanZ()},  # type: ignore[dict-item]
        {None: reference},
        known={None: Reference.from_structures([zinc_blende(5.41)])},
        energy_model=Levels({**HULL, "SrTiO3": -3.0}),
        hull=hull(),
        relax=Relaxation(steps=20),
        reward_relaxed=False,
    )


EDITS = {
    "supercell": "[s.make_supercell(2) for s in candidates.canonical if s]",
    "oxidation": "[s.add_oxidation_state_by_guess() for s in candidates.canonical if s]",
    "species": "[s.replace_species({s[0].specie.symbol: 'Xe'}) for s in candidates.canonical if s]",
    "sites": "[s.remove_sites([0]) for s in candidates.structures if s]",
    "moved": "[s.translate_sites([0], [0.1, 0.2, 0.3]) for s in candidates.canonical if s]",
    "volume": "[s.scale_lattice(99) for s in candidates.canonical if s]",
    "coords": "[s[0].frac_coords.fill(0.7) for s in candidates.canonical if s]",
    "emptied": "candidates.canonical.clear()",
    "list": "candidates.structures[0] = None",
    "problems": "candidates.problems[0] = 'distance'",
    "valid": "candidates.valid.zero_()",
    "rows": "candidates.rows.zero_()",
    "tensors": "candidates.crystals.frac_coords.add_(0.3)",
    "numbers": "candidates.crystals.numbers.fill_(3)",
    "features": "candidates.structure_features.mul_(5)",
    "predicted": "candidates.predict('p')['mean_z'].zero_()",
    "hull": "candidates.e_above_hull.clamp_(min=9)",
    "novelty": "candidates.novelty().novel[:] = [True] * len(candidates)",
    "relaxed": "[s.make_supercell(2) for s in candidates.relaxed.canonical if s]",
    "relaxations": "[r.structure.remove_sites([0]) for r in candidates.relaxations if r and r.structure]",
    "left_out": "candidates.left_out.fill_(True)",
    "guards": "candidates.guards['single_element'].fill_(True)",
    "set": "candidates.valid = candidates.structures = None",
}
BUILT_IN: list[dict[str, Any]] = [
    {"type": "creativity"},
    {"type": "energy"},
    {"type": "charge_balance", "normalize_fn": "norm"},
    {"type": "shortest_contact"},
    {"type": "predictor", "predictor": "p", "target_name": "mean_z", "target_value": 20.0, "normalize_fn": "std"},
    {"type": "structure_diversity", "normalize_fn": "norm"},
    {"type": "composition_diversity"},
]


@pytest.fixture(scope="module")
def editors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The class of each edit, by its name."""
    path = tmp_path_factory.mktemp("rewards") / "editors.py"
    classes = [
        f"class {name.title()}:\n"
        "    needs = ('features', 'novelty', 'hull')\n"
        "    def compute(self, candidates):\n"
        f"        {edit}\n"
        "        return [float('nan') if i == 2 else float(i) for i in range(len(candidates))]\n"
        for name, edit in EDITS.items()
    ]
    path.write_text("\n".join(classes), encoding="utf-8")
    return {name: f"{path}:{name.title()}" for name in EDITS}


def judge(components: list[dict[str, Any]]) -> tuple[dict[str, Tensor], Tensor]:
    """Every component's numbers, by what it is, and the total."""
    reward = ReinforceReward.model_validate({"components": components, "guards": [], "normalize_fn": "std"})
    scores = reward(Candidates([s and s.copy() for s in BATCH], context()))
    return {str(c): values for c, values in zip(components, scores.raw.values(), strict=True)}, scores.total


@pytest.mark.parametrize("edit", EDITS)
def test_what_a_reward_edits_no_other_component_sees(edit: str, editors: dict[str, str]):
    editor = {"type": "custom", "class": editors[edit], "weight": 0.0}
    alone, total = judge(BUILT_IN)
    assert total.isfinite().sum() >= 4
    for components in ([editor, *BUILT_IN], [*BUILT_IN, editor]):
        raw, of_all = judge(components)
        assert all(torch.equal(raw[name].nan_to_num(9), values.nan_to_num(9)) for name, values in alone.items())
        assert torch.equal(of_all.nan_to_num(9), total.nan_to_num(9))


@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_scores_do_not_depend_on_the_order_of_components(data: st.DataObject, editors: dict[str, str]):
    own = [
        {"type": "custom", "class": editors[name], "weight": data.draw(st.sampled_from([0.0, 1.0, -2.0]))}
        for name in data.draw(st.lists(st.sampled_from(sorted(EDITS)), max_size=3, unique=True))
    ]
    kept = data.draw(st.lists(st.sampled_from(BUILT_IN), min_size=1, max_size=4, unique_by=str))
    first = data.draw(st.permutations(kept + own))
    second = data.draw(st.permutations(kept + own))
    (raw, total), (raw_too, total_too) = judge(first), judge(second)
    assert all(torch.equal(raw[name].nan_to_num(9), raw_too[name].nan_to_num(9)) for name in raw)
    assert torch.allclose(total, total_too, rtol=1e-6, atol=1e-9, equal_nan=True)


def test_facts_are_computed_once_whoever_asks_first(editors: dict[str, str]):
    loaded = context()
    candidates = Candidates(BATCH, loaded)
    assert OwnCopies(candidates, "a").e_above_hull[0] == OwnCopies(candidates, "b").e_above_hull[0]
    assert candidates.e_above_hull is not OwnCopies(candidates, "c").e_above_hull
    assert loaded.energy_model.calls == 1  # type: ignore[union-attr]
    assert OwnCopies(candidates, "a").evaluated.canonical[0] == candidates.canonical[0]


def test_check_reward_accepts_one_that_only_reads_what_is_kept_in_arrays():
    class Reads:
        def compute(self, candidates):
            return torch.tensor([float(u is True) for u in candidates.uniqueness.unique]) + candidates.valid.float()

    remembering = dataclasses.replace(context(), memory=Memory())
    seen = Candidates([SALT, CESIUM], remembering)
    remembering.memory.update(seen.canonical, seen.unique)  # type: ignore[union-attr]
    assert OwnCopies(Candidates([SALT, CESIUM], remembering), "a").edited() is None
    check_reward(Reads(), [SALT, CESIUM, zinc_blende(5.41)], remembering)


def test_a_reason_is_noted_in_the_name_of_the_component(tmp_path: Path):
    source = (
        "class Dense:\n  def compute(self, candidates):\n    return candidates.each(self.one)\n"
        "  def one(self, s):\n    if len(s) == 2: raise ValueError('two atoms')\n    return s.density"
    )
    (tmp_path / "mine.py").write_text(source, encoding="utf-8")
    candidates = Candidates([CESIUM, perovskite(3.9)])
    CustomReward.model_validate({"class": f"{tmp_path}/mine.py:Dense"}).compute(candidates)
    assert candidates.notes["dense"] == {0: "two atoms"}


@pytest.mark.parametrize("edit", [name for name in EDITS if name not in ("predicted", "novelty", "guards")])
def test_check_reward_names_the_edit(edit: str, editors: dict[str, str]):
    from chemeleon_cli.core.rewards.custom import find_class

    word = {
        "supercell": r"canonical\[0\] \(NaCl\)", "sites": r"structures\[0\] \(NaCl\)", "set": "valid",
        "tensors": r"crystals\.frac_coords", "relaxed": r"relaxed\.canonical\[0\] \(NaCl\)", "hull": "e_above_hull",
        "relaxations": r"relaxations\[0\]\.structure \(NaCl\)", "emptied": "canonical",
    }.get(edit, "")  # fmt: skip
    with pytest.raises(AssertionError, match=rf"compute edited candidates\.{word}"):
        check_reward(find_class(editors[edit])(), [SALT, CESIUM, zinc_blende(5.41)], context())
