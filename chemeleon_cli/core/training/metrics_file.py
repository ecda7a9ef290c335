"""metrics.csv, the training and validation curves of a run."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from chemeleon_cli.core.paths import replacing


class Logger(Protocol):
    """A further place to record metrics, in addition to metrics.csv."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record the metrics of a step."""
        ...


class MetricsFile:
    """metrics.csv. A column is added when its metric first appears; a cell is empty if its row lacks the metric."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: list[str] = []
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                self.columns = next(csv.reader(file), [])

    def append(self, row: Mapping[str, float]) -> None:
        """Add a row."""
        new = [name for name in row if name not in self.columns]
        if new:
            rows = self._read()
            self.columns += new
            self._rewrite(rows)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns).writerow(row)

    def drop_after(self, step: int) -> None:
        """Remove the rows after a step, which a resumed run will write again."""
        self._rewrite([row for row in self._read() if int(row["step"]) <= step])

    def _read(self) -> list[dict[str, str]]:
        if not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            whole = (line for line in file if line.endswith("\n"))  # the last line may be incomplete after a crash
            return list(csv.DictReader(whole))

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        with replacing(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)
