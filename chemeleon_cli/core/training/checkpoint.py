"""Checkpoints: folders with `model.safetensors` and `meta.json`, without pickles.

A checkpoint is self-contained: that of an LDM includes its VAE, and that of a predictor its encoder.
Torch is imported only when weights are written or read.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chemeleon_cli.core.models.build import build
from chemeleon_cli.core.paths import META, file_sha256
from chemeleon_cli.core.training.meta import HINT, Record, check, read_object
from chemeleon_cli.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

VERSION = 1
KINDS = ("vae", "ldm", "predictor")
WEIGHTS = "model.safetensors"


def save(
    folder: Path,
    kind: str,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    meta: Mapping[str, Any],
    state: tuple[Mapping[str, Tensor], Mapping[str, Any]] | None = None,
) -> None:
    """Write a checkpoint atomically, replacing an existing one of that name.

    Args:
        folder: of the checkpoint.
        kind: one of KINDS.
        config: the arguments to build the model with.
        weights: its parameters and buffers by name.
        meta: further metadata (data, parents, metrics, recipe, ...) as JSON values.
        state: tensors and JSON values that a resumed run needs, written to `train_state.*`.
    """
    from safetensors.torch import save_file

    temporary, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file({k: v.detach().cpu().contiguous() for k, v in weights.items()}, temporary / WEIGHTS)
    record = {"kind": kind, "version": VERSION, "config": config, **meta}
    (temporary / META).write_text(json_text(record), encoding="utf-8")
    if state is not None:
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in state[0].items()}, temporary / "train_state.safetensors"
        )
        (temporary / "train_state.json").write_text(json.dumps(state[1]) + "\n", encoding="utf-8")
    readable = (temporary / META).stat().st_mode
    for path in temporary.iterdir():
        path.chmod(readable)  # safetensors creates files that only their owner can read
        with path.open("rb") as file:
            os.fsync(file.fileno())
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def json_text(record: Any) -> str:
    """JSON text, with null for numbers that are not finite, which JSON cannot represent."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [plain(v) for v in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(record), indent=1) + "\n"


def recover(folder: Path) -> None:
    """Restore the previous checkpoint if the process stopped between the two renames of `save`."""
    old = folder.with_name(f".{folder.name}.old")
    if old.exists() and not folder.exists():
        old.rename(folder)


def read_meta(folder: Path) -> Record:
    """Read the `meta.json` of a checkpoint.

    The path of its data is absolute in the result. A path that begins with `..` in the file is relative to the folder
    of the checkpoint, so that models and data can be moved together.

    Raises:
        UserError: the folder is not a checkpoint, is of another version, or its `meta.json` is malformed.
    """
    meta = read_object(folder / META)
    kind, version = meta["kind"], meta["version"]
    if (isinstance(version, int) and version != VERSION) or kind not in KINDS:
        raise UserError(
            f"{folder}: {kind} checkpoint, version {version}; expected version {VERSION} of {', '.join(KINDS)}",
            "train it again, or use the release of chemeleon that wrote it",
        )
    check(meta, folder / META)
    data = meta.setdefault("data", {})
    if (data.get("path") or "").startswith(".."):
        data["path"] = os.path.normpath(folder.resolve() / data["path"])
    return meta


def load(folder: Path, kind: str, device: Any = "cpu") -> tuple[nn.Module, Record]:
    """Load a model from its checkpoint, in evaluation mode; half-precision weights are converted to float32.

    Args:
        folder: the checkpoint.
        kind: the expected kind; "vae" also accepts an LDM and returns its VAE.
        device: of the model.

    Returns:
        The model and its metadata.

    Raises:
        UserError: the folder is not a checkpoint, is of another kind, or its weights do not fit its config.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    meta = read_meta(folder)
    if meta["kind"] == "ldm" and kind == "vae":
        ldm, meta = load(folder, "ldm", device)
        return ldm.get_submodule("vae"), meta
    if meta["kind"] != kind:
        raise UserError(f"{folder}: a {meta['kind']} checkpoint where a {kind} is needed", "name another checkpoint")
    try:
        model = build(kind, meta["config"])
    except Exception as error:  # any error is the user's: the config comes from a file that can be edited
        said = " ".join(str(error).split())
        text = f"{folder / META}: config describes no {kind}: {said or type(error).__name__}"
        raise UserError(text, HINT) from error
    try:
        weights = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder / WEIGHTS}: cannot be read: {error}", "is the file whole?") from error
    fill(model, weights, folder, "model.safetensors and meta.json are of different models")
    return model.to(device).eval(), meta


def fill(model: nn.Module, weights: Mapping[str, Tensor], source: Path, hint: str) -> None:
    """Set the weights of a model.

    Args:
        model: built from the config of the weights.
        weights: all its parameters and buffers, and no others.
        source: file or folder of the weights, for errors.
        hint: what to do if they do not fit.

    Raises:
        UserError: a name or a shape differs from that of the model, or a weight is not finite.
    """
    wanted = model.state_dict()
    wrong = sorted(k for k in wanted.keys() | weights.keys() if _shape(wanted, k) != _shape(weights, k))
    if wrong:
        key = wrong[0]
        raise UserError(
            f"{source}: {len(wrong)} tensors do not fit its config, the first {key}: "
            f"{_shape(weights, key)} in the file, {_shape(wanted, key)} by the config",
            hint,
        )
    broken = [k for k in sorted(weights) if not weights[k].isfinite().all()]
    if broken:
        text = f"{len(broken)} tensors hold numbers that are not finite, the first {broken[0]}"
        raise UserError(f"{source}: {text}", "its training went wrong; take another checkpoint")
    model.load_state_dict({k: v.to(wanted[k].dtype) for k, v in weights.items()})


def parent(folder: Path, meta: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a checkpoint in models trained from it: kind, path and the sha256 of its weights."""
    return {"kind": meta["kind"], "path": str(folder), "sha256": file_sha256(folder / WEIGHTS)}


def _shape(tensors: Mapping[str, Tensor], key: str) -> tuple[int, ...] | None:
    return tuple(tensors[key].shape) if key in tensors else None
