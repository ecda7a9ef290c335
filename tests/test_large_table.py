"""A table of 100,000 crystals: how fast, with how much memory, on how many cores."""

import csv
import os
import re
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from samples import random_structures

from chemeleon_cli.core.data.cif import cif_text


@dataclass(frozen=True)
class Measured:
    """One run of fetch-data.

    Attributes:
        said: the line with the rate.
        rate: crystals per second, by the program's own count.
        seconds: from start to end.
        cores: CPU seconds of all its processes per second.
        megabytes: the peak of its largest process.
    """

    said: str
    rate: float
    seconds: float
    cores: float
    megabytes: float


def measure(folder: Path, count: int) -> Measured:
    """Make a table of `count` rows (300 crystals over and over under new ids) and fetch it in another process."""
    texts = [(cif_text(s, ""), s.volume) for s in random_structures(300, seed=1)]
    path = folder / f"table-{count}.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["material_id", "volume", "cif"])
        for n in range(count):
            text, volume = texts[n % len(texts)]
            writer.writerow([f"m-{n}", volume + n, text])
    code = "import sys; from chemeleon_cli.app import app; app(sys.argv[1:])"
    arguments = ["fetch-data", "--source", str(path), "--out", str(folder / "data"), "--overwrite"]
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    shown = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    seconds, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    path.unlink()
    (line,) = re.findall(rf"^{count:,} crystals in .*$", shown.stdout, re.MULTILINE)
    rate = float(line.rpartition(", ")[2].split()[0].replace(",", "")) if line else 0.0
    return Measured(line, rate, seconds, used / seconds, after.ru_maxrss / 1000)


@pytest.mark.slow
def test_100_000_rows_stream_through_both_cores(tmp_path: Path) -> None:
    small = measure(tmp_path, 2_000)
    large = measure(tmp_path, 100_000)
    print(small, large, sep="\n")
    assert large.megabytes < small.megabytes + 250  # the tables are 100 MB as text, and many times that as structures
    assert large.rate > small.rate / 2
    if len(os.sched_getaffinity(0)) > 1:
        assert large.cores > 1.2


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as scratch:
        print(measure(Path(scratch), int(sys.argv[1])))
