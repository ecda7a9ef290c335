"""Conditions: from requests to tensors to samples, and that a composition asked for is the composition obtained."""

import copy
import csv
import gzip
import io
import itertools
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from pymatgen.core import Composition, Lattice, Structure
from rich.console import Console
from samples import body_centred, diffusion, known_structures, random_structures, rl_settings, write_dataset
from test_rl import Verdict, make_run, prefer_large_cells
from torch import Tensor
from typer.testing import CliRunner

from chemeleon_cli.app import app
from chemeleon_cli.core.conditions.base import NO_CONDITIONS, ConditionBatch, drop_conditions, is_given
from chemeleon_cli.core.conditions.composition import formula_unit
from chemeleon_cli.core.conditions.kinds import KINDS, fit_conditions, from_settings, to_settings
from chemeleon_cli.core.conditions.requests import encode_requests
from chemeleon_cli.core.data.dataset import Table, load_split
from chemeleon_cli.core.data.limits import MAX_Z
from chemeleon_cli.core.models.build import DENOISERS, build
from chemeleon_cli.core.models.denoiser import DiffusionTransformer
from chemeleon_cli.core.models.generator import Sampling, sample_many
from chemeleon_cli.core.models.latent_diffusion import LatentDiffusion
from chemeleon_cli.core.models.latents import elements_kept, encode
from chemeleon_cli.core.models.vae import VAE, assign_elements
from chemeleon_cli.core.rl import step
from chemeleon_cli.core.training import checkpoint
from chemeleon_cli.errors import UserError
from chemeleon_cli.recipe.conditions import OF_CRYSTALS, ConditionSection
from chemeleon_cli.recipe.models import LdmModel, Sample

SMALL = {"hidden_dim": 32, "num_heads": 4, "encoder_layers": 1, "decoder_layers": 1, "latent_dim": 4, "dropout": 0.0}
ELEMENTS = [3, 8, 11, 14, 17, 22, 26, 38]
SETTINGS: dict[str, dict[str, Any]] = {
    "gap": {"kind": "value", "mean": 1.0, "std": 2.0},
    "composition": {"kind": "composition", "known": ELEMENTS},
    "chemical_system": {"kind": "chemical_system", "known": ELEMENTS},
    "space_group": {"kind": "space_group", "known": [221, 225]},
    "phase": {"kind": "category", "known": ["a", "b"]},
}
CONDITIONS = from_settings(SETTINGS)
SIZES = {"2": 3, "5": 1, "10": 2}
SAMPLING = Sampling("ddim", 4, 1.0)


def make(
    settings: dict[str, Any] | None = SETTINGS, sizes: dict[str, int] | None = None, beta_end: float = 0.02
) -> LatentDiffusion:
    torch.manual_seed(0)
    denoiser = {"latent_dim": 4, "hidden_dim": 32, "num_blocks": 2, "num_heads": 4}
    if settings:
        denoiser["conditions"] = settings  # type: ignore[assignment]
    model = LatentDiffusion(SMALL, denoiser, diffusion(100, beta_end=beta_end), sizes or SIZES).eval()
    for parameter in model.denoiser.parameters():  # adaLN-Zero starts as the identity, which would test nothing
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return model


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- requests as tensors ----------------------------------------------------------------------------------------------


def test_requests_become_tensors():
    requests = [
        {"gap": 3.0, "composition": "SrTiO3", "space_group": 225, "phase": "b"},
        {"composition": "Sr2Ti2O6", "chemical_system": "Li - Fe-O", "gap": None},
    ]
    batch = encode_requests(CONDITIONS, requests, torch.tensor([5, 10]))
    assert batch.values["gap"][0] == 3.0 and batch.values["gap"][1].isnan()
    assert batch.values["composition"].tolist() == [[8, 8, 8, 22, 38, *[0] * 5], [*[8] * 6, 22, 22, 38, 38]]
    assert batch.numbers is batch.values["composition"]
    assert batch.values["space_group"].tolist() == [225, 0]
    assert batch.values["phase"].tolist() == [2, 0]
    assert batch.values["chemical_system"].nonzero().tolist() == [[1, 3], [1, 8], [1, 26]]


@pytest.mark.parametrize(
    ("refused", "words"),
    [
        ({"gpa": 3.0}, ["not trained for the condition 'gpa'", "gap (value)", "space_group", "did you mean 'gap'"]),
        ({"gap": "wide"}, ["gap: found 'wide'; expected a number"]),
        ({"gap": True}, ["expected a number"]),
        ({"space_group": 231}, ["1 to 230"]),
        ({"space_group": 7}, ["none of the crystals that the model was trained on"]),
        ({"phase": "c"}, ["phase: found 'c'; the model knows a, b"]),
        ({"composition": "XeF2"}, ["knows no F, Xe"]),
        ({"composition": "SrTi0.5O3"}, ["whole numbers"]),
        ({"composition": "Qq2"}, ["expected a formula"]),
        ({"composition": "SrTi("}, ["expected a formula"]),
        ({"chemical_system": "Li-Xe"}, ["knows no Xe"]),
        ({"chemical_system": "LiO"}, ["elements joined by '-'"]),
        ({"composition": "Na1e9Cl"}, ["1e+09 atoms in a formula unit", "at most 1,000"]),
        ({"composition": "Na1e999Cl"}, ["whole numbers"]),
        ({"composition": "Na7Cl4"}, ["11 atoms in a formula unit", "no such size fits"]),
    ],
)
def test_a_request_that_a_model_cannot_take_is_an_error(refused: dict[str, Any], words: list[str]):
    with pytest.raises(UserError) as caught:
        make().check_request(refused)
    assert all(word in caught.value.message for word in words), caught.value.message


def test_a_model_without_conditions_has_none_of_it():
    model = make(None)
    assert not [name for name in model.state_dict() if "condition" in name]
    assert set(model.config["denoiser"]) == {"latent_dim", "hidden_dim", "num_blocks", "num_heads"}
    with pytest.raises(UserError, match="not trained for the condition 'composition'; it has no conditions"):
        model.check_request({"composition": "NaCl"})
    generator = seeded()
    state = generator.get_state()
    assert drop_conditions(NO_CONDITIONS, {}, generator) == NO_CONDITIONS
    assert torch.equal(generator.get_state(), state), "no random number is spent on it"


def test_a_formula_unit_is_the_smallest_and_sorted():
    assert formula_unit("Na4Cl4") == (11, 17)
    assert formula_unit("Fe2O3") == (8, 8, 8, 26, 26)
    assert formula_unit("O2") == (8,)


# --- the network ------------------------------------------------------------------------------------------------------


def batch_of(count: int, size: int, **request: Any) -> ConditionBatch:
    return encode_requests(CONDITIONS, [request] * count, torch.full((count,), size))


REQUEST = {"gap": 3.0, "composition": "NaCl", "chemical_system": "Na-Cl", "space_group": 225, "phase": "a"}


@pytest.mark.parametrize("name", REQUEST)
def test_each_condition_has_an_effect_and_can_be_missing(name: str):
    denoiser = make().denoiser
    x, t, n = torch.randn(3, 2, 4, generator=seeded()), torch.tensor([3, 50, 90]), torch.full((3,), 2)
    batch = batch_of(3, 2, **{name: REQUEST[name]})
    null = denoiser(x, t, n)
    assert not torch.allclose(denoiser(x, t, n, batch), null, atol=1e-3)
    assert torch.allclose(denoiser(x, t, n, batch.null()), null, atol=1e-6)


def test_padding_and_neighbours_never_change_a_conditional_result():
    model = make()
    n = torch.tensor([2, 5])
    requests = [{"composition": "NaCl", "gap": 1.0}, {"composition": "SrTiO3", "phase": "b"}]
    x, t = torch.randn(2, 5, 4, generator=seeded()), torch.tensor([20, 70])
    together = model.denoiser(x, t, n, model.encode_requests(requests, n))
    for b, size in enumerate(n.tolist()):
        alone = model.denoiser(x[[b], :size], t[[b]], n[[b]], model.encode_requests([requests[b]], n[[b]]))
        assert torch.allclose(alone[0], together[b, :size], atol=1e-5)


def test_a_composition_tells_each_atom_its_element():
    """An atom's answer follows its own element more than that of another one of the same crystal."""
    torch.manual_seed(0)
    no_blocks = 0  # so that nothing is mixed between atoms
    denoiser = DiffusionTransformer(4, 32, no_blocks, 4, {"composition": SETTINGS["composition"]})
    torch.nn.init.normal_(denoiser.head.weight)
    x, t, n = torch.zeros(1, 3, 4), torch.tensor([50]), torch.tensor([3])
    a, b = (denoiser(x, t, n, ConditionBatch({"composition": torch.tensor([[8, 22, z]])})) for z in (26, 38))
    assert (a - b)[0, 2].abs().max() > 1e-2
    assert torch.allclose(a[0, :2], b[0, :2], atol=1e-5), "the modulation is zero before training"


def test_guidance_is_the_null_plus_the_scaled_difference():
    model = make()
    x, t, n = torch.randn(4, 5, 4, generator=seeded()), torch.full((4,), 40), torch.full((4,), 5)
    batch = batch_of(4, 5, composition="SrTiO3", gap=2.0, chemical_system="Sr-Ti-O")
    told, null = model.denoiser(x, t, n, batch), model.denoiser(x, t, n)
    for scale in (0.0, 0.5, 3.0):
        assert torch.allclose(model.guided_noise(x, t, n, batch, scale), null + scale * (told - null), atol=1e-5)
    assert torch.equal(model.guided_noise(x, t, n, batch, 1.0), told)
    assert torch.equal(model.guided_noise(x, t, n, NO_CONDITIONS, 3.0), null)


def test_conditions_are_dropped_each_on_its_own():
    batch = batch_of(4000, 2, **REQUEST)
    rates = {"gap": 0.2, "composition": 0.5, "chemical_system": 0.0, "space_group": 1.0, "phase": 0.2}
    left = drop_conditions(batch, rates, seeded())
    gone = {
        "gap": left.values["gap"].isnan(),
        "composition": (left.values["composition"] == 0).all(1),
        "phase": left.values["phase"] == 0,
    }
    for name, dropped in gone.items():
        assert dropped.float().mean().item() == pytest.approx(rates[name], abs=0.03)
    both = (gone["gap"] & gone["composition"]).float().mean().item()
    assert both == pytest.approx(0.2 * 0.5, abs=0.02)
    assert torch.equal(left.values["chemical_system"], batch.values["chemical_system"])
    assert not left.values["space_group"].any()


def test_a_condition_is_learned():
    """Latents that are a sign times one: told the sign, the model samples it; told nothing, it samples both."""
    model = make({"sign": {"kind": "value", "mean": 0.0, "std": 1.0}}, {"2": 1}, beta_end=0.2)  # noise at the end
    optimizer = torch.optim.AdamW(model.denoiser.parameters(), lr=3e-3)
    n, generator = torch.full((64,), 2), seeded(1)
    for _ in range(250):
        sign = torch.randint(2, (64,), generator=generator) * 2.0 - 1
        x = sign.view(-1, 1, 1) + 0.1 * torch.randn(64, 2, 4, generator=generator)
        loss = model.loss(x, n, generator, drop_conditions(ConditionBatch({"sign": sign}), {"sign": 0.3}, generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    means = {}
    for sign in (-1.0, 1.0, None):
        batch = model.encode_requests([{"sign": sign}] * 64, n)
        *_, last = model.transitions(n, Sampling("ddim", 20, 1.0), seeded(2), batch)
        means[sign] = last.x_next.mean((1, 2))
    assert (means[-1.0] < 0).float().mean() > 0.9
    assert (means[1.0] > 0).float().mean() > 0.9
    assert 0.2 < (means[None] > 0).float().mean() < 0.8


# --- compositions -----------------------------------------------------------------------------------------------------


def test_elements_are_assigned_as_brute_force_would():
    for seed in range(20):
        generator = seeded(seed)
        logits = 3 * torch.randn(1, 5, MAX_Z, generator=generator)
        numbers = torch.tensor([[8, 8, 8, 22, 38]])
        got = assign_elements(logits, numbers)
        log_p = logits.log_softmax(-1)[0]
        best = max(
            set(itertools.permutations(numbers[0].tolist())),
            key=lambda order: sum(float(log_p[i, z - 1]) for i, z in enumerate(order)),
        )
        assert got[0].tolist() == list(best)


def test_assigned_elements_are_exact_whatever_the_decoder_says():
    numbers = torch.tensor([[8, 8, 22], [11, 17, 0]])
    for logits in (
        torch.full((2, 3, MAX_Z), torch.nan),
        torch.full((2, 3, MAX_Z), -torch.inf),
        torch.zeros(2, 3, MAX_Z),
    ):
        assert assign_elements(logits, numbers).sort(1).values.tolist() == numbers.sort(1).values.tolist()
    agrees = torch.nn.functional.one_hot(numbers.clamp(min=1) - 1, MAX_Z).float()
    assert torch.equal(assign_elements(agrees, numbers), numbers), "canonical order is kept where the decoder agrees"


def test_a_composition_asked_for_is_the_one_obtained():
    model = make()
    for formula, sizes in {"SrTiO3": {5, 10}, "NaCl": {2, 10}, "Fe2O3": {5, 10}}.items():
        num_atoms = model.prior.propose_sizes(40, seeded(), {"composition": formula})
        assert set(num_atoms.tolist()) == sizes
        requests = [{"composition": formula}] * 40
        for guidance in (1.0, 2.0):
            sampling = Sampling("ddim", 3, 1.0, guidance)
            for rows, crystals in sample_many(model, num_atoms, sampling, seeded(), 16, requests):
                for numbers, n in zip(crystals.numbers.tolist(), num_atoms[rows].tolist(), strict=True):
                    assert sorted(numbers)[-n:] == sorted(formula_unit(formula) * (n // len(formula_unit(formula))))
    assert model.prior.propose_sizes(9, seeded(), {"composition": "SrTiO3"}, z=2).unique().tolist() == [10]
    with pytest.raises(UserError, match="times z = 3"):
        model.prior.propose_sizes(1, seeded(), {"composition": "SrTiO3"}, z=3)
    with pytest.raises(UserError, match="no composition"):
        model.prior.propose_sizes(1, seeded(), {}, z=3)


def test_sizes_without_a_composition_are_those_of_the_training_set():
    model = make()
    weights = torch.tensor([3.0, 1.0, 2.0])
    rows = torch.multinomial(weights, 50, replacement=True, generator=seeded(4))
    assert model.prior.propose_sizes(50, seeded(4)).tolist() == torch.tensor([2, 5, 10])[rows].tolist()


# --- from tables ------------------------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path: Path) -> Table:
    crystals = known_structures() + random_structures(4, seed=2)
    gaps = [5.0, 3.5, 3.2, 3.0, 1.1, 0.0, *[float("nan")] * 4]
    folder = write_dataset(tmp_path / "data", crystals, {"gap": gaps, "layers": [1.0, 2, 2, 1] * 2 + [3, 3]}, (1.0, 0))
    path = folder / "train.csv.gz"
    with gzip.open(path, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    for i, row in enumerate(rows):
        row["phase"] = ["rock", "blende", ""][i % 3]
    with gzip.open(path, "wt", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    found = load_split(folder, "train")
    assert found is not None
    return found


COLUMNS = {
    "gap": "value",
    "layers": "category",
    "phase": "category",
    "composition": "composition",
    "chemical_system": "chemical_system",
    "space_group": "space_group",
}


def test_conditions_are_read_from_a_table(table: Table):
    conditions = fit_conditions(table, COLUMNS)
    settings = to_settings(conditions)
    gaps = np.array([5.0, 3.5, 3.2, 3.0, 1.1, 0.0])
    assert settings["gap"] == {"kind": "value", "mean": pytest.approx(gaps.mean()), "std": pytest.approx(gaps.std())}
    assert settings["phase"]["known"] == ["blende", "rock"]
    assert settings["layers"]["known"] == ["1", "2", "3"]
    assert {194, 216, 221, 225, 227, 136} <= set(settings["space_group"]["known"])
    read = from_settings(json.loads(json.dumps(settings)))
    assert read == conditions
    latents = encode(VAE(**SMALL).eval(), table, 4, read)
    rows = torch.tensor([table.ids.index(f"m-{i}") for i in (0, 2, 7)])
    batch = latents.conditions_of(rows)
    assert batch.values["space_group"][:2].tolist() == [225, 221]
    assert batch.values["phase"].tolist() == [2, 0, 1]
    assert batch.values["gap"][:2].tolist() == [5.0, pytest.approx(3.2)] and batch.values["gap"][2].isnan()
    _, num_atoms = latents.batch(rows)
    numbers = batch.values["composition"]
    assert numbers.shape == (3, int(num_atoms.max()))
    for row, structure, n in zip(numbers.tolist(), table.structures(rows), num_atoms.tolist(), strict=True):
        assert row[:n] == sorted(structure.atomic_numbers), "canonical order is by atomic number"
    assert [set(v.nonzero().flatten().tolist()) for v in batch.values["chemical_system"]] == [
        set(s.atomic_numbers) for s in table.structures(rows)
    ]


def test_what_the_train_split_does_not_have_is_missing(table: Table):
    some = table.select(torch.arange(5))
    conditions = fit_conditions(some, {name: name for name in ("composition", "chemical_system", "space_group")})
    labels = encode(VAE(**SMALL).eval(), table, 4, conditions).labels
    elements = set(some.numbers.tolist())
    known = torch.tensor([set(s.atomic_numbers) <= elements for s in table.structures()])
    assert known[:5].all() and not known.all()
    for name in ("composition", "chemical_system"):
        assert torch.equal(labels[name].any(1), known)
    assert set(labels["space_group"].tolist()) - {0} == set(conditions["space_group"].known)  # type: ignore[attr-defined]
    assert torch.equal(labels["space_group"] == 0, ~torch.isin(table.space_groups, some.space_groups))


def test_a_name_that_looks_like_nothing_is_a_name(table: Table):
    text = gzip.decompress(table.path.read_bytes()).decode().replace("m-3,", "NA,").replace("m-4,", "nan,")
    table.path.write_bytes(gzip.compress(text.encode()))
    named = load_split(table.path.parent, "train")
    assert named is not None
    assert {"NA", "nan"} <= set(named.ids)
    assert fit_conditions(named, {"phase": "category"})["phase"].settings["known"] == ["blende", "rock"]


def test_a_table_without_the_labels_is_an_error(table: Table):
    for name, kind in {"none": "value", "nothing": "category"}.items():
        with pytest.raises(UserError, match=name):
            fit_conditions(table, {name: kind})


# --- reinforcement learning -------------------------------------------------------------------------------------------


def test_a_group_and_its_base_share_a_request():
    model = make()
    sets = [{"composition": "NaCl", "gap": 2.0}, None]
    settings = rl_settings(num_group_samples=4, trajectory_steps=3, conditions=sets)
    seen = set()
    for seed in range(8):
        group = step.rollout_group(model, copy.deepcopy(model), settings, SAMPLING, seeded(seed))
        numbers = group.crystals.numbers
        if group.conditions.values:
            assert group.conditions.values["gap"].tolist() == [2.0] * 4
            assert (numbers.sort(1).values == group.conditions.numbers).all()
        seen.add(bool(group.conditions.values))
        for decision in group.decisions:
            assert torch.equal(decision.base_mean, decision.transition.mean)
    assert seen == {True, False}


def test_the_first_update_on_a_conditional_model_sees_ratios_of_one(tmp_path: Path):
    model = make()
    run = make_run(tmp_path, model)
    settings = rl_settings(groups_per_step=2, num_group_samples=6, num_inner_batch=1, conditions=[{"gap": 3.0}])
    before = {k: v.clone() for k, v in model.denoiser.state_dict().items()}
    numbers = step.train_step(run, model, copy.deepcopy(model), prefer_large_cells, settings, SAMPLING)
    assert numbers["log_ratio_first"] < 1e-4
    after = model.denoiser.state_dict()
    assert not torch.equal(after["conditions.embeddings.0.0.weight"], before["conditions.embeddings.0.0.weight"])
    assert isinstance(prefer_large_cells(model.sample(torch.tensor([2]), SAMPLING, seeded())), Verdict)


# --- published models -------------------------------------------------------------------------------------------------


@pytest.fixture
def published() -> Any:
    return make_published()


def make_published() -> Any:
    torch.manual_seed(0)
    shape = {"hidden_dim": 32, "num_heads": 4, "feedforward": 32}
    stack = {**shape, "num_layers": 1}
    encoders = {
        "gap": {"kind": "float", "width": 1, "mean": 0.8, "std": 1.4},
        "formula": {"kind": "composition", "width": 100},
        "chemical_system": {"kind": "chemical_system", "width": 100},
        "phase": {"kind": "categorical", "width": 3},
    }
    config = {
        "layout": "chemeleon2",
        "vae": {
            "layout": "chemeleon2",
            "latent_dim": 4,
            "encoder": {**stack, "elements": 100},
            "decoder": {**stack, "classes": 60},
        },
        "denoiser": {
            **shape,
            "latent_dim": 4,
            "num_blocks": 2,
            "time_width": 16,
            "positions": 20,
            "conditions": {"encoders": encoders},
        },
        "diffusion": diffusion(100),
        "sizes": {"2": 0.5, "5": 0.5},
    }
    model = build("ldm", config).eval()
    for parameter in model.denoiser.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return model


def test_published_conditions_are_requested_like_ours(published: Any):
    request = {"gap": 3.0, "composition": "SrTiO3", "chemical_system": "Sr-Ti-O", "phase": 2}
    n = torch.tensor([5, 5])
    batch = published.encode_requests([request] * 2, n)
    features = {name: c.features(batch.values[name])[0] for name, c in published.conditions.items()}
    assert features["gap"].tolist() == [pytest.approx((3.0 - 0.8) / 1.4)]
    fractions = {z: pytest.approx(share) for z, share in ((8, 0.6), (22, 0.2), (38, 0.2))}
    assert {z: share for z, share in enumerate(features["formula"].tolist()) if share} == fractions
    assert features["chemical_system"].nonzero().flatten().tolist() == [8, 22, 38]
    assert features["phase"].tolist() == [0, 0, 1]
    for guidance in (1.0, 2.0):
        crystals = published.sample(n, Sampling("ddim", 4, 1.0, guidance), seeded(), batch)
        assert crystals.numbers.sort(1).values.tolist() == [[8, 8, 8, 22, 38]] * 2
    for wrong, words in {
        "gap": "all together; formula, chemical_system, phase is not given",
        "band_gap": "not trained for the condition 'band_gap'",
    }.items():
        with pytest.raises(UserError, match=words):
            published.encode_requests([{wrong: 3.0}], n[:1])
    with pytest.raises(UserError, match="knows no Au"):  # Z = 79: no class of the decoder
        published.encode_requests([{**request, "composition": "Au"}], n[:1])


def test_guidance_of_a_published_model_is_of_the_noise_alone(published: Any):
    request = {"gap": 3.0, "composition": "SrTiO3", "chemical_system": "Sr-Ti-O", "phase": 2}
    n, x = torch.tensor([5]), torch.randn(1, 5, 4, generator=seeded())
    batch = published.encode_requests([request], n)
    chain = published.chain(Sampling("ddpm", 10, 1.0))

    def step(guidance: float, what: ConditionBatch = batch) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return published.step(x, 5, n, chain, Sampling("ddpm", 10, 1.0, guidance), what)

    (told, std), (null, _), (guided, guided_std) = step(1.0), step(1.0, NO_CONDITIONS), step(3.0)
    assert torch.allclose(guided, null + 3 * (told - null), atol=1e-4)
    assert torch.equal(guided_std, std)


# --- like the crystals of a file --------------------------------------------------------------------------------------


def draw_like(crystals: list[Structure], **changes: Any) -> tuple[list[str], list[int], str]:
    """Names and sizes that `sample` draws for these crystals, and what it says of the others."""
    from chemeleon_cli.commands.sample import _like
    from chemeleon_cli.sources.files import write_crystals

    write_crystals("like.cif", crystals, [f"c{i}" for i in range(len(crystals))])
    recipe = Sample.model_validate({"model": "m", "like": "like.cif", "num_samples": 2, **changes})
    console = Console(file=io.StringIO(), width=200)
    names, sizes, _ = _like("like.cif", recipe, make(), console)
    return names, sizes.tolist(), console.file.getvalue()  # type: ignore[attr-defined]


def test_crystals_beyond_the_sizes_of_the_model_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    salt = known_structures()[0]
    large = Structure(Lattice.cubic(9), ["Na"] * 11, np.random.default_rng(0).random((11, 3)))
    names, sizes, said = draw_like([large, salt])
    assert (names, sizes) == (["c1-0", "c1-1"], [2, 2])
    assert "1 crystals of like.cif have sizes that the model was not trained on (2 to 10 atoms)" in said
    with pytest.raises(UserError, match=r"\(2 to 10 atoms\); none is left"):
        draw_like([large])


def test_an_element_that_the_model_does_not_know_is_an_error_before_sampling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    salt = known_structures()[0]
    fluoride = body_centred(4, "Cs", "F")
    with pytest.raises(UserError, match="like.cif, c1: composition: found 'Cs1F1'; the model knows no F, Cs"):
        draw_like([salt, fluoride])


@pytest.mark.parametrize("settings", [{}, SETTINGS])
def test_fine_tuning_starts_from_the_same_noise_predictions(settings: dict[str, Any]):
    source, conditions = make(None), from_settings(settings)
    source.latent_std.fill_(2.0)
    other = LatentDiffusion.fine_tuned_from(source, conditions, {"4": 1})
    x, t, n = torch.randn(2, 5, 4, generator=seeded()), torch.tensor([3, 60]), torch.tensor([5, 5])
    assert torch.equal(other.denoiser(x, t, n), source.denoiser(x, t, n))  # the vectors of missing conditions are zero
    assert torch.equal(other.decode(x, n).lattice, source.decode(x, n).lattice)
    assert set(other.prior.propose_sizes(20, seeded()).tolist()) == {4}
    assert other.conditions == conditions


def test_fine_tuning_learns_values_anew():
    source = make(SETTINGS)
    conditions = from_settings({"gap": {"kind": "value", "mean": 3.0, "std": 1.0}})
    other = LatentDiffusion.fine_tuned_from(source, conditions, SIZES)
    assert other.conditions == conditions
    weights, before = other.denoiser.state_dict(), source.denoiser.state_dict()
    assert all(torch.equal(weights[k], before[k]) for k in weights if k.startswith("transformer."))


def test_the_share_of_atoms_that_keep_their_element_is_counted(tmp_path: Path):
    write_dataset(tmp_path, [*known_structures(), *known_structures()], {}, (0.5, 0.5))
    table = load_split(tmp_path, "train")
    assert table is not None
    vae = make(None).vae
    vae.decoder.element_head.bias.data[7] = 1e6  # all is oxygen
    rows = torch.arange(len(table))
    oxygen = sum(s.composition["O"] for s in table.structures()) / sum(len(s) for s in table.structures())
    assert 0 < oxygen < 1
    assert elements_kept(vae, encode(vae, table, 4), rows) == pytest.approx(oxygen)


# --- recipes ----------------------------------------------------------------------------------------------------------


def test_recipes_know_every_kind_of_condition():
    """Recipes are read without torch, so they list the kinds themselves."""
    assert get_args(ConditionSection.model_fields["kind"].annotation) == tuple(KINDS)
    assert tuple(kind for kind, condition in KINDS.items() if not condition.is_column) == OF_CRYSTALS
    assert [condition.kind for condition in KINDS.values()] == list(KINDS)


def test_recipes_know_every_kind_of_denoiser():
    assert get_args(LdmModel.model_fields["kind"].annotation) == tuple(DENOISERS)


# --- the command line -------------------------------------------------------------------------------------------------


def call(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, result.output + str(result.exception)
    return result.output


def test_train_sample_and_errors_through_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from chemeleon_cli.commands import train_ldm
    from chemeleon_cli.sources.files import read_crystals

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_ldm, "FINAL_SAMPLES", 4)
    crystals = [*known_structures(), *known_structures()]
    write_dataset(tmp_path / "data", crystals, {"gap": [5.0, 3.5, 3.2, 3.0, 1.1, 0.0] * 2}, (0.5, 0.5))
    torch.manual_seed(0)
    vae = VAE(**SMALL)
    checkpoint.save(tmp_path / "vae", "vae", vae.config, vae.state_dict(), {"data": {"path": "data"}})
    (tmp_path / "ldm.yaml").write_text(
        "data: {path: data}\nvae: vae\nmodel: {hidden_dim: 32, num_heads: 4, num_blocks: 1}\n"
        "sampling: {sampling_steps: 2}\n"
        "conditions:\n  gap: {dropout: 0.1}\n  composition:\n  space_group: space_group\n  oxidation_states:\n"
        "training: {max_steps: 4, val_every: 2, batch_size: 8}\n"
    )
    assert "reconstructs the element of only" in call("train-ldm", "ldm.yaml")  # the autoencoder has learned nothing
    meta = json.loads((tmp_path / "runs/ldm/checkpoints/best/meta.json").read_text())
    conditions = meta["config"]["denoiser"]["conditions"]
    assert {name: c["kind"] for name, c in conditions.items()} == {
        "gap": "value", "composition": "composition", "space_group": "space_group",
        "oxidation_states": "oxidation_states",
    }  # fmt: skip
    (tmp_path / "more.yaml").write_text(
        "name: more\ndata: {path: data}\nstart: runs/ldm\nsampling: {sampling_steps: 2}\n"
        "training: {max_steps: 2, val_every: 1, batch_size: 8, learning_rate: 1e-9}\n"
    )
    call("train-ldm", "more.yaml")
    more = json.loads((tmp_path / "runs/more/checkpoints/best/meta.json").read_text())
    assert [parent["kind"] for parent in more["parents"]] == ["ldm"]
    assert "conditions" not in more["config"]["denoiser"] and more["config"]["denoiser"]["hidden_dim"] == 32
    old, new = (checkpoint.load(tmp_path / f"runs/{name}/checkpoints/best", "ldm")[0] for name in ("ldm", "more"))
    weights = new.state_dict()
    kept = {k: v for k, v in old.state_dict().items() if k.startswith(("vae.", "denoiser.transformer."))}
    assert kept and all(torch.allclose(weights[k], v, atol=1e-6) for k, v in kept.items())
    draw = ("sample", "--model", "runs/ldm", "--set", "sampling_steps=2", "--out", "out.cif", "--overwrite")
    asked = ("--composition", "SrTiO3", "--space-group", "221", "--condition", "gap=3.0", "--set", "guidance=2")
    call(*draw, "-n", "6", *asked)
    for row in read_crystals("out.cif"):
        assert row.structure is not None
        assert row.structure.composition == Composition("SrTiO3")
    call(*draw, "-n", "20")
    sizes = {len(row.structure) for row in read_crystals("out.cif") if row.structure is not None}
    assert len(sizes) > 1 and sizes <= {len(k.split()) for k in conditions["oxidation_states"]["known"]}
    (tmp_path / "like.csv").write_bytes(gzip.decompress((tmp_path / "data/val.csv.gz").read_bytes()))
    call(*draw, "-n", "2", "--set", "like=like.csv")
    wanted = {row.id: row.structure for row in read_crystals("like.csv")}
    got = list(read_crystals("out.cif"))
    assert len(got) > 6
    for row in got:
        given = wanted[row.id.rpartition("-")[0]]
        assert given is not None and row.structure is not None
        assert row.structure.composition.reduced_formula == given.composition.reduced_formula
    said = call("score", "out.cif", "--against", "like.csv", "--out", "scores.csv")
    assert "of 6 crystals found" in " ".join(said.split())
    found = json.loads((tmp_path / "scores.json").read_text())["structure_prediction"]
    assert (found["paired_by"], found["references"], found["candidates"]) == ("id", 6, len(got))
    assert found["right_formulas"] == 1.0
    (tmp_path / "out.cif").unlink()
    for arguments, words in {
        ("--condition", "band_gap=3"): "not trained for the condition 'band_gap'; it has gap (value), composition",
        ("--chemical-system", "Na-Cl"): "not trained for the condition 'chemical_system'",
        ("--composition", "XeF2"): "knows no F, Xe",
        ("--condition", "oxidation_states=-9 9"): "no crystal that the model was trained on has these oxidation states",
        ("--composition", "SrTiO3", "--condition", "oxidation_states='0 0'"): "they do not fit a crystal of",
        ("--condition", "oxidation_states='0 0'", "--set", "like=like.csv"): "they do not fit a crystal of",
        ("--composition", "SrTiO3", "--set", "like=like.csv"): "like: found 'like.csv'; expected null",
        ("--set", "guidance=2"): "guidance: found 2; expected 1 where nothing is asked for",
        ("--set", "z=2"): "no composition is requested",
        ("--set", "z=3", "--set", "like=like.csv"): "z: found 3; expected null where like is given",
        ("--condition", "gap"): "--condition gap: found no '='; expected NAME=VALUE",
        ("--condition", "gap=[1]"): "--condition gap=[1]: conditions.gap: found neither a number nor a text",
        ("--out", "like.csv/x.cif"): "like.csv/x.cif: cannot be written: Not a directory",
        ("--set", "conditions.gap=[1]"): "conditions.gap: found neither a number nor a text",
    }.items():
        said = call(*draw, *arguments, code=2)
        assert words in " ".join(said.split()), said
    assert not (tmp_path / "out.cif").exists(), "nothing is written"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{elements: composition}", "found 'elements' of kind composition; expected conditions of"),
        ("{composition: value}", "found 'composition' of kind value"),
        ("{gpa: }", "conditions: found 'gpa'; expected columns of"),
        ("{gap: {kind: number}}", "conditions.gap.kind: found 'number'; expected one of value"),
        ("{gap: {dropout: 2}}", "conditions.gap.dropout: found 2; expected less than 1"),
    ],
)
def test_a_mistake_in_the_conditions_of_a_recipe(
    text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from chemeleon_cli.recipe.load import load
    from chemeleon_cli.recipe.models import RECIPES

    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.csv").write_text("material_id,cif,gap\n")
    (tmp_path / "data" / "val.csv").touch()
    (tmp_path / "r.yaml").write_text(f"data: {{path: data}}\nvae: vae\nconditions: {text}\n")
    with pytest.raises(UserError) as caught:
        load("r.yaml", RECIPES["train-ldm"], find_model=lambda name, kind: tmp_path)
    assert words in caught.value.message


def test_what_is_given_is_told_for_tensors_of_any_shape():
    values = torch.tensor([[torch.nan, torch.nan], [1.0, torch.nan], [0.0, 2.0]])
    assert is_given(values).tolist() == [False, True, True]
    assert is_given(values[:, 1]).tolist() == [False, False, True]
    assert is_given(torch.tensor([[0, 0], [0, 3]])).tolist() == [False, True]
