"""What candidates are judged with: models and reference sets, loaded once and frozen.

Legend: R reference crystals, D latent width, E width of the atom-type embedding.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from chemeleon_cli.core.data.batches import in_batches
from chemeleon_cli.core.data.crystals import Crystals
from chemeleon_cli.core.data.dataset import keeping, load_split
from chemeleon_cli.core.models.layers import set_precision
from chemeleon_cli.core.paths import cache_folder, file_sha256, replacing, split_path
from chemeleon_cli.core.potentials.energy import EnergyModel, load_energy_model
from chemeleon_cli.core.scoring.comparison import DEFAULT, MatchSettings
from chemeleon_cli.core.scoring.hull import Hull
from chemeleon_cli.core.scoring.hull_file import check_scales, find_hull
from chemeleon_cli.core.scoring.matching import Reference
from chemeleon_cli.core.scoring.novelty import Memory
from chemeleon_cli.core.training import checkpoint
from chemeleon_cli.errors import UserError

if TYPE_CHECKING:
    from chemeleon_cli.core.models.predictor import Predictor
    from chemeleon_cli.core.models.vae import VAE, Encoder
    from chemeleon_cli.core.rewards import EnergySettings, Needs, ReinforceReward, Relaxation

REFERENCE_LIMIT = 50_000
"""Crystals of a reference set that are kept, drawn with a fixed seed."""
REFERENCE_VERSION = "1"
BATCH = 256


@dataclass(frozen=True)
class References:
    """The features of a reference set, for rewards that compare distributions.

    Attributes:
        name: of the set.
        structure_features: (R, D) mean latent of each crystal.
        composition_features: (R, E) mean atom-type embedding of each crystal.
    """

    name: str
    structure_features: Tensor
    composition_features: Tensor


@dataclass(frozen=True)
class Tools:
    """What candidates need to be judged.

    Attributes:
        encoder: of the autoencoder whose features diversity is measured in.
        predictors: by the name that the recipe gives them.
        references: by the recipe's `reference_dataset`; None is the set the model was trained on.
        device: where the models are.
        known: crystals that novelty is against, named as the references are.
        memory: of what a run has generated; None outside of one.
        matching: tolerances by which two crystals are the same.
        energy_model: the potential.
        hull: of reference energies, on the potential's scale.
        relax: how crystals are relaxed; None: not.
        reward_relaxed: whether rewards judge the relaxed ones. A report may relax crystals that were rewarded as drawn.
    """

    encoder: Encoder | None = None
    predictors: dict[str, Predictor] = field(default_factory=dict)
    references: dict[str | None, References] = field(default_factory=dict)
    device: str = "cpu"
    known: dict[str | None, Reference] = field(default_factory=dict)
    memory: Memory | None = None
    matching: MatchSettings = DEFAULT
    energy_model: EnergyModel | None = None
    hull: Hull | None = None
    relax: Relaxation | None = None
    reward_relaxed: bool = True

    @property
    def energies(self) -> str | None:
        """By what and against what energies are, in words; None without a potential."""
        if self.energy_model is None:
            return None
        by, hull = f"energies by {self.energy_model.name} ({self.energy_model.energy_scale})", self.hull
        if hull is None:
            return by
        m = hull.manifest
        return f"{by}; hull {hull.name} ({m.energy_scale}): {m.source}, {m.count} energies, {m.sha256[:12]}"


def build_tools(
    reward: ReinforceReward | None,
    find_model: Callable[[str, str], Path],
    vae: VAE | None = None,
    training_data: str | Path | None = None,
    device: str = "cpu",
    energies: EnergySettings | None = None,
) -> Tools:
    """Load what a reward needs, and let its components prepare themselves with it.

    Args:
        reward: None needs nothing.
        find_model: (name, kind) -> checkpoint folder.
        vae: the generator's; what is kept is a frozen float32 copy of its encoder, so that a run that computes in
            bf16 rewards crystals as `score` does.
        training_data: folder of the set that the generator was trained on.
        device: for all models.
        energies: potential, hull and matcher; None takes those of the reward.

    Raises:
        UserError: a checkpoint, a reference set, a potential or a hull is missing or does not fit, or there is no
            autoencoder where one is needed.
    """
    encoder = None
    if vae is not None:
        encoder = copy.deepcopy(vae.encoder).requires_grad_(False).eval()
        set_precision(encoder, "float32")
    settings = energies or reward
    energy_model, hull = load_energies(settings, device) if settings else (None, None)
    shared = Tools(encoder, device=device, energy_model=energy_model, hull=hull)
    if settings:
        shared = replace(shared, relax=settings.relax)
    if settings and settings.matching:
        shared = replace(shared, matching=MatchSettings(**settings.matching.model_dump()))
    if reward is None:
        return shared
    needs = reward.needs()
    if needs.encoder and encoder is None:
        raise UserError(
            "diversity is measured in the features of a generator's autoencoder, and no generator is named",
            "name the one that made the crystals: --set model=NAME",
        )
    predictors = {}
    for name in sorted(needs.predictors):
        model, _ = checkpoint.load(find_model(name, "predictor"), "predictor", device)
        predictors[name] = cast("Predictor", model)
    folders = _folders(needs, training_data)
    tools = replace(
        shared,
        predictors=predictors,
        references={
            name: load_references(cast("Encoder", encoder), folders[name], device) for name in needs.references
        },
        known={name: load_known(folders[name]) for name in needs.known},
    )
    reward.prepare(tools)
    return tools


def load_energies(settings: EnergySettings, device: str = "cpu") -> tuple[EnergyModel | None, Hull | None]:
    """The potential and the hull that are named, whose energies are of one scale.

    Raises:
        UserError: one of them is missing or broken, or the scales differ.
    """
    hull = None if settings.hull is None else Hull.load(find_hull(settings.hull))
    if settings.energy_model is None:
        return None, hull
    model = load_energy_model(settings.energy_model, device, settings.energy_scale)
    if hull is not None:
        check_scales(model.energy_scale, hull.energy_scale)
    return model, hull


def load_known(folder: str | Path) -> Reference:
    """The crystals of a data folder's train split, to compare others with.

    Raises:
        UserError: the folder has no train split, or it cannot be read.
    """
    table = load_split(folder, "train")
    if table is None:
        raise _no_split(folder)
    return Reference(table.formulas, table.structures, Path(folder).name, table.sha256)


def _folders(needs: Needs, training_data: str | Path | None) -> dict[str | None, str | Path]:
    """The data folder of each reference set that is needed.

    Raises:
        UserError: one is the training set, and nobody knows which that is.
    """
    folders = {}
    for name in needs.references | needs.known:
        folder = training_data if name is None else name
        if folder is None:
            raise UserError(
                "the generator does not say which set it was trained on, and a reward that compares with a reference "
                "set names none",
                "name a data folder: --set reward.components.0.reference_dataset=DIR (0: the component's number)",
            )
        folders[name] = folder
    return folders


def _no_split(folder: str | Path) -> UserError:
    return UserError(
        f"{folder}: the reference set has no train.csv or train.csv.gz", "name another: reference_dataset: DIR"
    )


def load_references(
    encoder: Encoder, folder: str | Path, device: str = "cpu", limit: int = REFERENCE_LIMIT
) -> References:
    """Features of a data folder's train split, computed once per encoder and file content, then stored.

    Raises:
        UserError: the folder has no train split, or it cannot be read.
    """
    path = split_path(folder, "train")
    if path is None:
        raise _no_split(folder)
    key = hashlib.sha256("|".join((REFERENCE_VERSION, fingerprint(encoder), file_sha256(path), str(limit))).encode())
    stored = cache_folder() / "references" / f"{key.hexdigest()[:32]}.safetensors"
    try:
        tensors = load_file(stored) if stored.is_file() else None
    except (OSError, SafetensorError):  # broken, or not ours to read
        tensors = None
    if tensors is None:
        table = load_split(folder, "train")
        assert table is not None, "split_path found it"
        if len(table) > limit:
            table = table.select(torch.randperm(len(table), generator=torch.Generator().manual_seed(0))[:limit])
        made = reference_features(encoder, (batch for _, batch in in_batches(table, BATCH)), str(folder))
        tensors = {"structure": made.structure_features, "composition": made.composition_features}
        with keeping(stored), replacing(stored) as temporary:
            save_file(tensors, temporary)
    return References(str(folder), tensors["structure"].to(device), tensors["composition"].to(device))


def reference_features(encoder: Encoder, batches: Iterable[Crystals], name: str) -> References:
    """Features of canonical crystals; the rows of the result are in the order of the batches, on the CPU."""
    made = [features(encoder, batch) for batch in batches]
    return References(name, torch.cat([s.cpu() for s, _ in made]), torch.cat([c.cpu() for _, c in made]))


@torch.no_grad()
def features(encoder: Encoder, crystals: Crystals) -> tuple[Tensor, Tensor]:
    """(B, D) mean latent and (B, E) mean atom-type embedding of canonical crystals, float32."""
    crystals = crystals.to(encoder.atom_embedding.weight.device)
    mask = crystals.mask.unsqueeze(-1)
    latents, atoms = encoder(crystals).mean, encoder.atom_embedding(crystals.numbers)
    count = crystals.num_atoms.unsqueeze(-1)
    return (latents * mask).sum(1).float() / count, (atoms * mask).sum(1).float() / count


def fingerprint(model: torch.nn.Module) -> str:
    """Hex sha256 of a model's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
