"""Published models: `hub:NAME`, or `hub:owner/repository/path` for any file of the Hugging Face Hub.

A file is downloaded once, by `huggingface_hub` into its own cache (HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE
have their usual meaning), and converted once into a checkpoint of this program, which is cached by the file's sha256.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from chemeleon_cli.core.paths import cache_folder, file_sha256
from chemeleon_cli.errors import UserError, did_you_mean

PREFIX = "hub:"
REPOSITORY = "hspark1212/chemeleon2-checkpoints"
CONVERSION = "1"
"""To be increased when the same file would be converted into a different checkpoint."""


@dataclass(frozen=True)
class Published:
    """A published file.

    Attributes:
        path: its path in the repository.
        vae: the name of the autoencoder that a generator was trained with; None for other models.
    """

    path: str
    vae: str | None = None

    @property
    def kind(self) -> str:
        """Of checkpoint: "vae" or "ldm"."""
        return "vae" if self.vae is None else "ldm"


PUBLISHED = {
    "mp_20_vae": Published("v0.0.1/mp_20/vae/dng_m4owq4i5_v0.ckpt"),
    "alex_mp_20_vae": Published("v0.0.1/alex_mp_20/vae/dng_j1jgz9t0_v1.ckpt"),
    "mp_20_ldm_base": Published("v0.0.1/mp_20/ldm/ldm_null_4tfw67aq.ckpt", "mp_20_vae"),
    "alex_mp_20_ldm_base": Published("v0.0.1/alex_mp_20/ldm/ldm_null_k744ob4i.ckpt", "alex_mp_20_vae"),
    "mp_20_ldm_rl": Published("v0.0.1/mp_20/ldm/ldm_rl_dng_xxq3a0mn.ckpt", "mp_20_vae"),
    "alex_mp_20_ldm_rl": Published("v0.0.1/alex_mp_20/ldm/ldm_rl_dng_tuor5vgd.ckpt", "alex_mp_20_vae"),
}


def hub_model(name: str) -> Path:
    """The checkpoint of a published model, downloaded and converted if that has not been done yet.

    Args:
        name: `hub:` and one of PUBLISHED, or `hub:owner/repository/path`.

    Raises:
        UserError: there is no such model, it cannot be downloaded, or it is refused.
    """
    repository, path = _address(name)
    published = _published(repository, path)
    vae = hub_model(PREFIX + published.vae) if published and published.vae else None
    return _converted(download(repository, path), vae)


def kind_by_name(name: str) -> str | None:
    """The kind of a published model, without a connection; None for another file of the Hub, until it is downloaded.

    Args:
        name: as of `hub_model`.

    Raises:
        UserError: there is no such published model.
    """
    published = _published(*_address(name))
    return published and published.kind


def published_pair(file: Path) -> str | None:
    """Name of the autoencoder of a published generator, by the name of the generator's file."""
    return next((PREFIX + p.vae for p in PUBLISHED.values() if p.vae and PurePosixPath(p.path).name == file.name), None)


def download(repository: str, path: str) -> Path:
    """A file of the Hub, from the cache if it is there.

    Args:
        repository: `owner/name`.
        path: in the repository.

    Raises:
        UserError: there is no such file, it cannot be reached, or the download is not what the Hub announced.
    """
    import httpx2
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import (
        HFValidationError,
        LocalEntryNotFoundError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
    )

    where = f"{PREFIX}{repository}/{path}"
    try:
        cached = try_to_load_from_cache(repository, path)
        file = Path(cached if isinstance(cached, str) else hf_hub_download(repository, path))
    except LocalEntryNotFoundError as error:
        what = f"{where} is not in the cache, and the Hub cannot be reached: {_line(error.__cause__ or error)}"
        raise UserError(what, _by_hand(repository, path)) from error
    except RemoteEntryNotFoundError as error:
        raise UserError(f"{where}: the repository has no such file", "copy its path from the Hub's page") from error
    except RepositoryNotFoundError as error:
        raise UserError(f"{where}: there is no such repository, or it is private", "set HF_TOKEN for yours") from error
    except HFValidationError as error:
        raise UserError(f"{where}: {_line(error)}", "expected hub:owner/repository/path") from error
    except (OSError, httpx2.HTTPError) as error:
        raise UserError(f"{where}: cannot be downloaded: {_line(error)}", _by_hand(repository, path)) from error
    blob = file.resolve()
    if re.fullmatch("[0-9a-f]{64}", blob.name) and _sha256(blob) != blob.name:
        blob.unlink()
        file.unlink(missing_ok=True)
        raise UserError(f"{where}: the sha256 of the download is not what the Hub announced", "try again")
    return file


def _address(name: str) -> tuple[str, str]:
    rest = name.removeprefix(PREFIX)
    if rest in PUBLISHED:
        return REPOSITORY, PUBLISHED[rest].path
    owner, _, inside = rest.partition("/")
    repository, _, path = inside.partition("/")
    if not (owner and repository and path):
        known = [PREFIX + each for each in PUBLISHED]
        hint = did_you_mean(name, known, before="") or f"there is {', '.join(known)}; or hub:owner/repository/path"
        raise UserError(f"no published model '{name}'", hint)
    return f"{owner}/{repository}", path


def _published(repository: str, path: str) -> Published | None:
    return next((p for p in PUBLISHED.values() if (repository, p.path) == (REPOSITORY, path)), None)


def _by_hand(repository: str, path: str) -> str:
    """A hint how to use a model without the Hub: which files to download elsewhere, and how to import them."""
    from huggingface_hub import hf_hub_url

    name, pair = next(
        ((name, p.vae) for name, p in PUBLISHED.items() if (repository, p.path) == (REPOSITORY, path)),
        (PurePosixPath(path).stem, None),
    )
    needed = [path] if pair is None else [path, PUBLISHED[pair].path]
    addresses = " and ".join(hf_hub_url(repository, each) for each in needed)
    files = " --vae ".join(PurePosixPath(each).name for each in needed)
    return f"download {addresses} elsewhere; then chemeleon import-checkpoint {files} --out {name}, and use {name}"


def _converted(file: Path, vae: Path | None) -> Path:
    """The checkpoint converted from a file; `vae` is the folder of an already converted autoencoder."""
    key = _sha256(file.resolve())[:32]
    folder = cache_folder() / "chemeleon2" / f"{key if vae is None else f'{key}-{vae.name[:16]}'}-v{CONVERSION}"
    if not folder.is_dir():
        from chemeleon_cli.core.chemeleon2.convert import convert

        mine = folder.with_name(f"{folder.name}.{os.getpid()}")
        try:
            convert(file, mine, vae)
            if not folder.is_dir():  # or another process was faster
                mine.rename(folder)
        finally:
            shutil.rmtree(mine, ignore_errors=True)
    return folder


def _sha256(file: Path) -> str:
    status = file.stat()
    return _sha256_of(file, status.st_size, status.st_mtime_ns)


@functools.lru_cache
def _sha256_of(file: Path, _size: int, _time: int) -> str:
    return file_sha256(file)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
