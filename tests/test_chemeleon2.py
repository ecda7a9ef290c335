"""Published models: what the original computes, and that every command takes them like ours."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import published_files as files
import pytest
import torch
from pymatgen.core import Composition, Lattice, Structure
from safetensors.torch import load_file
from samples import diffusion, known_structures, random_structures, working_copy, write_dataset
from torch import Tensor, nn
from typer.testing import CliRunner

from chemeleon_cli.app import app
from chemeleon_cli.core.chemeleon2 import convert
from chemeleon_cli.core.chemeleon2.conditions import published_conditions
from chemeleon_cli.core.chemeleon2.denoiser import Denoiser
from chemeleon_cli.core.chemeleon2.latent_diffusion import LatentDiffusion, learned_log_variance
from chemeleon_cli.core.chemeleon2.predictor import Predictor
from chemeleon_cli.core.chemeleon2.vae import VAE
from chemeleon_cli.core.conditions.base import ConditionBatch
from chemeleon_cli.core.conditions.composition import formula_unit
from chemeleon_cli.core.data.crystals import Crystals, atom_mask, canonical
from chemeleon_cli.core.models import latent_diffusion
from chemeleon_cli.core.models.build import build
from chemeleon_cli.core.models.generator import Sampling, sample_many
from chemeleon_cli.core.scoring.context import ScoringContext
from chemeleon_cli.core.scoring.features import features
from chemeleon_cli.core.training import checkpoint
from chemeleon_cli.errors import UserError

GOLDEN = Path(__file__).parents[2] / "shared" / "golden" / "chemeleon2-tiny"
FORMULAS = ["NaCl", "SrTiO3", "Zn2GaAsNOS", "LiFePO2"]


def load(found: convert.Imported) -> Any:
    model = build(found.kind, found.config)
    model.load_state_dict(found.weights)
    return model.eval()


# --- what the original computes ---------------------------------------------------------------------------------------


class Golden:
    """The published form's five tiny files, and what the original makes of four structures."""

    def __init__(self) -> None:
        self.expected = load_file(GOLDEN / "expected.safetensors")
        given = json.loads((GOLDEN / "structures.json").read_text())
        structures = [Structure(Lattice(s["lattice"]), s["atomic_numbers"], s["frac_coords"]) for s in given]
        self.crystals = Crystals.from_structures(structures)
        self.autoencoder = convert.read(GOLDEN / "vae.ckpt")
        self.vae: VAE = load(self.autoencoder)
        self.ldm: LatentDiffusion = self.model("ldm.ckpt")
        self.x, self.num_atoms = self.expected["denoiser_input"], self.crystals.num_atoms
        self.compared: set[str] = set()

    def model(self, name: str) -> Any:
        return load(convert.read(GOLDEN / name, self.autoencoder))

    def compare(self, **got: Tensor) -> None:
        for name, value in got.items():
            wanted = self.expected[name]
            assert value.dtype == torch.float32
            assert value.shape == wanted.shape, name
            scale = max(1.0, wanted.abs().max().item())
            assert (value - wanted).abs().max().item() < 1e-5 * scale, name


@pytest.fixture(scope="module")
def golden() -> Golden:
    if not GOLDEN.is_dir():
        pytest.skip("needs ../shared")
    return Golden()


def test_golden_autoencoder(golden: Golden):
    assert (golden.crystals.mask == golden.expected["mask"]).all()
    mask, posterior = golden.crystals.mask, golden.vae.encoder(golden.crystals)
    golden.compare(
        encoder_x=posterior.hidden[mask],
        posterior_mean=posterior.mean[mask],
        posterior_logvar=2 * posterior.std[mask].log(),
        denoiser_input=posterior.mean / golden.ldm.latent_std,
    )
    logits, coords, cell = golden.vae.decoder.heads(posterior.mean, golden.num_atoms)
    golden.compare(
        decoded_atom_type_logits=logits[mask],
        decoded_frac_coords=coords[mask],
        decoded_lengths_scaled=cell[:, :3],
        decoded_angles_radians=cell[:, 3:],
    )
    assert all(torch.equal(golden.vae.state_dict()[k], v) for k, v in golden.ldm.vae.state_dict().items())


def test_golden_denoiser_and_training_loss(golden: Golden):
    t, noise = golden.expected["timesteps"].long(), golden.expected["training_noise"]
    golden.compare(denoiser_output_raw=golden.ldm.denoiser.raw(golden.x, t, golden.num_atoms))
    terms = golden.ldm.loss_terms(golden.x, golden.num_atoms, t, noise)
    golden.compare(training_mse=terms["mse"], training_vb=terms["vb"], training_loss=terms["mse"] + terms["vb"])


@pytest.mark.parametrize("index", [0, 4, 9])
def test_golden_steps(golden: Golden, index: int):
    ddim, ddpm = Sampling("ddim", 10, 1.0), Sampling("ddpm", 10, 1.0)
    chain = golden.ldm.chain(ddim)
    mean, std = golden.ldm.step(golden.x, index, golden.num_atoms, chain, ddim)
    golden.compare(**{f"ddim10_step{index}_mean": mean, f"ddim10_step{index}_std": std.expand_as(mean)})
    chain = golden.ldm.chain(ddpm)
    mean, std = golden.ldm.step(golden.x, index, golden.num_atoms, chain, ddpm)
    if index == 0:  # ours draws no noise in the last step; the original computes a std and does not use it
        assert (std == 0).all()
        timestep = chain.timesteps[0].expand(len(mean))
        channel = golden.ldm.denoiser.noise_and_variance(golden.x, timestep, golden.num_atoms)[1]
        std = torch.exp(0.5 * learned_log_variance(chain, channel, 0))
    golden.compare(**{f"ddpm10_step{index}_mean": mean, f"ddpm10_step{index}_std": std})


def test_golden_deterministic_chain(golden: Golden):
    sampling, x = Sampling("ddim", 10, 0.0), golden.expected["ddim10_eta0_noise"]
    chain = golden.ldm.chain(sampling)
    for index in reversed(range(10)):
        x, _ = golden.ldm.step(x, index, golden.num_atoms, chain, sampling)
    golden.compare(ddim10_eta0_final=x)


def test_golden_conditions(golden: Golden):
    ldm = golden.model("ldm_conditional.ckpt")
    gaps = golden.expected["condition_band_gap"].tolist()
    requests = [{"band_gap": gap, "composition": formula} for gap, formula in zip(gaps, FORMULAS, strict=True)]
    units = torch.tensor([len(formula_unit(formula)) for formula in FORMULAS])
    batch = ldm.encode_requests(requests, units)
    y, null = ldm.denoiser.conditions(batch.values, 4), ldm.denoiser.conditions({}, 4)
    golden.compare(condition_embedding=torch.cat([y, null]))
    t = torch.full((4,), 500)
    told = ldm.denoiser.raw(golden.x, t, golden.num_atoms, batch)
    untold = ldm.denoiser.raw(golden.x, t, golden.num_atoms)
    guided = untold + 2.0 * (told - untold)  # as published, of the variance channel too
    golden.compare(cfg2_denoiser_output_raw=torch.cat([guided, guided]))


def test_golden_predictors(golden: Golden):
    both, gap = golden.model("predictor.ckpt"), golden.model("predictor_hidden.ckpt")
    assert (both.targets, both.reduce, both.use_encoder_features) == (["band_gap", "e_above_hull"], "mean", False)
    assert (gap.targets, gap.reduce, gap.use_encoder_features) == (["band_gap"], "sum", True)
    values = both(golden.crystals) * both.std + both.mean
    golden.compare(predicted_band_gap=values[:, 0], predicted_e_above_hull=values[:, 1])
    golden.compare(predicted_hidden_band_gap=(gap(golden.crystals) * gap.std + gap.mean)[:, 0])


# --- the same from torch's own layers, for files that these tests make ------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of an autoencoder, generators and a predictor, and the modules that they are of."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("published")
    vae, dit = files.vae(), files.dit()
    files.save_vae(folder / "vae.ckpt", vae)
    files.save_ldm(folder / "ldm.ckpt", dit, vae)
    head = files.predictor(40, 1)
    files.save_predictor(
        folder / "gap.ckpt", vae, head, ["band_gap"], reduce="mean", use_encoder_features=files.config(True)
    )
    return folder


def index_embedding(n: int, width: int) -> Tensor:
    rows = []
    for i in range(n):
        phases = [i * math.pi / 2048 ** (2 * k / width) for k in range(width // 2)]
        rows.append([math.sin(p) for p in phases] + [math.cos(p) for p in phases])
    return torch.tensor(rows)


@torch.no_grad()
def test_the_autoencoder_is_what_torch_makes_of_the_modules(tmp_path: Path):
    """One crystal at a time through the modules as they were saved; without gradients, as torch then fuses them."""
    torch.manual_seed(1)
    theirs = files.vae(width=48, layers=(3, 2), latent=6)
    ours: VAE = load(convert.read(files.save_vae(tmp_path / "vae.ckpt", theirs)))
    structures = [canonical(s) for s in known_structures() + random_structures(4, seed=1)]
    crystals = Crystals.from_structures(structures)
    posterior = ours.encoder(crystals)
    logits, coords, _ = ours.decoder.heads(posterior.mean, crystals.num_atoms)
    decoded = ours.decoder(posterior.mean, crystals.num_atoms)
    back = decoded.to_crystals()
    encoder: Any = theirs.encoder
    decoder: Any = theirs.decoder
    for b, s in enumerate(structures):
        n = len(s)
        x = encoder.atom_type_embedder(torch.tensor(s.atomic_numbers))
        x = x + encoder.lattices_embedder(torch.tensor(s.lattice.matrix.flatten()).float())
        x = x + encoder.frac_coords_embedder(torch.tensor(s.frac_coords).float()) + index_embedding(n, 48)
        hidden = encoder.transformer(x.unsqueeze(0))
        mean, logvar = theirs.quant_conv(hidden)[0].chunk(2, -1)  # type: ignore[operator]
        assert torch.allclose(posterior.hidden[b, :n], hidden[0], atol=1e-5)
        assert torch.allclose(posterior.mean[b, :n], mean, atol=1e-5)
        assert torch.allclose(posterior.std[b, :n], (0.5 * logvar).exp(), atol=1e-5)
        x = theirs.post_quant_conv(mean) + index_embedding(n, 48)  # type: ignore[operator]
        out = decoder.transformer(x.unsqueeze(0))[0]
        types = decoder.atom_types_head(out)
        assert torch.allclose(logits[b, :n], types, atol=1e-4)
        assert torch.allclose(coords[b, :n], decoder.frac_coords_head(out), atol=1e-5)
        lengths, angles = decoder.lattice_head(out.mean(0)).chunk(2)
        assert torch.allclose(decoded.lengths[b], lengths * n ** (1 / 3), atol=1e-4)
        assert torch.allclose(decoded.angles[b], angles.rad2deg(), atol=1e-3)
        assert (back.numbers[b, :n] == types[:, 1:].argmax(-1) + 1).all()
        difference = back.frac_coords[b, :n] - coords[b, :n]
        assert (difference - difference.round()).abs().max() < 1e-5


def dit_by_hand(model: Any, x: Tensor, t: int, n: int, y: Tensor | None) -> tuple[Tensor, Tensor]:
    """One crystal of n atoms (n, D) at step t, among 20 positions, row by row."""
    width = model.x_embedder.out_features
    rates = [10_000 ** (-k / 32) for k in range(32)]
    phases = torch.tensor([math.cos(t * r) for r in rates] + [math.sin(t * r) for r in rates])
    c = model.t_embedder.mlp(phases)
    c = nn.functional.silu(c if y is None else c + y)

    def norm(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return nn.functional.layer_norm(h, (width,), eps=1e-6) * (1 + scale) + shift

    index = index_embedding(n, width)
    h = model.x_embedder(torch.cat([x, torch.zeros(20 - n, x.shape[1])]))
    h = h + torch.cat([index, index[-1:].expand(20 - n, -1)])
    hidden = torch.arange(20) >= n
    for block in model.blocks:
        shift1, scale1, gate1, shift2, scale2, gate2 = block.adaLN_modulation[1](c).chunk(6)
        a = norm(h, shift1, scale1).unsqueeze(0)
        h = h + gate1 * block.attn(a, a, a, key_padding_mask=hidden.unsqueeze(0), need_weights=False)[0][0]
        a = norm(h, shift2, scale2)
        h = h + gate2 * block.mlp.fc2(nn.functional.gelu(block.mlp.fc1(a), approximate="tanh"))
    shift, scale = model.final_layer.adaLN_modulation[1](c).chunk(2)
    out = model.final_layer.linear(norm(h, shift, scale))  # (20, 2D)
    width = x.shape[1]
    rows = [out[r // 2, (r % 2) * width : (r % 2 + 1) * width] for r in range(40)]
    return torch.stack([rows[i] for i in range(n)]), torch.stack([rows[20 + i] for i in range(n)])


@pytest.mark.parametrize("sizes", [[1, 3, 7], [20, 2, 12]])
def test_the_denoiser_reads_its_output_as_published(tmp_path: Path, sizes: list[int]):
    torch.manual_seed(2)
    vae, theirs = files.vae(), files.dit(depth=3)
    pair = convert.read(files.save_vae(tmp_path / "vae.ckpt", vae))
    ours: LatentDiffusion = load(convert.read(files.save_ldm(tmp_path / "ldm.ckpt", theirs, vae), pair))
    num_atoms = torch.tensor(sizes)
    x = torch.randn(3, max(sizes), 8) * atom_mask(num_atoms, max(sizes)).unsqueeze(-1)
    t = torch.tensor([0, 371, 999])
    noise, variance = ours.denoiser.noise_and_variance(x, t, num_atoms)
    for b, n in enumerate(sizes):
        wanted_noise, wanted_variance = dit_by_hand(theirs, x[b, :n], int(t[b]), n, None)
        assert torch.allclose(noise[b, :n], wanted_noise, atol=1e-5)
        assert torch.allclose(variance[b, :n], wanted_variance, atol=1e-5)
        assert (noise[b, n:] == 0).all()
    assert torch.equal(ours.latent_std, torch.full((8,), 1.7))


def test_crystals_larger_than_any_of_its_training_still_run(made: Path):
    ours: LatentDiffusion = load(convert.read(made / "ldm.ckpt", convert.read(made / "vae.ckpt")))
    assert len(ours.sample(torch.tensor([24, 3]), Sampling("ddim", 4, 1.0), torch.Generator().manual_seed(0))) == 2


def test_chains_are_spaced_as_published(made: Path):
    ours: LatentDiffusion = load(convert.read(made / "ldm.ckpt", convert.read(made / "vae.ckpt")))
    assert ours.chain(Sampling("ddim", 50, 1.0)).timesteps.tolist() == list(range(0, 1000, 20))
    assert ours.chain(Sampling("ddpm", 4, 1.0)).timesteps.tolist() == [0, 333, 666, 999]
    assert len(ours.chain(Sampling("ddpm", 1000, 1.0))) == len(ours.chain(Sampling("ddim", 1000, 1.0))) == 1000
    for sampler, steps in (("ddim", 60), ("ddim", 1001), ("ddpm", 1), ("ddpm", 1001)):
        with pytest.raises(UserError, match=f"sampling_steps is {steps}"):
            ours.chain(Sampling(sampler, steps, 1.0))  # type: ignore[arg-type]
    with pytest.raises(UserError) as error:
        ours.chain(Sampling("ddim", 60, 1.0))
    assert error.value.hint == "take one of 56, 59, 63"


def test_train_ldm_does_not_fine_tune_a_published_generator(made: Path):
    ours: LatentDiffusion = load(convert.read(made / "ldm.ckpt", convert.read(made / "vae.ckpt")))
    with pytest.raises(UserError, match="train-ldm cannot fine-tune a published Chemeleon2 model"):
        latent_diffusion.LatentDiffusion.fine_tuned_from(ours, {}, {"4": 1})


def test_a_ddpm_step_has_the_learned_std_within_its_bounds(made: Path):
    ours: LatentDiffusion = load(convert.read(made / "ldm.ckpt", convert.read(made / "vae.ckpt")))
    sampling, sizes = Sampling("ddpm", 20, 1.0), torch.full((64,), 6)
    for step in ours.transitions(sizes, sampling, torch.Generator().manual_seed(0)):
        assert step.std.shape[-1] == (8 if step.index else 1)
        if step.index:
            z = (step.x_next - step.mean) / step.std
            assert abs(z.mean()) < 0.1
            assert z.std().item() == pytest.approx(1, abs=0.05)
    assert (step.x_next == step.mean).all()
    chain, ones = ours.chain(sampling), torch.ones(1, 1, 1)
    ab, ab_prev = chain.alphas_cumprod[7], chain.alphas_cumprod[6]
    beta = 1 - ab / ab_prev
    assert learned_log_variance(chain, ones, 7).item() == pytest.approx(beta.log().item(), rel=1e-5)
    least = (beta * (1 - ab_prev) / (1 - ab)).log().item()
    assert learned_log_variance(chain, -ones, 7).item() == pytest.approx(least, rel=1e-5)


def test_the_bound_trains_the_variance_and_the_error_the_mean(made: Path):
    ours: LatentDiffusion = load(convert.read(made / "ldm.ckpt", convert.read(made / "vae.ckpt")))
    x0, num_atoms, t = torch.randn(3, 6, 8), torch.tensor([6, 2, 4]), torch.tensor([5, 500, 990])
    noise = torch.randn(3, 6, 8)
    terms = ours.loss_terms(x0, num_atoms, t, noise)
    (gradient,) = torch.autograd.grad(terms["vb"].sum(), ours.denoiser.head.weight, retain_graph=True)
    assert gradient.abs().max() > 0
    ours.loss(torch.randn(3, 6, 8), num_atoms, torch.Generator().manual_seed(0)).backward()
    assert all(p.grad is None for p in ours.vae.parameters())
    for b, n in enumerate(num_atoms.tolist()):
        ab = ours.schedule.alphas_cumprod[t[b]].float()
        x_t = ab.sqrt() * x0[b, :n] + (1 - ab).sqrt() * noise[b, :n]
        alone = ours.denoiser(x_t[None], t[[b]], num_atoms[[b]])[0]
        assert terms["mse"][b].item() == pytest.approx((alone - noise[b, :n]).square().mean().item(), rel=1e-4)
    # KL(q || p) of one crystal from torch.distributions
    b, n, row = 1, 2, int(t[1])
    schedule = ours.schedule
    ab, ab_prev = schedule.alphas_cumprod[row], schedule.alphas_cumprod[row - 1]
    x_t = (ab.sqrt() * x0[b, :n] + (1 - ab).sqrt() * noise[b, :n]).float()
    eps, channel = ours.denoiser.noise_and_variance(x_t[None], t[[b]], num_atoms[[b]])
    beta = 1 - ab / ab_prev

    def posterior_mean(clean: Tensor) -> Tensor:
        return (ab_prev.sqrt() * beta * clean + (1 - beta).sqrt() * (1 - ab_prev) * x_t) / (1 - ab)

    low = beta * (1 - ab_prev) / (1 - ab)
    variance = torch.exp((channel[0] + 1) / 2 * beta.log() + (1 - channel[0]) / 2 * low.log())
    q = torch.distributions.Normal(posterior_mean(x0[b, :n]), low.sqrt())
    p = torch.distributions.Normal(posterior_mean((x_t - (1 - ab).sqrt() * eps[0]) / ab.sqrt()), variance.sqrt())
    wanted = torch.distributions.kl_divergence(q, p).mean().item() / math.log(2)
    assert terms["vb"][b].item() == pytest.approx(wanted, rel=1e-3)


def test_every_kind_of_condition(tmp_path: Path):
    torch.manual_seed(3)
    vae, theirs = files.vae(), files.dit()
    widths = {"gap": 1, "formula": 100, "system": 100, "group": 230}
    y = files.conditions(widths)
    types = {"gap": "float", "formula": "composition", "system": "chemical_system", "group": "categorical"}
    settings = files.config({"condition_type": types, "stats": {"gap": {"mean": 0.8, "std": 1.4}}, "drop_prob": 0.2})
    saved = files.save_ldm(tmp_path / "c.ckpt", theirs, vae, conditions=y, condition_module=settings)
    ours: LatentDiffusion = load(convert.read(saved, convert.read(files.save_vae(tmp_path / "v.ckpt", vae))))
    conditions = ours.denoiser.conditions
    assert conditions is not None
    given = {"gap": [0.0, 3.0], "formula": ["SrTiO3", "SiO2"], "system": ["Li-Fe-P-O", "C-O"], "group": [0, 229]}
    requests = [{name: column[b] for name, column in given.items()} for b in range(2)]
    batch = ours.encode_requests(requests, torch.tensor([5, 3]))
    got = conditions(batch.values, 2)
    for b in range(2):
        fractions, present, one = torch.zeros(100), torch.zeros(100), torch.zeros(230)
        for element, amount in Composition(given["formula"][b]).fractional_composition.items():
            fractions[element.Z] = amount  # type: ignore[union-attr]
        for symbol in given["system"][b].split("-"):
            present[Composition(symbol).elements[0].Z] = 1  # type: ignore[union-attr]
        one[given["group"][b]] = 1
        inputs = [torch.tensor([(given["gap"][b] - 0.8) / 1.4]), fractions, present, one]
        parts = [y.encoders[name].embedding(v) for name, v in zip(widths, inputs, strict=True)]  # type: ignore
        assert torch.allclose(got[b], y.proj(torch.cat(parts)), atol=1e-5)  # type: ignore[operator]
    parts = [e.embedding(e.null_embed)[0] for e in y.encoders.values()]  # type: ignore
    null = y.proj(torch.cat(parts))  # type: ignore[operator]
    x, t, n = torch.randn(2, 4, 8), torch.tensor([9, 500]), torch.tensor([4, 4])
    for b in range(2):  # no condition is the null condition
        assert torch.allclose(ours.denoiser(x, t, n)[b], dit_by_hand(theirs, x[b], int(t[b]), 4, null)[0], atol=1e-5)
        wanted = dit_by_hand(theirs, x[b], int(t[b]), 4, got[b])[0]
        assert torch.allclose(ours.denoiser(x, t, n, batch)[b], wanted, atol=1e-5)
    half = ConditionBatch({**batch.values, "gap": torch.tensor([0.0, torch.nan])})
    assert torch.allclose(conditions(half.values, 2)[0], got[0]), "a missing value leaves its neighbours alone"
    missing = {name: torch.full_like(v, torch.nan if v.is_floating_point() else 0) for name, v in batch.values.items()}
    assert torch.allclose(conditions(missing, 2), null.expand(2, -1), atol=1e-6)
    crystals = ours.sample(torch.tensor([4, 2]), Sampling("ddim", 4, 1.0), torch.Generator().manual_seed(0))
    assert crystals.num_atoms.tolist() == [4, 2]
    one = published_conditions({"gap": {"kind": "float", "width": 1}})["gap"]  # a file without statistics
    assert one.features(torch.tensor([2.5])).tolist() == [[2.5]]


# --- files that cannot be read ----------------------------------------------------------------------------------------


def test_what_does_not_fit_is_said(made: Path, tmp_path: Path):
    torch.manual_seed(4)
    pair = convert.read(made / "vae.ckpt")
    vae, other, dit = files.vae(), files.vae(layers=(1, 1)), files.dit()

    def refuse(path: Path, text: str, given: convert.Imported | None = pair) -> None:
        with pytest.raises(UserError) as error:
            convert.read(path, given)
        assert text in error.value.message

    refuse(made / "ldm.ckpt", "its autoencoder is in a file of its own", None)
    refuse(files.save_ldm(tmp_path / "a.ckpt", dit, vae), "was trained with another autoencoder")
    refuse(files.save_ldm(tmp_path / "b.ckpt", dit, other), "was trained with another autoencoder")
    refuse(files.save(tmp_path / "c.ckpt", {"x.": nn.Linear(2, 2)}, {}), "no autoencoder, generator or predictor")
    refuse(files.save(tmp_path / "d.ckpt", {}, {}), "has no state_dict")
    refuse(files.save(tmp_path / "e.ckpt", {}, {}, weight="text"), "weight in it is no tensor")  # type: ignore[arg-type]
    refuse(files.save(tmp_path / "f.ckpt", {"": vae}, {"latent_dim": 8}), "not the published transformer")
    relu = files.vae()
    relu.encoder.transformer.layers[0].activation = nn.GELU()  # type: ignore
    refuse(files.save_vae(tmp_path / "g.ckpt", relu), "not the published transformer")
    lora = files.dit()
    lora.lora = nn.Linear(2, 2)
    refuse(files.save_ldm(tmp_path / "h.ckpt", lora, None), "2 tensors do not fit its config, the first denoiser.lora")
    for name, value in {"predict_xstart": True, "learn_sigma": False, "diffusion_steps": 10**12}.items():
        bad = files.save_ldm(tmp_path / "i.ckpt", dit, None, diffusion_configs={name: value})
        refuse(bad, name)
    text = files.config({"condition_type": {"prompt": "text"}})
    extra = {"conditions": files.conditions({"prompt": 100}), "condition_module": text}
    refuse(files.save_ldm(tmp_path / "j.ckpt", dit, None, **extra), "by text; known are float")
    wrong = files.save_predictor(tmp_path / "k.ckpt", vae, files.predictor(8, 1), ["gap"])
    refuse(wrong, "reduce or use_encoder_features are not what a predictor has")


def test_an_element_that_it_does_not_know_is_said(made: Path):
    vae: VAE = load(convert.read(made / "vae.ckpt"))
    crystals = Crystals.from_structures([Structure(Lattice.cubic(4), ["Fm"], [[0, 0, 0]])])
    with pytest.raises(UserError, match="beyond Z = 99"):
        vae.encoder(crystals)


# --- every command takes them -----------------------------------------------------------------------------------------


def call(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, result.output + str(result.exception)
    return result.output


@pytest.fixture(scope="module")
def imported(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a generator, a predictor and a few crystals."""
    work = tmp_path_factory.mktemp("work")
    vae, models = str(made / "vae.ckpt"), work / "models"
    call("import-checkpoint", str(made / "ldm.ckpt"), "--vae", vae, "--out", str(models / "ldm"))
    call("import-checkpoint", str(made / "gap.ckpt"), "--out", str(models / "gap"))
    crystals = known_structures() + random_structures(9, 0)
    write_dataset(work / "data", crystals, {"gap": [float(len(s)) for s in crystals]})
    return work


@pytest.fixture
def work(imported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to work in."""
    return working_copy(imported, tmp_path, monkeypatch)


REWARD = (
    "reward.components=[{type: predictor, predictor: models/gap, target_name: band_gap, target_value: 3}, "
    "{type: structure_diversity, reference_dataset: data}, {type: composition_diversity, reference_dataset: data}]"
)


def test_import_checkpoint(made: Path, work: Path):
    meta = json.loads((work / "models/ldm/meta.json").read_text())
    assert (meta["kind"], meta["config"]["layout"], meta["published"]["file"]) == ("ldm", "chemeleon2", "ldm.ckpt")
    assert sum(meta["config"]["sizes"].values()) == pytest.approx(1, abs=1e-4)
    vae, ldm = str(made / "vae.ckpt"), str(made / "ldm.ckpt")
    assert "--overwrite replaces it" in call("import-checkpoint", vae, "--out", "models/ldm", code=2)
    assert "is not a checkpoint" in call("import-checkpoint", vae, "--out", "data", "--overwrite", code=2)
    assert "autoencoder is in a file of its own" in call("import-checkpoint", ldm, "--out", "models/x", code=2)
    assert "no such file" in call("import-checkpoint", "models/x.ckpt", "--out", "models/x", code=2)
    assert "not a published autoencoder" in call(
        "import-checkpoint", ldm, "--vae", str(made / "gap.ckpt"), "--out", "x", code=2
    )
    assert sorted(p.name for p in (work / "models").iterdir()) == ["gap", "ldm"]
    call("import-checkpoint", ldm, "--vae", "models/ldm", "--out", "models/ldm", "--overwrite")
    again = load_file(work / "models/ldm/model.safetensors")
    model, _ = checkpoint.load(work / "models/ldm", "ldm")
    assert isinstance(model, LatentDiffusion) and isinstance(model.denoiser, Denoiser)
    assert all(torch.equal(v, again[k]) for k, v in model.state_dict().items())
    assert isinstance(checkpoint.load(work / "models/ldm", "vae")[0], VAE)
    assert isinstance(checkpoint.load(work / "models/gap", "predictor")[0], Predictor)


def test_sample_score_and_steer(work: Path):
    call("sample", "--model", "models/ldm", "-n", "12", "--set", "sampling_steps=5", "--out", "before.cif")
    short = ["training={max_steps: 2, val_every: 1, val_samples: 8}", "sampling.sampling_steps=5"]
    short += ["rl={num_group_samples: 6, groups_per_step: 2, trajectory_steps: 2}"]
    short += ["name=steered", "model=models/ldm", REWARD]
    call("train-rl", "bandgap", *(word for s in short for word in ("--set", s)))
    learned = ["sampling.sampler=ddpm", "name=other", "model=models/ldm", REWARD]
    said = call("train-rl", "bandgap", *(word for s in learned for word in ("--set", s)), code=2)
    assert "use sampler: ddim" in said and not (work / "runs/other").exists()
    with (work / "runs/steered/metrics.csv").open() as file:
        steps = [row for row in csv.DictReader(file) if row["log_ratio_first"]]
    assert len(steps) == 2
    assert all(float(row["log_ratio_first"]) < 1e-4 and float(row["gradient_norm"]) > 0 for row in steps)
    assert all(float(row["impossible"]) < 0.9 for row in steps), "too few possible crystals to say anything"
    before, _ = checkpoint.load(work / "models/ldm", "ldm")
    after, meta = checkpoint.load(work / "runs/steered/checkpoints/last", "ldm")
    assert isinstance(after, LatentDiffusion) and meta["config"] == before.config
    changed = {k.split(".")[0] for k, v in after.state_dict().items() if not torch.equal(v, before.state_dict()[k])}
    assert changed == {"denoiser"}
    call("sample", "--model", "runs/steered", "-n", "12", "--set", "sampling_steps=5", "--out", "after.cif")
    text = call("score", "after.cif", "--set", "model=runs/steered", "--set", REWARD)
    assert "reward structure_diversity" in text
    with (work / "after.scores.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["valid"] == "True"]
    assert rows and all(np.isfinite(float(row["predicted_band_gap"])) for row in rows)


def test_diversity_sees_mean_latents_and_mean_embeddings(work: Path):
    vae, _ = checkpoint.load(work / "models/ldm", "vae")
    assert isinstance(vae, VAE)
    crystals = Crystals.from_structures([canonical(s) for s in known_structures()])
    structure, composition = features(vae.encoder, crystals)  # type: ignore[arg-type]
    for b in range(len(crystals)):
        alone = crystals[[b]]
        assert torch.allclose(structure[b], vae.encoder(alone).mean[0].mean(0), atol=1e-5)
        assert torch.allclose(composition[b], vae.encoder.atom_embedding(alone.numbers)[0].mean(0), atol=1e-6)
    assert ScoringContext(encoder=vae.encoder).encoder is vae.encoder  # type: ignore[arg-type]


def test_a_prediction_is_the_mean_over_a_crystals_origins(work: Path):
    gap: Any = checkpoint.load(work / "models/gap", "predictor")[0]
    crystals = Crystals.from_structures([canonical(known_structures()[3])])  # rutile: two Ti
    by_origin = []
    for atom in (crystals.numbers[0] == 22).nonzero().flatten():
        moved = (crystals.frac_coords - crystals.frac_coords[:, atom : atom + 1]) % 1
        by_origin.append(gap(crystals.replace(frac_coords=moved)) * gap.std + gap.mean)
    assert len(by_origin) == 2
    assert torch.allclose(gap.predict(crystals), torch.stack(by_origin).mean(0), atol=1e-5)
    assert gap.std.item() == pytest.approx(1.5 + 1e-5)


def test_our_own_denoiser_and_predictor_train_on_its_autoencoder(work: Path):
    short = [
        "training.max_steps=2",
        "training.val_every=2",
        "training.batch_size=8",
        "vae=models/ldm",
        "data.path=data",
    ]
    common = [word for s in short for word in ("--set", s)]
    call("train-predictor", "predictor_bandgap", *common, "--set", "targets={gap: {}}", "--set", "name=p")
    _, meta = checkpoint.load(work / "runs/p/checkpoints/best", "predictor")
    assert meta["config"]["encoder"]["layout"] == "chemeleon2" and "layout" not in meta["config"]
    vae = checkpoint.load(work / "models/ldm", "vae")[0].config
    denoiser = {"latent_dim": 8, "hidden_dim": 32, "num_blocks": 1, "num_heads": 4}
    model = build("ldm", {"vae": vae, "denoiser": denoiser, "diffusion": diffusion(100), "sizes": {"2": 1}})
    generator = torch.Generator().manual_seed(0)
    drawn = next(sample_many(model, torch.tensor([2, 2]), Sampling("ddim", 3, 1.0), generator, 2, [{}, {}]))[1]
    assert isinstance(model.vae, VAE) and len(drawn) == 2
