"""What a person can mend. Everything else is a bug and keeps its traceback."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """An error that the person at the keyboard can mend.

    Args:
        message: what is wrong, in one line: where, and what was found.
        hint: what to do about it, in one line; may be empty.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def did_you_mean(word: str, words: Iterable[str], before: str = "; ") -> str:
    """`; did you mean 'x'?` for the closest of `words`, or nothing.

    Args:
        word: what was found.
        words: what could have been meant.
        before: what the text starts with.
    """
    close = closest(word, words)
    return "" if close is None else f"{before}did you mean '{close}'?"


def closest(word: str, words: Iterable[str]) -> str | None:
    """The one of `words` that was probably meant by `word`, if any."""
    return next(iter(get_close_matches(word, list(words), n=1, cutoff=0.6)), None)
