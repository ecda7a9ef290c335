"""Finds the checkpoint of a model by its name: a checkpoint or run folder, a starter model or a published model."""

from __future__ import annotations

import difflib
import json
from pathlib import Path

from chemeleon_cli.core.paths import META, STARTER
from chemeleon_cli.errors import UserError
from chemeleon_cli.sources.hub import PREFIX, PUBLISHED, hub_model, kind_by_name

STARTER_FOLDERS = {"vae": "ldm", "ldm": "ldm", "predictor": "predictor"}
"""The starter's folder for each kind; an LDM contains its VAE."""
HOLDS = {"vae": ("vae", "ldm"), "ldm": ("ldm",), "predictor": ("predictor",)}
"""The kinds of checkpoint that can be used for each kind."""
MAKERS = {"vae": "train-vae", "ldm": "train-ldm", "predictor": "train-predictor"}


def find_model(name: str, kind: str) -> Path:
    """The folder of a checkpoint; a published model is downloaded and converted where that has not been done yet.

    Args:
        name: as of `check_model`.
        kind: "vae", "ldm" or "predictor".

    Raises:
        UserError: there is no such checkpoint, it is broken, of another kind, or cannot be downloaded.
    """
    folder = check_model(name, kind)
    if folder is None:
        folder = hub_model(name)
        _check_kind(name, _kind_of(folder), kind)
    return folder


def check_model(name: str, kind: str) -> Path | None:
    """The folder of a checkpoint on this machine; None for a published model, which is judged by its name alone.

    Nothing is downloaded, so that a recipe is checked without a connection.

    Args:
        name: a checkpoint's folder (one with meta.json); a run's folder, which stands for its best
            checkpoint, or its last where there is no best; "starter" for the model of that kind that comes
            with the program, or "starter/judge" and the like for a certain one; or a published model, see `hub`.
        kind: "vae", "ldm" or "predictor".

    Raises:
        UserError: there is no such checkpoint, it is broken, or of another kind.
    """
    if name == "starter" or name.startswith("starter/"):
        folder = STARTER / (name.removeprefix("starter").strip("/") or STARTER_FOLDERS[kind])
        if not (folder / META).is_file():
            have = sorted(f"starter/{p.parent.name}" for p in STARTER.glob(f"*/{META}"))
            raise UserError(
                f"there is no '{name}' model of kind {kind} in this installation; there is {_either(have)}",
                f"train one (chemeleon {MAKERS[kind]}) and name its run folder",
            )
    elif name.startswith(PREFIX):
        _check_kind(name, kind_by_name(name), kind)
        return None
    else:
        folder = _on_disk(name, kind)
    _check_kind(str(folder), _kind_of(folder), kind)
    return folder


def _check_kind(name: str, found: str | None, kind: str) -> None:
    """Refuse a checkpoint whose kind is known and does not serve where `kind` is needed."""
    if found is not None and found not in HOLDS[kind]:
        raise UserError(
            f"{name} is a checkpoint of kind {found}; expected kind {kind}",
            _others(Path(name), kind) or f"make one with chemeleon {MAKERS[kind]}",
        )


def _on_disk(name: str, kind: str) -> Path:
    path = Path(name).expanduser()
    for folder in (path, path / "checkpoints" / "best", path / "checkpoints" / "last"):
        if (folder / META).is_file():
            return folder
    if path.is_file():
        raise UserError(f"{path} is a file; expected the folder that contains it", f"use {path.parent}")
    if path.is_dir():
        inside = ", ".join(sorted(p.name for p in path.iterdir())[:6]) or "nothing"
        what = f"{path} is neither a checkpoint (no {META}) nor a run with one; it contains {inside}"
    else:
        what = f"no model '{name}': no such folder"
    if name in PUBLISHED:
        raise UserError(what, f"did you mean '{PREFIX}{name}'?")
    raise UserError(what, _others(path, kind) or f"make one with chemeleon {MAKERS[kind]}, or name 'starter'")


def _kind_of(folder: Path) -> str:
    hint = "is the checkpoint complete? copy it again"
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{folder / META} cannot be read: {error}", hint) from error
    if not isinstance(meta, dict) or "kind" not in meta:
        raise UserError(f"{folder / META} cannot be read: expected a JSON object with a kind", hint)
    return str(meta["kind"])


def _others(path: Path, kind: str) -> str:
    """A hint with checkpoints of the right kind next to `path` and in ./runs, the most similar names first."""
    places = {p: None for parent in (path.parent, Path("runs")) for p in _models_in(parent, kind)}
    if not places:
        return ""
    names = [str(p) for p in places]
    by_base = {p.name: str(p) for p in places}
    close = difflib.get_close_matches(str(path), names, n=3) or [
        by_base[base] for base in difflib.get_close_matches(path.name, list(by_base), n=3)
    ]
    return f"did you mean {_either(close)}?" if close else f"of this kind there is {_either(names[:4])}"


def _models_in(parent: Path, kind: str) -> list[Path]:
    if not parent.is_dir():
        return []
    found = []
    for path in sorted(p for p in parent.iterdir() if p.is_dir()):
        metas = [m for m in (path / META, *path.glob(f"checkpoints/*/{META}")) if m.is_file()]
        try:
            if metas and _kind_of(metas[0].parent) in HOLDS[kind]:
                found.append(path)
        except UserError:  # a broken checkpoint must not hide the others
            continue
    return found


def _either(names: list[str]) -> str:
    return " or ".join(names) or "none"
