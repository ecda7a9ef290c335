"""Autoencoder, denoiser, generator and predictor: what must hold whatever their weights."""

import json
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import pytest
import torch
from pymatgen.core import Lattice, Structure
from samples import diffusion, known_structures, make_predictor, random_structures, write_dataset
from test_crystals import shifted

from chemeleon_cli.core.data.batches import augment, deform
from chemeleon_cli.core.data.crystals import Crystals, canonical
from chemeleon_cli.core.data.dataset import load_split, parse_canonical
from chemeleon_cli.core.data.limits import MAX_Z
from chemeleon_cli.core.models.generator import Sampling, sample_many
from chemeleon_cli.core.models.latent_diffusion import LatentDiffusion
from chemeleon_cli.core.models.latents import encode
from chemeleon_cli.core.models.predictor import Predictor
from chemeleon_cli.core.models.vae import VAE, Decoded, cell_features, cell_from_features
from chemeleon_cli.core.paths import STARTER
from chemeleon_cli.core.training import checkpoint
from chemeleon_cli.sources.checkpoints import find_model

SMALL = {"hidden_dim": 32, "num_heads": 4, "encoder_layers": 2, "decoder_layers": 2, "latent_dim": 4, "dropout": 0.0}
SIZES = {"2": 3, "5": 1, "8": 2}


@pytest.fixture
def vae() -> VAE:
    torch.manual_seed(0)
    return VAE(**SMALL).eval()


@pytest.fixture
def ldm() -> LatentDiffusion:
    torch.manual_seed(1)
    denoiser = {"latent_dim": 4, "hidden_dim": 32, "num_blocks": 2, "num_heads": 4}
    model = LatentDiffusion(SMALL, denoiser, diffusion(100), SIZES).eval()
    for parameter in model.denoiser.parameters():  # adaLN-Zero starts as the identity, which would test nothing
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.fixture
def predictor() -> Predictor:
    torch.manual_seed(2)
    encoder = {"hidden_dim": 32, "num_heads": 4, "num_layers": 2, "latent_dim": 4, "dropout": 0.0}
    return make_predictor(encoder, ["gap", "energy"]).eval()


def batch(seed: int = 0) -> Crystals:
    return Crystals.from_structures([canonical(s) for s in known_structures() + random_structures(6, seed)])


def test_padding_never_changes_the_encoder_or_decoder(vae: VAE):
    crystals = batch()
    together = vae.encoder(crystals)
    decoded = vae.decoder(together.mean, crystals.num_atoms)
    for b in range(len(crystals)):
        alone, n = vae.encoder(crystals[[b]]), int(crystals.num_atoms[b])
        assert torch.allclose(alone.mean[0], together.mean[b, :n], atol=1e-5)
        assert torch.allclose(alone.hidden[0], together.hidden[b, :n], atol=1e-5)
        one = vae.decoder(alone.mean, crystals.num_atoms[[b]])
        assert torch.allclose(one.element_logits[0], decoded.element_logits[b, :n], atol=1e-5)
        assert torch.allclose(one.coord_waves[0], decoded.coord_waves[b, :n], atol=1e-5)
        assert torch.allclose(one.lengths[0], decoded.lengths[b], atol=1e-5)
        assert torch.allclose(one.angles[0], decoded.angles[b], atol=1e-3)


def test_padding_never_changes_the_denoiser(ldm: LatentDiffusion):
    num_atoms = torch.tensor([2, 5, 8])
    x = torch.randn(3, 8, 4)
    t = torch.tensor([3, 50, 99])
    together = ldm.denoiser(x, t, num_atoms)
    for b, n in enumerate(num_atoms.tolist()):
        alone = ldm.denoiser(x[[b], :n], t[[b]], num_atoms[[b]])
        assert torch.allclose(alone[0], together[b, :n], atol=1e-5)
        assert (together[b, n:] == 0).all()


def test_padding_never_changes_a_prediction(predictor: Predictor):
    crystals = batch()
    together = predictor.predict(crystals)
    alone = torch.cat([predictor.predict(crystals[[b]]) for b in range(len(crystals))])
    assert torch.allclose(alone, together, atol=1e-5)


def test_orientation_and_order_cannot_matter(vae: VAE):
    structure = random_structures(1, seed=4)[0]
    order = np.random.default_rng(0).permutation(len(structure))
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    rotated = Structure(
        Lattice(structure.lattice.matrix @ rotation),
        [structure[int(i)].specie for i in order],
        structure.frac_coords[order],
    )
    a, b = (vae.encoder(Crystals.from_structures([s])).mean[0] for s in (structure, rotated))
    assert torch.allclose(a[torch.as_tensor(order)], b, atol=1e-4)


def test_coordinates_are_periodic_for_the_encoder_and_the_loss(vae: VAE):
    crystals = Crystals.from_structures([known_structures()[2]])
    near = crystals.replace(frac_coords=(crystals.frac_coords + 1e-6) % 1)
    far = crystals.replace(frac_coords=(crystals.frac_coords - 1e-6) % 1)  # across the cell's edge
    assert torch.allclose(vae.encoder(near).mean, vae.encoder(far).mean, atol=1e-4)
    terms = [vae.loss(c, torch.Generator().manual_seed(0), 0.0)["coords"].item() for c in (near, far)]
    assert terms[0] == pytest.approx(terms[1], abs=1e-4)


def test_loss_terms_equal_torch_distributions(vae: VAE):
    crystals = batch()
    terms = vae.loss(crystals, torch.Generator().manual_seed(3), 0.0)
    posterior, mask = vae.encoder(crystals), crystals.mask
    normal = torch.distributions.Normal(posterior.mean, posterior.std)
    kl = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(-1)
    assert terms["kl"].item() == pytest.approx(kl[mask].mean().item(), rel=1e-4)
    noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(3))
    out = vae.decoder(posterior.mean + posterior.std * noise * mask.unsqueeze(-1), crystals.num_atoms)
    chosen = out.element_logits.log_softmax(-1).gather(-1, (crystals.numbers - 1).clamp(min=0).unsqueeze(-1))
    assert terms["types"].item() == pytest.approx(-chosen.squeeze(-1)[mask].mean().item(), rel=1e-4)


def test_latent_noise_is_a_share_of_the_spread_whatever_its_scale(vae: VAE):
    crystals = batch()
    terms = vae.loss(crystals, torch.Generator().manual_seed(3), latent_noise=0.5)
    posterior, mask = vae.encoder(crystals), crystals.mask
    std = torch.hypot(posterior.std, 0.5 * posterior.mean[mask].std(0, correction=0))
    noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(3)) * mask.unsqueeze(-1)
    out = vae.decoder(posterior.mean + std * noise, crystals.num_atoms)
    expected = torch.nn.functional.cross_entropy(out.element_logits[mask], crystals.numbers[mask] - 1)
    assert terms["types"].item() == pytest.approx(expected.item(), rel=1e-5)
    quiet = vae.loss(crystals, torch.Generator().manual_seed(3), 0.0)
    assert terms["kl"] == quiet["kl"] and terms["types"] != quiet["types"]


def test_cell_features_are_invertible():
    crystals = batch()
    lengths, angles = cell_from_features(cell_features(crystals))
    assert torch.allclose(lengths * crystals.num_atoms.unsqueeze(-1) ** (1 / 3), crystals.lengths, atol=1e-4)
    assert torch.allclose(angles, crystals.angles, atol=1e-3)


def test_perfect_decoder_output_gives_the_crystal_back_and_never_no_atom():
    crystals = batch()
    phase = 2 * torch.pi * crystals.frac_coords
    logits = torch.nn.functional.one_hot((crystals.numbers - 1).clamp(min=0), MAX_Z).float()
    waves = torch.cat([phase.sin(), phase.cos()], -1)
    back = Decoded(logits, waves, crystals.lengths, crystals.angles, crystals.num_atoms).to_crystals()
    assert (back.numbers == crystals.numbers).all()
    difference = back.frac_coords - crystals.frac_coords
    assert (difference - difference.round()).abs().max() < 1e-5
    assert torch.allclose(back.lattice, crystals.lattice, atol=1e-3)
    flat = Decoded(torch.zeros_like(logits), waves, crystals.lengths, crystals.angles, crystals.num_atoms).to_crystals()
    assert (flat.numbers[flat.mask] >= 1).all()


def test_augmentation_is_per_crystal_and_moves_origins_among_the_rarest_atoms():
    structure = canonical(known_structures()[3])  # rutile: two Ti
    crystals = Crystals.from_structures([structure] * 64)
    moved = augment(crystals, torch.Generator().manual_seed(0))
    zero = moved.frac_coords.norm(dim=-1) < 1e-6
    assert zero.any(1).all()
    chosen = {int(row.nonzero()[0, 0]) for row in zero}
    assert len(chosen) == 2
    assert {int(crystals.numbers[0, i]) for i in chosen} == {22}


def test_deforming_strains_cells_and_moves_atoms_by_what_is_said():
    crystals = Crystals.from_structures([canonical(known_structures()[2])] * 2000)
    same = deform(crystals, 0.0, 0.0, torch.Generator().manual_seed(0))
    assert torch.allclose(same.cart_coords, crystals.cart_coords, atol=1e-5)
    strained = deform(crystals, 0.06, 0.0, torch.Generator().manual_seed(0))
    stretch = strained.lattice[:, 0, 0] / crystals.lattice[:, 0, 0] - 1
    # a normal number times a uniform one: std sqrt(1/3)
    assert stretch.std().item() == pytest.approx(0.06 / 3**0.5, rel=0.1)
    assert torch.allclose(strained.frac_coords, crystals.frac_coords, atol=1e-6)
    moved = deform(crystals, 0.0, 0.1, torch.Generator().manual_seed(0))
    difference = moved.frac_coords - crystals.frac_coords
    steps = (difference - difference.round()) @ crystals.lattice
    assert steps.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.1)
    assert (steps.std((1, 2)).sort().values[[100, 1900]] > torch.tensor([0.0, 0.08])).all(), (
        "each crystal by its own amount"
    )


def test_moved_copies_are_predicted_alike(predictor: Predictor):
    """Canonical form and averaged origins leave little: bounded here by a fifth of the predictions' spread.

    This holds for any weights.
    """
    originals = random_structures(16, seed=7, max_atoms=12)
    copies = [shifted(s, seed) for seed, s in enumerate(originals)]
    for copy in copies[::4]:
        copy.make_supercell([2, 1, 1])
    a, b = (predictor.predict(Crystals.from_structures([canonical(s) for s in group])) for group in (originals, copies))
    assert ((a - b).abs().mean(0) < a.std(0) / 5).all()


def test_moved_copies_are_predicted_alike_by_a_trained_model():
    """By a fifth of its error on test, as its card has it."""
    folder = find_model("starter", "predictor")
    predictor = cast("Predictor", checkpoint.load(folder, "predictor")[0])
    frame = pd.read_csv(STARTER / "crystals.csv.gz")
    cifs = frame[frame["split"] == "test"]["cif"].iloc[::12]
    originals = [s for cif in cifs if isinstance(s := parse_canonical(cif), Structure)]
    assert len(originals) == len(cifs) > 20
    copies = [shifted(s, seed) for seed, s in enumerate(originals)]
    for copy in copies[::4]:
        copy.make_supercell([2, 1, 1])
    moved = [canonical(s) for s in copies]
    a, b = (predictor.predict(Crystals.from_structures(group)) for group in (originals, moved))
    measured = json.loads((folder / "card.json").read_text())["measured"]["predictor"]
    error = torch.tensor([measured[target]["mae"] for target in predictor.targets])
    assert ((a - b).abs().mean(0) < error / 5).all(), (a - b).abs().mean(0) / error


def test_prediction_is_the_mean_over_the_origins(predictor: Predictor):
    crystals = Crystals.from_structures([canonical(known_structures()[3])])  # rutile: Ti are atoms 4 and 5 of 6
    from chemeleon_cli.core.data.crystals import origin_atoms, shift_to_atom

    atoms = origin_atoms(crystals)[0].nonzero().flatten()
    with torch.no_grad():
        values = [predictor(shift_to_atom(crystals, torch.tensor([[int(a)]]))) for a in atoms]
    assert len(values) == 2
    assert torch.allclose(predictor.predict(crystals), torch.stack(values).mean(0), atol=1e-6)


def test_predictor_masks_missing_labels(predictor: Predictor):
    crystals = batch().replace(properties={})
    n = len(crystals)
    gap = torch.full((n,), torch.nan)
    gap[:2] = torch.tensor([1.0, 2.0])
    energy = torch.arange(n).float()
    weights = torch.tensor([1.0, 0.5])
    terms = predictor.loss(crystals.replace(properties={"gap": gap, "energy": energy}), weights)
    with torch.no_grad():
        out = predictor(crystals)
    assert terms["gap"].item() == pytest.approx((out[:2, 0] - gap[:2]).abs().mean().item(), rel=1e-5)
    assert terms["loss"].item() == pytest.approx(terms["gap"].item() + 0.5 * terms["energy"].item(), rel=1e-5)
    nothing = predictor.loss(crystals.replace(properties={"gap": gap * torch.nan, "energy": energy}), weights)
    assert nothing["gap"].item() == 0
    nothing["loss"].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in predictor.parameters())


def test_sampling_is_seeded_and_eta_zero_is_deterministic(ldm: LatentDiffusion):
    sizes = torch.tensor([2, 5, 8])

    def draw(eta: float, seed: int) -> torch.Tensor:
        last = torch.zeros(0)
        for step in ldm.transitions(sizes, Sampling("ddim", 10, eta), torch.Generator().manual_seed(seed)):
            last = step.x_next
        return last

    assert torch.equal(draw(1.0, 0), draw(1.0, 0))
    assert not torch.equal(draw(1.0, 0), draw(1.0, 1))
    assert torch.equal(draw(0.0, 0), draw(0.0, 0))
    steps = list(ldm.transitions(sizes, Sampling("ddim", 10, 0.0), torch.Generator().manual_seed(0)))
    assert all(torch.equal(s.x_next, s.mean) for s in steps)
    assert [s.index for s in steps] == list(range(9, -1, -1))


def test_transitions_are_samples_of_the_stated_gaussian(ldm: LatentDiffusion):
    sizes = torch.full((256,), 8)
    for step in ldm.transitions(sizes, Sampling("ddpm", 5, 1.0), torch.Generator().manual_seed(0)):
        if step.index:
            z = (step.x_next - step.mean) / step.std
            assert z.mean().abs() < 0.05
            assert z.std() == pytest.approx(1, abs=0.05)


def test_sizes_are_drawn_with_the_frequencies_of_the_training_set(ldm: LatentDiffusion):
    drawn = ldm.prior.propose_sizes(6000, torch.Generator().manual_seed(0))
    for size, weight in SIZES.items():
        assert (drawn == int(size)).float().mean().item() == pytest.approx(weight / 6, abs=0.03)


def test_samples_have_the_sizes_asked_for(ldm: LatentDiffusion):
    sizes = torch.tensor([8, 2, 5, 2, 8])
    generator = torch.Generator().manual_seed(0)
    got = {
        int(r): int(n)
        for rows, c in sample_many(ldm, sizes, Sampling("ddim", 4, 1.0), generator, 2, [{}] * len(sizes))
        for r, n in zip(rows, c.num_atoms, strict=True)
    }
    assert [got[i] for i in range(5)] == sizes.tolist()


def test_the_loss_is_that_of_the_noise_of_real_atoms(ldm: LatentDiffusion):
    ldm.set_latent_statistics(torch.randn(50, 4) * 3 + 1)
    latents, num_atoms = torch.randn(3, 8, 4), torch.tensor([2, 5, 8])
    got = ldm.loss(latents, num_atoms, torch.Generator().manual_seed(4)).item()
    generator = torch.Generator().manual_seed(4)
    t = ldm.schedule.random_rows(3, generator)
    noise = torch.randn(3, 8, 4, generator=generator)
    errors = []
    for b, n in enumerate(num_atoms.tolist()):
        x0 = (latents[b, :n] - ldm.latent_mean) / ldm.latent_std
        ab = ldm.schedule.alphas_cumprod[t[b]].float()
        x_t = ab.sqrt() * x0 + (1 - ab).sqrt() * noise[b, :n]
        errors.append((ldm.denoiser(x_t[None], t[[b]], num_atoms[[b]])[0] - noise[b, :n]).square().flatten())
    assert got == pytest.approx(torch.cat(errors).mean().item(), rel=1e-4)


def test_latents_of_a_table_are_those_of_its_crystals(vae: VAE, tmp_path: Path):
    crystals = known_structures() + random_structures(6, seed=2)
    table = load_split(write_dataset(tmp_path, crystals, {}, shares=(1.0, 0.0)), "train")
    assert table is not None
    rows = torch.tensor([3, 0, 7])
    x, num_atoms = encode(vae, table, 4).batch(rows)
    assert torch.allclose(x, vae.encoder(table.crystals(rows)).mean, atol=1e-5)
    assert num_atoms.tolist() == table.num_atoms[rows].tolist()


def test_a_frozen_autoencoder_gets_no_gradient(ldm: LatentDiffusion):
    ldm.train()
    ldm.loss(torch.randn(3, 8, 4), torch.tensor([2, 5, 8]), torch.Generator().manual_seed(0)).backward()
    assert all(p.grad is None for p in ldm.vae.parameters())
    assert all(p.grad is not None for p in ldm.denoiser.parameters())
    assert not ldm.vae.training
