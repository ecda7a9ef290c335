"""The relaxations of a long list, on several processes, kept in files as they finish."""

from __future__ import annotations

import functools
import gzip
import json
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from pathlib import Path
from typing import Any

from chemeleon_cli.core.machine import worker_pool
from chemeleon_cli.core.paths import replacing
from chemeleon_cli.errors import UserError
from chemeleon_cli.starter.build.energies import Energies
from chemeleon_cli.starter.build.relax import relax_record

SIZE = 100


def relax_all(candidates: list[dict[str, Any]], folder: Path, processes: int, minutes: float) -> tuple[int, int]:
    """Relax candidates in their order, SIZE of them a file, leaving out the files that are there.

    Args:
        candidates: records of `candidates.read_candidates`.
        folder: of the shards.
        processes: worker processes, of one thread each.
        minutes: no shard is begun later; those under way are finished.

    Raises:
        UserError: a shard in the folder is of another list.

    Returns:
        Shards in the folder, and shards of the whole list.
    """
    deadline = time.monotonic() + 60 * minutes
    parts = {shard_path(folder, i): candidates[i : i + SIZE] for i in range(0, len(candidates), SIZE)}
    for path, part in parts.items():
        if path.exists() and [r["id"] for r in _records(path)] != [c["id"] for c in part]:
            raise UserError(f"{path}: is of another list of candidates", "take another folder for the shards")
    waiting = [(path, part) for path, part in parts.items() if not path.exists()]
    waiting.reverse()
    with worker_pool(processes, _start_worker) as pool:
        running = set()
        while waiting or running:
            while waiting and len(running) < processes and time.monotonic() < deadline:
                running.add(pool.submit(_relax_shard, *waiting.pop()))
            if not running:
                break
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                print(future.result(), flush=True)
    return sum(path.exists() for path in parts), len(parts)


def shard_path(folder: Path, first: int) -> Path:
    """The file of the candidates from number `first` on."""
    return folder / f"relaxed-{first:05d}.jsonl.gz"


def read_shards(folder: Path) -> Iterator[dict[str, Any]]:
    """The records of all shards of a folder, in the order of the candidates."""
    for path in sorted(folder.glob("relaxed-*.jsonl.gz")):
        yield from _records(path)


def _records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def _start_worker() -> None:
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


@functools.cache
def _energies() -> Energies:
    return Energies()


def _relax_shard(path: Path, part: list[dict[str, Any]]) -> str:
    start = time.process_time()
    records = [relax_record(candidate, _energies()) for candidate in part]
    with replacing(path) as temporary:
        lines = "".join(json.dumps(record) + "\n" for record in records)
        temporary.write_bytes(gzip.compress(lines.encode(), mtime=0))
    fit = sum(record["outcome"] == "ok" for record in records)
    return f"{path.name}: {fit} of {len(records)} ok, {(time.process_time() - start) / len(records):.2f} s CPU each"
