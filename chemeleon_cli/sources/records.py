"""One crystal before it is parsed, and what the cells and columns beside it mean."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

CRYSTAL_COLUMNS = ("cif", "cif_string", "structure")
ID_COLUMNS = (
    "material_id", "id", "mp_id", "mpid", "jid", "structure_id", "immutable_id", "entry_id", "mat_id"
)  # fmt: skip
"""Names of the column with ids; of several, the first of this list counts."""
LABEL_ID_COLUMNS = (*ID_COLUMNS, "filename", "file_name", "file", "name")
"""The same in a table of labels for crystals that are in files of their own."""
EMPTY = frozenset((
    "", "?", "-", "--", "–", "—", "nan", "-nan", "na", "#na", "n/a", "#n/a", "#n/a n/a", "<na>", "none", "null",
    "inf", "-inf",
))  # fmt: skip
"""What people and programs write into a cell that has no value, in lower case."""
LARGEST = 1e30
"""A label beyond is none: models keep labels as float32 (3e38), and sums of them have to fit, too."""


@dataclass(frozen=True)
class Record:
    """One crystal as its file gives it.

    Attributes:
        id: its name there, else made from the file's name and its place in it.
        format: the name of the format that parses it, a key of `formats.FORMATS`, or "broken".
        content: the text or dict; of a broken one, what is wrong with it.
        fields: everything else in the row, by column.
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
    """Whether a cell holds no label at all."""
    if isinstance(value, str):
        return value.strip().lower() in EMPTY
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def is_row_count(column: str) -> bool:
    """Whether a column is the count of rows that pandas writes beside a table."""
    return not column or column.startswith("Unnamed")


def name_of(value: Any, otherwise: str) -> str:
    """An id from its cell; a number that a table kept as 12.0 is 12, and "Na" is sodium, not a missing value.

    Args:
        value: the cell.
        otherwise: the name where the cell is empty.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_missing = value.strip() in ("", "?", "nan", "None", "null") if isinstance(value, str) else is_empty(value)
    return otherwise if is_missing else str(value).strip()


def one_line(error: BaseException) -> str:
    """What an error says, in one line that is not too long."""
    return " ".join(str(error).split())[:200] or type(error).__name__
