"""Candidates, the context they are scored with, and matching."""

import math
import random
from pathlib import Path

import pytest
import torch
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure
from samples import body_centred, perovskite, rock_salt, zinc_blende
from torch import Tensor

from chemeleon_cli.core.data.crystals import Crystals
from chemeleon_cli.core.models.layers import Transformer, set_precision
from chemeleon_cli.core.models.vae import VAE, Encoder
from chemeleon_cli.core.rewards import ReinforceReward
from chemeleon_cli.core.scoring import matching
from chemeleon_cli.core.scoring.candidates import Candidates
from chemeleon_cli.core.scoring.context import ScoringContext
from chemeleon_cli.core.scoring.features import features
from chemeleon_cli.core.scoring.loading import load_context, load_references
from chemeleon_cli.core.scoring.needs import Needs
from chemeleon_cli.core.scoring.novelty import find_novel
from chemeleon_cli.core.scoring.settings import EnergySettings
from chemeleon_cli.errors import UserError

SALT = rock_salt(5.6)
BLENDE = zinc_blende(5.4)
CESIUM = body_centred(3.5, "Na", "Cl")
PEROVSKITE = perovskite(3.9)
CRUSHED = Structure(Lattice.cubic(1.0), ["Fe"], [[0, 0, 0]])


class CountingPredictor:
    """Predicts the number of atoms and the mean atomic number, and counts how often it was asked."""

    targets = ("atoms", "mean_z")

    def __init__(self) -> None:
        self.calls = 0

    def predict(self, crystals: Crystals) -> Tensor:
        self.calls += 1
        count = crystals.num_atoms.float()
        return torch.stack([count, crystals.numbers.sum(1) / count], 1)


def tiny_encoder(seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    return Encoder(hidden_dim=16, num_heads=2, num_layers=1, latent_dim=4, dropout=0.0).eval()


def write_split(folder: Path, structures: list[Structure]) -> Path:
    import pandas as pd

    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"cif": [s.to(fmt="cif") for s in structures]}).to_csv(folder / "train.csv", index=False)
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHEMELEON_CACHE", str(tmp_path / "cache"))


def test_facts_have_a_row_for_every_candidate() -> None:
    predictor = CountingPredictor()
    candidates = Candidates([None, SALT, CRUSHED, BLENDE], ScoringContext(tiny_encoder(), {"p": predictor}))  # type: ignore[dict-item]
    assert candidates.problems == ["no structure", None, "volume", None]
    assert candidates.valid.tolist() == [False, True, False, True]
    assert candidates.smact_valid.tolist() == [False, True, False, True]
    assert [form and len(form) for form in candidates.canonical] == [None, 2, None, 2]
    assert candidates.structure_features.shape == (4, 4)
    assert candidates.composition_features.shape == (4, 16)
    assert candidates.structure_features.isnan().all(1).tolist() == [True, False, True, False]
    predicted = candidates.predict("p")
    assert predicted["mean_z"].nan_to_num(-1).tolist() == [-1, 14, -1, 23]
    assert candidates.predict("p") is predicted
    assert predictor.calls == 1


def test_predictions_come_back_in_the_order_of_the_candidates() -> None:
    context = ScoringContext(predictors={"p": CountingPredictor()})  # type: ignore[dict-item]
    candidates = Candidates([PEROVSKITE, SALT, PEROVSKITE, CESIUM], context)
    assert candidates.predict("p")["atoms"].tolist() == [5, 2, 5, 2]


def test_a_batch_without_any_crystal_has_facts_too() -> None:
    candidates = Candidates([None, CRUSHED], ScoringContext(tiny_encoder(), {"p": CountingPredictor()}))  # type: ignore[dict-item]
    assert candidates.predict("p")["atoms"].isnan().all()
    assert candidates.structure_features.shape == (2, 4)
    assert candidates.uniqueness.groups == [-1, -1]
    assert len(Candidates([])) == 0


def test_a_candidate_is_scored_in_its_canonical_form() -> None:
    moved = SALT.copy()
    moved.translate_sites(range(len(moved)), [0.13, 0.4, 0.7])
    moved.make_supercell([1, 1, 2])
    candidates = Candidates([SALT, moved], ScoringContext(tiny_encoder()))
    a, b = candidates.structure_features
    assert torch.allclose(a, b, atol=1e-4)


def test_features_do_not_depend_on_company() -> None:
    encoder = tiny_encoder()
    alone = Candidates([SALT], ScoringContext(encoder)).structure_features[0]
    together = Candidates([PEROVSKITE, SALT], ScoringContext(encoder)).structure_features[1]
    assert torch.allclose(alone, together, atol=1e-5)


def test_each_turns_an_error_into_a_reason() -> None:
    def density(structure: Structure) -> float:
        if len(structure) == 5:
            raise ValueError("too large")
        return float(structure.density)

    candidates = Candidates([SALT, PEROVSKITE, None])
    assert candidates.each(density, "density").isnan().tolist() == [False, True, True]
    assert candidates.notes["density"] == {1: "too large"}


def test_features_without_an_encoder_say_what_to_do() -> None:
    with pytest.raises(UserError, match="autoencoder"):
        _ = Candidates([SALT]).structure_features


def test_reference_features_are_computed_once_and_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, encoder = write_split(tmp_path / "data", [SALT, BLENDE, PEROVSKITE]), tiny_encoder()
    first = load_references(encoder, folder)
    assert first.structure_features.shape == (3, 4)
    expected = Candidates([SALT, BLENDE, PEROVSKITE], ScoringContext(encoder)).composition_features
    assert torch.allclose(first.composition_features.sort(0).values, expected.sort(0).values, atol=1e-5)

    def fail(*args: object) -> None:
        raise AssertionError("computed again")

    with monkeypatch.context() as patch:
        patch.setattr("chemeleon_cli.core.scoring.loading.features", fail)
        assert torch.equal(load_references(encoder, folder).structure_features, first.structure_features)
        with pytest.raises(AssertionError, match="computed again"):
            load_references(tiny_encoder(seed=1), folder)
    write_split(folder, [SALT, BLENDE])
    assert load_references(encoder, folder).structure_features.shape == (2, 4)
    assert load_references(encoder, folder, limit=1).structure_features.shape == (1, 4)


def test_the_context_holds_what_a_reward_needs(tmp_path: Path) -> None:
    folder = write_split(tmp_path / "data", [SALT, BLENDE])
    vae = VAE(hidden_dim=16, num_heads=2, encoder_layers=1, decoder_layers=1, latent_dim=4, dropout=0.0)
    set_precision(vae, "bf16")
    diverse = {"type": "structure_diversity"}
    named = {"type": "composition_diversity", "reference_dataset": str(folder)}
    reward = ReinforceReward.model_validate({"components": [diverse, named]})
    context = load_context(reward, reward.needs(), lambda name, kind: Path(name), vae, folder)
    assert set(context.references) == {None, str(folder)}
    assert context.encoder is not None
    assert not any(module.bf16 for module in context.encoder.modules() if isinstance(module, Transformer))
    assert any(module.bf16 for module in vae.modules() if isinstance(module, Transformer))
    with pytest.raises(UserError, match="no generator is named"):
        load_context(reward, reward.needs(), lambda name, kind: Path(name))
    with pytest.raises(UserError, match="does not record its training set"):
        load_context(reward, reward.needs(), lambda name, kind: Path(name), vae)
    with pytest.raises(UserError, match=r"no train\.csv"):
        load_context(reward, reward.needs(), lambda name, kind: Path(name), vae, tmp_path)
    assert load_context(EnergySettings(), Needs(), lambda name, kind: Path(name)).predictors == {}


def test_features_are_means_over_atoms() -> None:
    encoder = tiny_encoder()
    crystals = Crystals.from_structures([CESIUM])
    structure, composition = features(encoder, crystals)
    assert torch.allclose(structure, encoder(crystals).mean.mean(1))
    weight = encoder.atom_embedding.weight
    assert torch.allclose(composition[0], (weight[11] + weight[17]) / 2)


def noisy_copies(seed: int = 0) -> list[Structure | None]:
    random.seed(seed)
    found: list[Structure | None] = [None]
    for structure in (SALT, CESIUM, BLENDE, PEROVSKITE, SALT.get_primitive_structure(), SALT, CESIUM, BLENDE):
        copy = structure.copy()
        copy.perturb(0.03)
        found.append(copy)
    return found


def test_duplicates_are_what_pymatgen_calls_so() -> None:
    structures = noisy_copies()
    groups = matching.matcher_groups(structures)[0]
    assert groups == [-1, 0, 1, 2, 3, 0, 0, 1, 2]
    theirs = StructureMatcher().group_structures([s for s in structures if s is not None])
    assert len(theirs) == len(set(groups)) - 1


def test_groups_do_not_depend_on_order() -> None:
    # a row of crystals of which neighbours match and the ends do not
    chain = [
        Structure(Lattice.tetragonal(4, c), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]) for c in (4, 4.6, 5.3, 6.1)
    ]
    matcher = StructureMatcher()
    assert matcher.fit(chain[0], chain[1])
    assert not matcher.fit(chain[0], chain[3])
    for seed in range(6):
        random.Random(seed).shuffle(chain)
        assert matching.matcher_groups(chain)[0] == [0, 0, 0, 0]


def test_worker_processes_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    structures = noisy_copies()
    here = matching.matcher_groups(structures)[0]
    monkeypatch.setattr("chemeleon_cli.core.scoring.comparison.PARALLEL_FROM", 1)
    monkeypatch.setattr("chemeleon_cli.core.scoring.comparison.processors", lambda: 2)
    assert matching.matcher_groups(structures)[0] == here


def test_novel_is_what_no_reference_matches() -> None:
    built: list[list[int]] = []
    known = [CESIUM, BLENDE, PEROVSKITE]

    def build(rows: list[int]) -> list[Structure]:
        built.append(rows)
        return [known[row] for row in rows]

    reference = matching.Reference([s.composition.reduced_formula for s in known], build)
    found = find_novel([None, SALT, CESIUM, CESIUM * (1, 1, 2), CRUSHED], reference)
    assert found.novel == [None, True, False, False, True]
    assert (found.compared, found.novel_of_valid) == (4, 0.5)
    assert built == [[0]]  # only what shares a formula


def test_rms_of_copies_and_of_nonsense() -> None:
    assert matching.rms(SALT, SALT * (1, 1, 2)) == pytest.approx(0, abs=1e-6)
    moved = CESIUM.copy()
    moved.translate_sites([1], [0.05, 0, 0])
    found = matching.rms(CESIUM, moved)
    assert found is not None
    assert 0.005 < found < 0.1
    assert matching.rms(SALT, CESIUM) is None
    assert matching.rms(SALT, None) is None
    assert (
        matching.rms(SALT, Structure(Lattice([[math.nan] * 3] * 3), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])) is None
    )
    assert matching.rms_pairs([(SALT, SALT), (SALT, CESIUM)]) == [pytest.approx(0, abs=1e-6), None]
