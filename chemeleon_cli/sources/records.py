"""One crystal before it is parsed, and the meaning of the other cells and columns of its row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

CRYSTAL_COLUMNS = ("cif", "cif_string", "structure")
ID_COLUMNS = (
    "material_id", "id", "mp_id", "mpid", "jid", "structure_id", "immutable_id", "entry_id", "mat_id"
)  # fmt: skip
"""Usual names of the column with ids; if several are there, the first of this list is used."""
LABEL_ID_COLUMNS = (*ID_COLUMNS, "filename", "file_name", "file", "name")
"""The same for a table of labels whose crystals are in separate files."""
EMPTY = frozenset((
    "", "?", "-", "--", "–", "—", "nan", "-nan", "na", "#na", "n/a", "#n/a", "#n/a n/a", "<na>", "none", "null",
    "inf", "-inf",
))  # fmt: skip
"""What people and programs write into a cell that has no value, in lower case."""
LARGEST = 1e30
"""The largest label: models store labels as float32 (up to 3e38), and sums of labels must fit, too."""


@dataclass(frozen=True)
class Record:
    """One crystal as given in its file.

    Attributes:
        id: its id in the file, or else the name of the file with the crystal's number in it.
        format: the name of the format that parses it, a key of `formats.FORMATS`, or "broken".
        content: the text or dict; for a broken record, the reason.
        fields: the other cells of the row, by column.
    """

    id: str
    format: str
    content: Any
    fields: dict[str, Any]


def number(value: Any) -> float | None:
    """A cell as a number of at most LARGEST (true and false are 1 and 0), or None."""
    if isinstance(value, str):
        text = value.strip().lower()
        if text in ("true", "false"):
            return float(text == "true")
        if text in EMPTY or "_" in text:
            return None
    if getattr(value, "shape", ()):
        return None
    try:
        result = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return result if abs(result) <= LARGEST else None


def is_empty(value: Any) -> bool:
    """Whether a cell contains no value."""
    if isinstance(value, str):
        return value.strip().lower() in EMPTY
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def is_row_count(column: str) -> bool:
    """Whether a column contains the row numbers that pandas writes."""
    return not column or column.startswith("Unnamed")


def name_of(value: Any, otherwise: str) -> str:
    """An id from its cell; a number that a table kept as 12.0 is 12, and "Na" is sodium, not a missing value.

    Args:
        value: the cell.
        otherwise: the name if the cell is empty.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_missing = value.strip() in ("", "?", "nan", "None", "null") if isinstance(value, str) else is_empty(value)
    return otherwise if is_missing else str(value).strip()


def unreadable(error: BaseException) -> str:
    """The reason of a record that a parser failed for."""
    return f"unreadable: {type(error).__name__}: {one_line(error)}"


def one_line(error: BaseException) -> str:
    """The message of an error as one short line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
