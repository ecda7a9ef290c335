import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from levels import Levels, hull
from pydantic import ValidationError
from pymatgen.core import Lattice, Structure
from samples import assert_not_imported, body_centred, perovskite, rock_salt
from torch import Tensor

from chemeleon_cli.core.data.crystals import Crystals
from chemeleon_cli.core.data.validity import shortest_contact
from chemeleon_cli.core.models.vae import Encoder
from chemeleon_cli.core.normalise import normalise
from chemeleon_cli.core.rewards import (
    BUILT_IN,
    CustomReward,
    PredictorReward,
    ReinforceReward,
    RewardComponent,
    StructureDiversity,
    check_reward,
)
from chemeleon_cli.core.rewards.diversity import mmd_drop
from chemeleon_cli.core.rl.grpo import group_advantage
from chemeleon_cli.core.scoring.candidates import Candidates
from chemeleon_cli.core.scoring.context import References, ScoringContext
from chemeleon_cli.core.scoring.loading import load_context
from chemeleon_cli.errors import UserError

SALT = rock_salt(5.6)
CESIUM = body_centred(3.5, "Cs", "Cl")
IRON = body_centred(2.87, "Fe", "Fe")
PEROVSKITE = perovskite(3.9)
CRUSHED = Structure(Lattice.cubic(1.0), ["Fe"], [[0, 0, 0]])


class MeanZ:
    """A predictor of the mean atomic number; a crystal of five atoms has none."""

    targets = ("mean_z",)

    def predict(self, crystals: Crystals) -> Tensor:
        mean = crystals.numbers.sum(1) / crystals.num_atoms
        return mean.masked_fill(crystals.num_atoms == 5, torch.nan).unsqueeze(1)


def context() -> ScoringContext:
    torch.manual_seed(0)
    encoder = Encoder(hidden_dim=16, num_heads=2, num_layers=1, latent_dim=4, dropout=0.0).eval()
    reference = References("set", torch.randn(50, 4), torch.randn(50, 16))
    return ScoringContext(encoder, {"p": MeanZ()}, {None: reference})  # type: ignore[dict-item]


def predictor(**fields: Any) -> PredictorReward:
    return PredictorReward(predictor="p", target_name="mean_z", **fields)


def reward(*components: dict[str, Any], **fields: Any) -> ReinforceReward:
    return ReinforceReward.model_validate({"components": list(components), **fields})


def of_predictor(**fields: Any) -> dict[str, Any]:
    return {"type": "predictor", "predictor": "p", "target_name": "mean_z", **fields}


def write(folder: Path, text: str) -> str:
    (folder / "mine.py").write_text(text)
    return str(folder / "mine.py")


def test_reading_a_reward_does_not_import_torch() -> None:
    code = (
        "from chemeleon_cli.core.rewards import ReinforceReward\n"
        "r = ReinforceReward.model_validate({'components': [{'type': 'structure_diversity'}, "
        "{'type': 'predictor', 'predictor': 'p', 'target_name': 't'}]}); r.needs(); r.names()"
    )
    assert_not_imported(code, "torch", "pymatgen", "numpy")


def test_every_field_of_a_reward_is_documented() -> None:
    for model in (*BUILT_IN.values(), ReinforceReward):
        assert model.__doc__
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"


def test_predictor_reward_is_minus_the_squared_distance() -> None:
    candidates = Candidates([SALT, CESIUM, CRUSHED], context())  # mean Z 14 and 36
    values = predictor(target_value=20).compute(candidates)
    assert values[:2].tolist() == [-36, -256]
    assert values[2].isnan()
    assert predictor(target_value=20, clip_max=30).compute(candidates)[1] == -100
    assert predictor(target_value=20, clip_min=15).compute(candidates)[0] == -25
    assert predictor().compute(candidates)[:2].tolist() == [14, 36]


@pytest.mark.parametrize("block", [4096, 4])
def test_mmd_drop_equals_computing_both_distances(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chemeleon_cli.core.rewards.diversity.BLOCK", block)
    torch.manual_seed(1)
    x, y = torch.randn(7, 3).double(), torch.randn(11, 3).double()

    def kernel(a: Tensor, b: Tensor) -> float:
        return float((a @ b / 3 + 1) ** 3)

    def mmd2(x: Tensor) -> float:
        n, r = len(x), len(y)
        within = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
        across = sum(kernel(a, b) for a in x for b in y) / (n * r)
        reference = sum(kernel(y[i], y[j]) for i in range(r) for j in range(r) if i != j) / (r * (r - 1))
        return within + reference - 2 * across

    brute = [mmd2(torch.cat([x[:m], x[m + 1 :]])) - mmd2(x) for m in range(len(x))]
    assert mmd_drop(x, y).tolist() == pytest.approx(brute, rel=1e-9)
    assert sum(brute) == pytest.approx(0, abs=1e-9)


def test_diversity_pays_for_covering_the_reference() -> None:
    reference = torch.tensor([[1.0, 0.0]] * 5 + [[0.0, 1.0]] * 5)
    batch = torch.tensor([[1.0, 0.0]] * 4 + [[0.0, 1.0]])
    drop = mmd_drop(batch, reference)
    assert drop[4] > drop[:4].max()  # the lone crystal of the half that is missing
    far = mmd_drop(torch.tensor([[1.0, 0.0]] * 2 + [[0.0, 1.0]] * 2 + [[9.0, 9.0]]), reference)
    assert far.argmin() == 4  # what the reference does not have is not diversity


def test_impossible_crystals_stay_out_of_the_diversity_of_others() -> None:
    component, loaded = StructureDiversity(), context()
    alone = component.compute(Candidates([SALT, CESIUM, IRON], loaded))
    mixed = component.compute(Candidates([None, SALT, CRUSHED, CESIUM, IRON], loaded))
    assert mixed.isnan().tolist() == [True, False, True, False, False]
    assert torch.allclose(mixed[[1, 3, 4]], alone, atol=1e-6)


def test_crystals_that_a_guard_stops_have_no_say_in_what_others_get() -> None:
    judge = reward({"type": "composition_diversity", "normalize_fn": "norm"})
    alone = judge(Candidates([SALT, CESIUM, PEROVSKITE], context()))
    among = judge(Candidates([SALT, IRON, CESIUM, IRON, PEROVSKITE], context()))
    assert torch.allclose(among.total[[0, 2, 4]], alone.total, atol=1e-6)
    assert among.total[[1, 3]].isnan().all()


def test_what_one_component_has_no_number_for_takes_no_part_in_the_others() -> None:
    diversity = {"type": "composition_diversity", "normalize_fn": "norm"}
    judge = reward(diversity, of_predictor(normalize_fn="norm"), guards=[])
    alone = judge(Candidates([SALT, CESIUM, IRON], context()))
    among = judge(Candidates([PEROVSKITE, SALT, CESIUM, IRON], context()))  # five atoms: no prediction
    assert among.total[0].isnan()
    assert torch.allclose(among.total[1:], alone.total, atol=1e-6)
    two = reward(of_predictor(normalize_fn="norm"), {**of_predictor(), "target_value": 10}, guards=[])
    assert list(two(Candidates([SALT], context())).raw) == ["mean_z", "mean_z_2"]


def test_a_component_without_weight_only_watches() -> None:
    judge = reward(of_predictor(weight=0.0), {"type": "composition_diversity"}, guards=[])
    scores = judge(Candidates([PEROVSKITE, SALT, CESIUM, IRON], context()))
    assert scores.raw["mean_z"].isnan().tolist() == [True, False, False, False]
    assert not scores.total.isnan().any()


def test_diversity_ranks_a_large_batch_too() -> None:
    torch.manual_seed(0)
    drop = mmd_drop(0.1 * torch.randn(4000, 8), 0.1 * torch.randn(500, 8))
    assert drop.max() - drop.min() < PredictorReward.model_fields["eps"].default  # it falls with the number of crystals
    values = normalise(drop, "norm", StructureDiversity().eps)
    assert values.min() == 0
    assert values.max() > 0.99


def test_two_crystals_have_no_diversity_and_say_why() -> None:
    candidates = Candidates([SALT, CESIUM, None], context())
    assert StructureDiversity().compute(candidates).isnan().all()
    assert candidates.notes["structure_diversity"] == dict.fromkeys([0, 1], "fewer than three crystals to compare")


def test_the_sum_is_of_normalised_and_weighted_components() -> None:
    two = of_predictor(normalize_fn="norm", eps=1e-9, weight=2.0), of_predictor(target_value=14, weight=0.1)
    judge = reward(*two, guards=["charge_imbalance"])
    scores = judge(Candidates([SALT, CESIUM, IRON, CRUSHED], context()))
    assert judge.names() == ["mean_z", "mean_z_2"]
    assert scores.raw["mean_z"][:3].tolist() == [14, 36, 26]
    assert scores.weighted["mean_z"][:3].tolist() == pytest.approx([0, 2, 2 * 12 / 22])
    assert scores.total[:3].tolist() == pytest.approx([0, 2 - 48.4, 24 / 22 - 14.4])
    assert scores.impossible.tolist() == [False, False, False, True]
    assert scores.total[3].isnan()
    assert scores.raw_means()["mean_z"] == pytest.approx((14 + 36 + 26) / 3)


def test_impossible_and_unscored_reach_the_advantage_as_they_should() -> None:
    candidates = Candidates([SALT, CESIUM, PEROVSKITE, None], context())  # the predictor has nothing for five atoms
    scores = reward(of_predictor())(candidates)
    assert scores.total.isnan().tolist() == [False, False, True, True]
    assert scores.impossible.tolist() == [False, False, False, True]
    advantage = group_advantage(scores.total, scores.impossible, 4)
    assert advantage[2] == pytest.approx(0, abs=1e-6)
    assert advantage[3] == advantage[:2].min()


def test_charge_balance_scores_what_the_guard_leaves_unscored() -> None:
    lopsided = Structure(Lattice.cubic(3.5), ["Na", "Na", "F"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0, 0]])
    candidates = Candidates([SALT, lopsided, IRON, CRUSHED], context())
    assert candidates.charge_imbalance.tolist() == [False, True, False, False]
    scores = reward({"type": "charge_balance", "weight": 2.0}, guards=[])(candidates)
    assert scores.total[:3].tolist() == [2, 0, 2]
    assert scores.impossible.tolist() == [False, False, False, True]
    check_reward(BUILT_IN["charge_balance"](), [SALT, lopsided, PEROVSKITE])


@pytest.mark.parametrize(
    ("weight", "guards", "said"),
    [
        (1.0, {"guards": ["charge_imbalance"]}, "found charge_imbalance, which"),
        (1.0, {}, "found charge_imbalance (by default), which"),
        (1.0, {"guards": ["single_element"]}, None),
        (0.0, {}, None),  # it only watches
    ],
)
def test_a_guard_that_makes_charge_balance_the_same_for_all_is_a_mistake(
    weight: float, guards: dict[str, Any], said: str | None
) -> None:
    found = reward({"type": "charge_balance", "weight": weight}, **guards).check(lambda name, kind: Path())
    assert [path for path, _ in found] == ([("guards",)] if said else [])
    assert all(said and text.startswith(said) and "`guards: [single_element]`" in text for _, text in found)


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_the_shortest_contact_is_that_of_all_pairs_and_images(seed: int) -> None:
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 5))
    matrix = 3 * np.eye(3) + random.uniform(-0.9, 0.9, (3, 3))
    symbols = random.choice(["Cs", "O", "Ti", "H"], count)
    structure = Structure(Lattice(matrix), list(symbols), random.random((count, 3)))
    radii = {"Cs": 2.44, "O": 0.66, "Ti": 1.60, "H": 0.31}  # Cordero et al. 2008, table 2
    shortest = 1.1
    for i, j in itertools.product(range(count), repeat=2):
        for image in itertools.product(range(-4, 5), repeat=3):
            vector = (structure.frac_coords[j] + image - structure.frac_coords[i]) @ matrix
            if i != j or any(image):
                shortest = min(shortest, np.linalg.norm(vector) / (radii[symbols[i]] + radii[symbols[j]]))
    assert shortest_contact(structure, 1.1) == pytest.approx(shortest)


def test_contacts_are_rewarded_up_to_a_limit_and_unknown_radii_not_at_all() -> None:
    tight = Structure(Lattice.cubic(1.9), ["Na"], [[0, 0, 0]])  # 6.9 Å^3; 1.9 / (2 x 1.66)
    fermium = Structure(Lattice.cubic(4), ["Fm"], [[0, 0, 0]])
    candidates = Candidates([SALT, tight, fermium, CRUSHED], context())
    scores = reward({"type": "shortest_contact", "weight": 2.0}, guards=[])(candidates)
    assert scores.total[:2].tolist() == pytest.approx([1.2, 2 * 1.9 / 3.32])
    assert scores.total[2].isnan() and scores.impossible.tolist() == [False, False, False, True]
    assert candidates.notes["shortest_contact"] == {2: "an element without a covalent radius"}
    check_reward(BUILT_IN["shortest_contact"](), [SALT, IRON, PEROVSKITE])


def test_a_batch_without_a_number_has_no_advantage() -> None:
    scores = reward(of_predictor(normalize_fn="std"), {"type": "structure_diversity"})(
        Candidates([None, CRUSHED], context())
    )
    assert scores.total.isnan().all()
    assert math.isnan(scores.raw_means()["mean_z"])
    assert group_advantage(scores.total, scores.impossible, 2).tolist() == [0, 0]


@pytest.mark.parametrize("fn", ["norm", "std", "subtract_mean", "clip", "none", None])
def test_every_normalisation_is_accepted(fn: str | None) -> None:
    assert reward(of_predictor(normalize_fn=fn), normalize_fn=fn).normalize_fn == fn


@pytest.mark.parametrize(
    "bad",
    [
        {"components": []},
        {"components": [{"type": "predictor", "predictor": "p"}]},
        {"components": [{"type": "energie"}]},
        {"components": [{"predictor": "p", "target_name": "t"}]},
        {"components": [of_predictor(wieght=1)]},
        {"components": [of_predictor(normalize_fn="normal")]},
        {"components": [of_predictor(eps=0)]},
        {"components": [of_predictor(weight=math.nan)]},
    ],
)
def test_mistakes_in_a_recipe_are_found(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ReinforceReward.model_validate(bad)


def test_a_predictor_and_its_target_are_looked_for(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text('{"kind": "predictor", "version": 1, "config": {"targets": ["band_gap"]}}')

    def find_model(name: str, kind: str) -> Path:
        if name != "p":
            raise UserError(f"{name}: no such {kind}", "look again")
        return tmp_path

    def mistakes(**fields: Any) -> list[Any]:
        return reward({"type": "predictor", "predictor": "p", "target_name": "band_gap", **fields}).check(find_model)

    assert mistakes() == []
    assert mistakes(predictor="q") == [(("components", 0, "predictor"), "q: no such predictor; look again")]
    ((path, text),) = mistakes(target_name="band_gp")
    assert path == ("components", 0, "target_name")
    assert text == "found 'band_gp'; p predicts band_gap; did you mean 'band_gap'?"
    assert mistakes(clip_min=1, clip_max=0)[0][0] == ("components", 0, "clip_min")


def test_the_target_of_a_predictor_to_be_downloaded_is_looked_for_when_it_is_here() -> None:
    late = reward({"type": "predictor", "predictor": "p", "target_name": "band_gap"})
    assert late.check(lambda name, kind: None) == []
    with pytest.raises(UserError, match="target_name: found 'band_gap'; p predicts mean_z"):
        late.prepare(context())


def test_a_reference_set_is_looked_for(tmp_path: Path) -> None:
    judge = reward({"type": "composition_diversity", "reference_dataset": str(tmp_path)})
    ((path, text),) = judge.check(lambda name, kind: Path(name))
    assert path == ("components", 0, "reference_dataset")
    assert "no train.csv" in text
    (tmp_path / "train.csv").write_text("cif\n")
    assert judge.check(lambda name, kind: Path(name)) == []


GOOD = """
from __future__ import annotations
import torch

class AtomCount:
    def __init__(self, target: float, judge: Predictor | None = None, scale: float = 1.0):
        self.target, self.judge, self.scale = target, judge, scale

    def compute(self, candidates):
        if self.judge is not None:
            assert self.judge.targets == ("mean_z",)
        return candidates.each(lambda structure: -abs(len(structure) - self.target) * self.scale)
"""


def custom(path: str, **kwargs: Any) -> CustomReward:
    return CustomReward.model_validate({"class": path, "kwargs": kwargs})


def find_any(name: str, kind: str) -> Path:
    if name == "missing":
        raise UserError("missing: no such predictor")
    return Path(name)


def test_a_custom_reward_from_a_file(tmp_path: Path) -> None:
    component = custom(f"{write(tmp_path, GOOD)}:AtomCount", target=2, judge="p")
    assert component.check(find_any) == []
    assert component.name == "atom_count"
    assert component.needs().predictors == {"p"}
    values = component.compute(Candidates([SALT, PEROVSKITE, CRUSHED], context()))
    assert values.nan_to_num(9).tolist() == [0, -3, 9]
    judge = ReinforceReward(components=[component])
    assert judge.needs().predictors == {"p"}
    assert judge.model_dump(by_alias=True)["components"][0]["class"] == component.class_


def test_a_custom_reward_names_the_facts_that_it_needs(tmp_path: Path) -> None:
    source = "class New:\n  needs = ('novelty', 'features', 'hull')\n  def compute(self, candidates): return []"
    needs = custom(f"{write(tmp_path, source)}:New").needs()
    assert (needs.known, needs.encoder, needs.hull) == ({None}, True, True)


def test_a_custom_file_is_found_from_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, GOOD)
    monkeypatch.chdir(tmp_path)
    assert custom("./mine.py:AtomCount", target=1).check(find_any) == []


def test_a_custom_reward_from_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_rewards_module.py").write_text(GOOD)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert custom("some_rewards_module:AtomCount", target=1).check(find_any) == []


@pytest.mark.parametrize(
    ("source", "name", "kwargs", "field", "expected"),
    [
        (GOOD, "AtomCounts", {}, "class", "did you mean 'AtomCount'?"),
        (GOOD, "AtomCount", {}, "kwargs", "missing a required argument: 'target'"),
        (GOOD, "AtomCount", {"target": 1, "scal": 2}, "kwargs", "did you mean 'scale'?"),
        (GOOD, "AtomCount", {"target": 1, "judge": 7}, "kwargs", "expected the name of a predictor"),
        (GOOD, "AtomCount", {"target": 1, "judge": "missing"}, "kwargs.judge", "no such predictor"),
        ("import nothing_of_this_name", "A", {}, "class", "No module named 'nothing_of_this_name' (mine.py:1)"),
        ("class A:\n  x = (", "A", {}, "class", "SyntaxError"),
        ("class A: pass", "A", {}, "class", "no method compute"),
        ("class A:\n  def compute(self): pass", "A", {}, "class", "cannot be called as compute(candidates)"),
        ("class A:\n  needs = 'hull'\n  def compute(self, c): pass", "A", {}, "class", "expected a tuple of features"),
    ],
)
def test_mistakes_in_a_custom_reward_are_named(
    tmp_path: Path, source: str, name: str, kwargs: dict[str, Any], field: str, expected: str
) -> None:
    ((where, text),) = custom(f"{write(tmp_path, source)}:{name}", **kwargs).check(find_any)
    assert where == field
    assert expected in text


@pytest.mark.parametrize("path", ["mine.py", "a:b:", ":A", "nowhere.py:A", "no_such_module_here:A"])
def test_a_custom_class_that_cannot_be_found(path: str) -> None:
    ((where, _),) = custom(path).check(find_any)
    assert where == "class"


@pytest.mark.parametrize(
    "returned",
    ["'text'", "torch.zeros(1, 1)", "torch.zeros(7)", "None", "[10**400, 1]", "[1j, 2]", "torch.ones(2) * 1j"],
)
def test_what_a_custom_reward_returns_is_checked(tmp_path: Path, returned: str) -> None:
    source = f"import torch\nclass A:\n  def compute(self, candidates): return {returned}"
    with pytest.raises(UserError, match="compute returned"):
        custom(f"{write(tmp_path, source)}:A").compute(Candidates([SALT, CESIUM]))


def test_a_custom_reward_may_return_a_list_and_an_infinity_is_no_number(tmp_path: Path) -> None:
    source = "class A:\n  def compute(self, candidates): return [1, float('inf'), 3]"
    candidates = Candidates([SALT, CESIUM, CRUSHED])
    scores = ReinforceReward(components=[custom(f"{write(tmp_path, source)}:A")])(candidates)
    assert scores.raw["a"].nan_to_num(-1).tolist() == [1, -1, -1]
    assert candidates.notes["a"] == {1: "infinite"}


@pytest.mark.parametrize("number", ["1e300 * s.density", "-1e39", "10**300"])
def test_numbers_beyond_float32_are_no_number_and_say_why(tmp_path: Path, number: str) -> None:
    path = write(tmp_path, f"class A:\n  def compute(self, candidates): return candidates.each(lambda s: {number})")
    judge = reward({"type": "custom", "class": f"{path}:A"}, of_predictor(weight=0.5))
    candidates = Candidates([SALT, CESIUM], context())
    scores = judge(candidates)
    assert scores.total.isnan().all() and scores.raw["a"].isnan().all()
    assert candidates.notes["a"] == dict.fromkeys([0, 1], "beyond the range of float32, 3.4e38")
    assert judge.why_unscored(candidates, scores) == {"a: beyond the range of float32, 3.4e38": 2}


def test_a_sum_beyond_float32_is_no_number_either() -> None:
    candidates = Candidates([SALT, CESIUM], context())
    scores = reward(of_predictor(weight=1e37))(candidates)  # mean Z 14 and 36
    assert scores.total.tolist() == [pytest.approx(1.4e38), pytest.approx(math.nan, nan_ok=True)]
    assert candidates.notes["reward"] == {1: "beyond the range of float32, 3.4e38"}
    large = reward(of_predictor(weight=5e36, normalize_fn="subtract_mean"), of_predictor(weight=-5e36))(candidates)
    assert large.total.tolist() == pytest.approx([5e36 * (14 - 25 - 14)] * 2)  # no squares overflow on the way


def test_why_crystals_have_no_score_is_counted() -> None:
    judge = reward(of_predictor(), guards=["single_element"], refused=["charge_imbalance"])
    lopsided = Structure(Lattice.cubic(3.5), ["Na", "Na", "F"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0, 0]])
    candidates = Candidates([IRON, SALT, PEROVSKITE, IRON, CRUSHED, None, lopsided], context())
    assert judge.why_unscored(candidates, judge(candidates)) == {
        "guard single_element": 2, "impossible (volume)": 1, "impossible (no structure)": 1,
        "refused: charge_imbalance": 1, "mean_z: no value": 1,
    }  # fmt: skip


def test_a_hull_without_the_elements_is_why_nothing_has_a_score() -> None:
    loaded = ScoringContext(energy_model=Levels({"CsCl": -2.0}), hull=hull({"Na": 0.0, "Cl": 0.0, "NaCl": -2.0}))
    judge = reward({"type": "energy"}, guards=[], energy_model="chgnet")
    candidates = Candidates([CESIUM, CESIUM], loaded)
    assert judge.why_unscored(candidates, judge(candidates)) == {"energy: sparse: no reference for Cs": 2}


FAILING = """
import sys
from pymatgen.core import Element
class Divides:
    def compute(self, candidates): return candidates.each(lambda s: 1 / 0)
class InALibrary:
    def compute(self, candidates): return candidates.each(self.one)
    def one(self, s):
        return Element("Qq").Z
class Exits:
    def compute(self, candidates): sys.exit()
class Text:
    def compute(self, candidates): raise KeyError("two\\nlines")
class Constructor:
    def __init__(self): self.x = {}["missing"]
    def compute(self, candidates): return []
"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Divides", "ZeroDivisionError: division by zero (mine.py:5)"),
        ("Exits", "SystemExit (mine.py:11)"),
        ("Text", r"KeyError: 'two\nlines' (mine.py:13)"),
        ("Constructor", "KeyError: 'missing' (mine.py:15)"),
    ],
)
def test_what_a_custom_reward_raises_is_one_line(tmp_path: Path, name: str, said: str) -> None:
    path = write(tmp_path, FAILING)
    with pytest.raises(UserError) as caught:
        custom(f"{path}:{name}").compute(Candidates([SALT, CESIUM]))
    assert caught.value.message == f"{path}:{name}: {said}"


def test_the_line_is_that_of_the_users_file_where_a_library_raised(tmp_path: Path) -> None:
    path = write(tmp_path, FAILING.replace('Element("Qq").Z', "[].index(Element('Fe').ionic_radii['x'])"))
    with pytest.raises(UserError, match=r"\(mine\.py:9\)$"):
        custom(f"{path}:InALibrary").compute(Candidates([SALT]))


@pytest.mark.parametrize("source", ["import sys\nsys.exit()", "raise SystemExit(0)"])
def test_a_file_that_exits_when_it_is_imported_is_a_mistake(tmp_path: Path, source: str) -> None:
    ((where, text),) = custom(f"{write(tmp_path, source)}:A").check(find_any)
    assert where == "class"
    assert "mine.py cannot be imported: SystemExit" in text


def test_a_custom_reward_gets_its_predictors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from chemeleon_cli.core.training import checkpoint

    monkeypatch.setattr(checkpoint, "load", lambda folder, kind, device: (MeanZ(), {}))
    component = custom(f"{write(tmp_path, GOOD)}:AtomCount", target=2, judge="p")
    reward = ReinforceReward(components=[component])
    made = load_context(reward, reward.needs(), find_any)
    reward.prepare(made)
    assert component._instance.judge is made.predictors["p"]


def test_built_in_rewards_keep_the_contract(tmp_path: Path) -> None:
    components = [predictor(target_value=20), predictor(), custom(f"{write(tmp_path, GOOD)}:AtomCount", target=2)]
    for component in (*components, *(BUILT_IN[f"{kind}_diversity"]() for kind in ("structure", "composition"))):
        check_reward(component, context=context())


class Constant(RewardComponent):
    def compute(self, candidates: Candidates) -> Tensor:
        return torch.ones(len(candidates))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return torch.zeros(len(candidates), 1)", "shape"),
        ("return [0.0] * len(candidates)", r"torch\.Tensor"),
        ("return torch.zeros(len(candidates), dtype=torch.int64)", "expected floats"),
        ("return torch.full((len(candidates),), float('inf'))", "infinity"),
        ("return torch.rand(len(candidates))", "other values"),
        ("return torch.full((len(candidates),), 1.0 + len(candidates))", "impossible ones"),
        ("return torch.zeros(len(candidates), requires_grad=True)", "gradient"),
        ("candidates.structures[0].scale_lattice(9); return torch.ones(4)", r"candidates\.structures\[0\]"),
    ],
)
def test_check_reward_finds_what_is_wrong(body: str, message: str) -> None:
    scope: dict[str, Any] = {"torch": torch}
    exec(f"class Bad:\n  def compute(self, candidates):\n    {body}", scope)
    with pytest.raises(AssertionError, match=message):
        check_reward(scope["Bad"]())
    check_reward(Constant())
