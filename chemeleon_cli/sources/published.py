"""Published data sets: each is downloaded once into the cache, checked, and read.

An interrupted download continues where it stopped. Files can also be put into the cache by hand.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from chemeleon_cli.core.paths import STARTER, cache_folder, file_sha256, writable
from chemeleon_cli.errors import UserError
from chemeleon_cli.sources.files import read_splits
from chemeleon_cli.sources.published_sets import SETS, Download
from chemeleon_cli.sources.records import Record

if TYPE_CHECKING:
    import requests

PAUSES = (1.0, 3.0, 10.0)
"""Seconds to wait before each new attempt."""
TIMEOUT = 60
"""Seconds without a byte."""
PIECE = 1 << 16
"""Bytes between two writes to disk; an interrupted download loses no more than these."""


STARTER_TABLE = STARTER / "crystals.csv.gz"
"""The data set `starter`, which comes with the program: one table with a column `split`."""


def files_of(name: str, report: Callable[[str], object]) -> list[Path]:
    """The files of a set, from the cache or by download.

    Args:
        name: one of `published_sets.NAMES`.
        report: prints a line of progress.

    Raises:
        UserError: this installation has no starter set, the download failed, or a file is not what was published.
    """
    if name == "starter":
        if not STARTER_TABLE.is_file():
            raise UserError(
                f"this installation has no starter set (no {STARTER_TABLE})",
                f"use one of {', '.join(SETS)}, or a table of your own",
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
    """The address and the sha256 of every file of a data set, by file name."""
    if name == "starter":
        return {STARTER_TABLE.name: {"sha256": file_sha256(STARTER_TABLE)}}
    folder = _folder(name)
    return {f.name: {"address": f.address, "sha256": file_sha256(folder / f.name)} for f in SETS[name].files}


def columns_of(name: str) -> Mapping[str, str]:
    """The columns of a data set whose labels have other names here."""
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
    """Every crystal of a data set with its published split.

    Args:
        name: one of `published_sets.NAMES`.
        report: prints a line of progress.

    Raises:
        UserError: as `files_of`.
    """
    columns = columns_of(name)
    for path in files_of(name, report):
        for split, record in read_splits(path):
            fields = {columns.get(k, k): v for k, v in record.fields.items() if k != "split"}
            yield split, Record(record.id, record.format, record.content, fields)


def _check(file: Download, path: Path) -> None:
    """Raise a UserError if the content of a file is not what was published."""
    kind, _, expected = file.checksum.partition(":")
    hashed = hashlib.sha256() if kind == "sha256" else hashlib.sha1(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as content:
        while piece := content.read(PIECE):
            hashed.update(piece)
    if hashed.hexdigest() != expected:
        raise UserError(
            f"{path}: is not what was published: its {kind} is {hashed.hexdigest()}, not {expected}",
            f"remove it and run the command again, or replace it by a download of {file.address}",
        )


def _download(file: Download, path: Path, report: Callable[[str], object]) -> None:
    """Download a file, continuing a partial download.

    Raises:
        UserError: the server does not have the file, sent another one, or did not send all of it in several attempts.
    """
    from requests.exceptions import RequestException

    partial = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    problem = ""
    for pause in (0.0, *PAUSES):
        if pause:
            report(f"{file.name}: {problem}; next attempt in {pause:g} s")
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
        f"run the command again to continue, or download it elsewhere and put it at {path}",
    )


def _receive(file: Download, partial: Path, report: Callable[[str], object]) -> int:
    """Request the missing part of a file; returns 200 when it is complete, otherwise the status."""
    import requests

    have = partial.stat().st_size if partial.is_file() else 0
    headers = {"Accept-Encoding": "identity"}  # otherwise a server may count compressed bytes
    if have:
        headers["Range"] = f"bytes={have}-"
    with requests.get(file.address, headers=headers, stream=True, timeout=TIMEOUT) as response:
        status = response.status_code
        rest = status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if rest or status == 200:
            _save(response, partial, have if rest else 0, lambda done: report(f"{file.name}: {done} MB"))
            return 200
        if status in (206, 416):  # not the requested part, or nothing after what is there: start again
            partial.unlink(missing_ok=True)
            return 416
        return status


def _save(response: requests.Response, partial: Path, have: int, report: Callable[[int], object]) -> None:
    """Write the body of a response after the first `have` bytes of a file."""
    with partial.open("r+b" if have else "wb") as out:
        out.seek(have)
        reported = have // 10**7
        for piece in response.iter_content(PIECE):
            out.write(piece)
            if out.tell() // 10**7 > reported:
                reported = out.tell() // 10**7
                report(reported * 10)
