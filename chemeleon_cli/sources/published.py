"""Sets of crystals by name: where each is published, downloaded once into the cache, checked, and read.

A download that was cut off goes on where it was. Files that a person put into the cache by hand are as good.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from chemeleon_cli.core.paths import STARTER, cache_folder, file_sha256, writable
from chemeleon_cli.errors import UserError
from chemeleon_cli.sources.files import read_splits
from chemeleon_cli.sources.records import Record

if TYPE_CHECKING:
    import requests

PAUSES = (1.0, 3.0, 10.0)
"""Seconds to wait before each new attempt."""
TIMEOUT = 60
"""Seconds without a byte."""
PIECE = 1 << 16
"""Bytes between two writes to disk: of a download that is cut, no more are lost."""


@dataclass(frozen=True)
class Download:
    """One file of a set.

    Attributes:
        name: what it is called in the cache.
        address: where it is published; with the revision in it, so that it stays what it is.
        checksum: `sha256:` and its hex digest, or `git:` and the id that git gives a file of these bytes.
    """

    name: str
    address: str
    checksum: str


@dataclass(frozen=True)
class PublishedSet:
    """A set that others have published.

    Attributes:
        crystals: how many, roughly.
        megabytes: to download, roughly.
        licence: of the data.
        credit: whom to cite.
        files: tables that are called train, val and test, or archives of such.
        columns: column there: its name here.
    """

    crystals: int
    megabytes: int
    licence: str
    credit: str
    files: tuple[Download, ...]
    columns: Mapping[str, str] = field(default_factory=dict)


_CDVAE = "https://raw.githubusercontent.com/txie-93/cdvae/f857f598d6f6cca5dc1ea0582d228f12dcc2c2ea/data"
_MATTERGEN = "https://media.githubusercontent.com/media/microsoft/mattergen/ac9ddd406171138c3f037d06b9b53fedbbb1c536"


def _cdvae(folder: str, train: str, val: str, test: str) -> tuple[Download, ...]:
    checksums = {"train": train, "val": val, "test": test}
    return tuple(Download(f"{s}.csv", f"{_CDVAE}/{folder}/{s}.csv", checksum) for s, checksum in checksums.items())


SETS: dict[str, PublishedSet] = {
    "mp-20": PublishedSet(
        crystals=45_200,
        megabytes=65,
        licence="CC BY 4.0 (Materials Project); the selection MIT (CDVAE)",
        credit="Jain et al., APL Materials 1, 011002 (2013); Xie et al., arXiv:2110.06197",
        files=_cdvae(
            "mp_20",
            train="git:b1c9d498565ac2fd8d075a51ff2ef5e51ba6c21f",
            val="git:7efe4d7ebeb4f460ceaad35e5326c42111d9c9a1",
            test="git:5dc643041df53f5ce4970a79930ad262b4f07acd",
        ),
    ),
    "perov-5": PublishedSet(
        crystals=18_928,
        megabytes=18,
        licence="MIT (CDVAE's selection from the Computational Materials Repository)",
        credit="Castelli et al., Energy Environ. Sci. 5, 9034 (2012); Xie et al., arXiv:2110.06197",
        files=_cdvae(
            "perov_5",
            train="git:0769074b5d51d293b765c4371b8f55c468c9c9f2",
            val="sha256:326f401219901270374b71e2faff63df3a29a99fd26f469993b9f476b693daf2",
            test="sha256:a85878c685037f0a578257f6d4fcdde00e968dbab73c5f1e90ecef65218513f6",
        ),
    ),
    "carbon-24": PublishedSet(
        crystals=10_153,
        megabytes=12,
        licence="MIT (CDVAE's selection from Materials Cloud 2020.0026)",
        credit="Pickard, doi:10.24435/materialscloud:2020.0026/v1 (2020); Xie et al., arXiv:2110.06197",
        files=_cdvae(
            "carbon_24",
            train="git:5e7ae970fbad8ddc46b6963e8cd6e425f11783a6",
            val="sha256:36c00689cd63073c954a58bc6ed6e2adb7aeed5a630c994970959a1babffd50e",
            test="sha256:386b17c08816f434818d51e46687bf72ff3f92348f3ba24823e4758f1fe8a969",
        ),
    ),
    "alex-mp-20": PublishedSet(
        crystals=600_000,
        megabytes=187,
        licence="CC BY 4.0 (Alexandria, Materials Project)",
        credit="Schmidt et al., doi:10.24435/materialscloud:m7-50 (2022); Jain et al., APL Materials 1, 011002 (2013); "
        "Zeni et al., Nature 639, 624 (2025)",
        files=(
            Download(
                "alex_mp_20.zip",
                f"{_MATTERGEN}/data-release/alex-mp/alex_mp_20.zip",
                "sha256:6688e652e45fac4ac8b016dbc4a3280afde9ba687bdacfd8c676775ed19b6228",
            ),
        ),
        columns={
            "energy_above_hull": "e_above_hull",
            "dft_band_gap": "band_gap",
            "space_group": "spacegroup.number",
            "dft_bulk_modulus": "bulk_modulus",
            "dft_mag_density": "magnetic_density",
        },
    ),
}
"""Every published set by its name; the columns of data folders are called alike whatever they are from."""

STARTER_TABLE = STARTER / "crystals.csv.gz"
"""The set that comes with the program, by the name `starter`: one table with a column `split`."""
NAMES = ("starter", *SETS)


def files_of(name: str, report: Callable[[str], object]) -> list[Path]:
    """The files of a set, from the cache or by download.

    Args:
        name: one of NAMES.
        report: prints a line of progress.

    Raises:
        UserError: this installation has no starter set, the download failed, or a file is not what was published.
    """
    if name == "starter":
        if not STARTER_TABLE.is_file():
            raise UserError(
                f"this installation has no starter set (no {STARTER_TABLE})",
                f"take one of {', '.join(SETS)}, or a table of your own",
            )
        return [STARTER_TABLE]
    published = SETS[name]
    folder = _folder(name)
    report(f"{name}: about {published.crystals:,} crystals, {published.megabytes} MB, {published.licence}")
    for file in published.files:
        path = folder / file.name
        if not path.is_file():
            with writable(str(path)):  # CHEMELEON_CACHE may be anything
                _download(file, path, report)
        _check(file, path)
    return [folder / file.name for file in published.files]


def provenance(name: str) -> dict[str, dict[str, str]]:
    """Address and sha256 of every file of a set that has been read, by file name."""
    if name == "starter":
        return {STARTER_TABLE.name: {"sha256": file_sha256(STARTER_TABLE)}}
    folder = _folder(name)
    return {f.name: {"address": f.address, "sha256": file_sha256(folder / f.name)} for f in SETS[name].files}


def columns_of(name: str) -> Mapping[str, str]:
    """Columns of a set that have another name here."""
    return SETS[name].columns if name in SETS else {}


def terms(name: str) -> dict[str, str]:
    """`licence` and `credit` of a set."""
    if name == "starter":
        credit = "prototypes of AFLOW; labels are predictions of CHGNet and CGCNN, see docs/starter.md and card.json"
        return {"licence": "MIT", "credit": credit}
    return {"licence": SETS[name].licence, "credit": SETS[name].credit}


def _folder(name: str) -> Path:
    return cache_folder() / "published" / name


def read_set(name: str, report: Callable[[str], object]) -> Iterator[tuple[str, Record]]:
    """Every crystal of a set with its split there.

    Args:
        name: one of NAMES.
        report: prints a line of progress.

    Raises:
        UserError: as of `files_of`.
    """
    columns = columns_of(name)
    for path in files_of(name, report):
        for split, record in read_splits(path):
            fields = {columns.get(k, k): v for k, v in record.fields.items() if k != "split"}
            yield split, Record(record.id, record.format, record.content, fields)


def _check(file: Download, path: Path) -> None:
    """UserError where a file's bytes are others than those that were published."""
    kind, _, expected = file.checksum.partition(":")
    hashed = hashlib.sha256() if kind == "sha256" else hashlib.sha1(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as content:
        while piece := content.read(PIECE):
            hashed.update(piece)
    if hashed.hexdigest() != expected:
        raise UserError(
            f"{path}: is not what was published: its {kind} is {hashed.hexdigest()}, not {expected}",
            f"remove it and run the command again, or put there what {file.address} gives you",
        )


def _download(file: Download, path: Path, report: Callable[[str], object]) -> None:
    """Bring a file to its place, going on with what is there of it.

    Raises:
        UserError: the server has no such file, or did not send all of it in several attempts, or sent another.
    """
    from requests.exceptions import RequestException

    partial = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    problem = ""
    for pause in (0.0, *PAUSES):
        if pause:
            report(f"{file.name}: {problem}; again in {pause:g} s")
            time.sleep(pause)
        try:
            status = _receive(file, partial, report)
        except RequestException as error:
            problem = f"the connection failed ({type(error).__name__})"
            continue
        if status == 200:
            try:
                _check(file, partial)
            except UserError:
                partial.unlink()
                raise
            partial.replace(path)
            return
        problem = f"status {status}"
        if status < 500 and status not in (408, 416, 429):
            break
    raise UserError(
        f"cannot download {file.address}: {problem}",
        f"run the command again to go on, or download it elsewhere and put it at {path}",
    )


def _receive(file: Download, partial: Path, report: Callable[[str], object]) -> int:
    """One request for what is missing; returns 200 once all is there, else the status."""
    import requests

    have = partial.stat().st_size if partial.is_file() else 0
    headers = {"Accept-Encoding": "identity"}  # else a server may count compressed bytes
    if have:
        headers["Range"] = f"bytes={have}-"
    with requests.get(file.address, headers=headers, stream=True, timeout=TIMEOUT) as response:
        status = response.status_code
        rest = status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if rest or status == 200:
            _save(response, partial, have if rest else 0, lambda done: report(f"{file.name}: {done} MB"))
            return 200
        if status in (206, 416):  # another part than was asked for, or nothing behind what is here: begin again
            partial.unlink(missing_ok=True)
            return 416
        return status


def _save(response: requests.Response, partial: Path, have: int, report: Callable[[int], object]) -> None:
    """Write the body behind the first `have` bytes of a file."""
    with partial.open("r+b" if have else "wb") as out:
        out.seek(have)
        said = have // 10**7
        for piece in response.iter_content(PIECE):
            out.write(piece)
            if out.tell() // 10**7 > said:
                said = out.tell() // 10**7
                report(said * 10)
