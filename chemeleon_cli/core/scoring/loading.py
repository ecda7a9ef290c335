"""Loads a `ScoringContext`: the models, the hull and the reference sets that a recipe names.

It is given the needs of a reward (`Needs`) and does not know the rewards, so this room stays below theirs. A command
asks its reward for its needs, loads them here, and hands the context over (`reward.prepare`).
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from chemeleon_cli.core.data.batches import in_batches
from chemeleon_cli.core.data.dataset import keeping, load_split
from chemeleon_cli.core.models.layers import set_precision
from chemeleon_cli.core.paths import SPLITS, cache_folder, file_sha256, replacing, split_path
from chemeleon_cli.core.potentials.base import Potential
from chemeleon_cli.core.potentials.loading import load_potential
from chemeleon_cli.core.scoring.context import References, ScoringContext
from chemeleon_cli.core.scoring.features import BATCH, features
from chemeleon_cli.core.scoring.hull import Hull
from chemeleon_cli.core.scoring.hull_file import check_scales, find_hull
from chemeleon_cli.core.scoring.matching import Reference
from chemeleon_cli.core.scoring.needs import Needs
from chemeleon_cli.core.scoring.settings import DEFAULT_MATCHING, EnergySettings
from chemeleon_cli.core.training import checkpoint
from chemeleon_cli.errors import UserError

if TYPE_CHECKING:
    from chemeleon_cli.core.data.crystals import Crystals
    from chemeleon_cli.core.models.predictor import Predictor
    from chemeleon_cli.core.models.vae import VAE, Encoder

REFERENCE_LIMIT = 50_000
"""Largest number of crystals of a reference set whose features are kept; chosen at random with a fixed seed."""
REFERENCE_VERSION = "1"


def load_context(
    settings: EnergySettings,
    needs: Needs,
    find_model: Callable[[str, str], Path],
    vae: VAE | None = None,
    training_data: str | Path | None = None,
    device: str = "cpu",
) -> ScoringContext:
    """Load what candidates are scored with.

    Args:
        settings: potential, hull, relaxation and matcher.
        needs: what else the reward needs.
        find_model: (name, kind) -> checkpoint folder, downloaded if necessary.
        vae: the autoencoder of the generator. A frozen float32 copy of its encoder is kept, so that a run in bf16
            rewards crystals exactly as `score` does.
        training_data: folder of the set that the generator was trained on.
        device: for all models.

    Raises:
        UserError: a checkpoint, a reference set, a potential or a hull is missing or does not fit, or an autoencoder is
            needed and none is given.
    """
    encoder = None
    if vae is not None:
        encoder = copy.deepcopy(vae.encoder).requires_grad_(False).eval()
        set_precision(encoder, "float32")
    if needs.encoder and encoder is None:
        raise UserError(
            "diversity is measured in the features of a generator's autoencoder, but no generator is named",
            "name the generator of the crystals: --set model=NAME",
        )
    energy_model, hull = load_energies(settings, device)
    predictors = {}
    for name in sorted(needs.predictors):
        model, _ = checkpoint.load(find_model(name, "predictor"), "predictor", device)
        predictors[name] = cast("Predictor", model)
    folders = _folders(needs, training_data)
    return ScoringContext(
        encoder,
        predictors,
        {name: load_references(cast("Encoder", encoder), folders[name], device) for name in needs.references},
        device,
        {name: load_training_set(folders[name]) if name is None else load_known(folders[name]) for name in needs.known},
        matching=settings.matching or DEFAULT_MATCHING,
        energy_model=energy_model,
        hull=hull,
        relax=settings.relax,
    )


def load_energies(settings: EnergySettings, device: str = "cpu") -> tuple[Potential | None, Hull | None]:
    """Load the potential and the hull that the settings name.

    Raises:
        UserError: one of them is missing or broken, or their energy scales differ.
    """
    hull = None if settings.hull is None else Hull.load(find_hull(settings.hull))
    if settings.energy_model is None:
        return None, hull
    model = load_potential(settings.energy_model, device, settings.energy_scale)
    if hull is not None:
        check_scales(model.energy_scale, hull.energy_scale)
    return model, hull


def load_known(folder: str | Path, splits: Sequence[str] = SPLITS) -> Reference:
    """Load the crystals of a data folder to measure novelty against.

    Args:
        folder: a data folder.
        splits: the splits to load; missing ones are skipped, but train must exist.

    Raises:
        UserError: the folder has no train split, or a split cannot be read.
    """
    if split_path(folder, "train") is None:
        raise _no_split(folder)
    tables = {split: load_split(folder, split) for split in splits}
    return Reference.of_tables({split: t for split, t in tables.items() if t is not None}, Path(folder).name)


def load_training_set(folder: str | Path) -> Reference:
    """Load the crystals that a generator was trained on: the train split of its data folder."""
    return load_known(folder, ("train",))


def load_references(
    encoder: Encoder, folder: str | Path, device: str = "cpu", limit: int = REFERENCE_LIMIT
) -> References:
    """Features of the train split of a data folder, cached by encoder and file content.

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
    except (OSError, SafetensorError):  # broken or unreadable; it is computed again
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
    """Features of canonical crystals, on the CPU, with rows in the order of the batches."""
    made = [features(encoder, batch) for batch in batches]
    return References(name, torch.cat([s.cpu() for s, _ in made]), torch.cat([c.cpu() for _, c in made]))


def fingerprint(model: torch.nn.Module) -> str:
    """Hexadecimal sha256 of the weights of a model."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _folders(needs: Needs, training_data: str | Path | None) -> dict[str | None, str | Path]:
    """The data folder of each reference set that is needed.

    Raises:
        UserError: the training set is needed, but the generator does not record it.
    """
    folders = {}
    for name in needs.references | needs.known:
        folder = training_data if name is None else name
        if folder is None:
            raise UserError(
                "the generator's checkpoint does not record its training set, and a reward that needs a reference "
                "set names none",
                "name a data folder as `reference_dataset` of creativity or of a diversity, or another generator",
            )
        folders[name] = folder
    return folders


def _no_split(folder: str | Path) -> UserError:
    return UserError(
        f"{folder}: the reference set has no train.csv or train.csv.gz", "name another: reference_dataset: DIR"
    )
