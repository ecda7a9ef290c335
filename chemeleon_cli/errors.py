"""Errors that the user can correct. Every other error is a bug and keeps its traceback."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """An error that the user can correct.

    Args:
        message: what is wrong, in one line: the place, and what was found there.
        hint: what to do about it, in one line; may be empty.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def in_one_line(self) -> str:
        """Message and hint, for a list of several errors."""
        return f"{self.message}; {self.hint}" if self.hint else self.message


def did_you_mean(word: str, words: Iterable[str], before: str = "; ") -> str:
    """`; did you mean 'x'?` with the most similar of `words`, or nothing if none is similar.

    Args:
        word: the word that was found.
        words: the valid words.
        before: the text before the question.
    """
    close = closest(word, words)
    return "" if close is None else f"{before}did you mean '{close}'?"


def closest(word: str, words: Iterable[str]) -> str | None:
    """The most similar of `words` to `word`, if one is similar enough to be meant."""
    return next(iter(get_close_matches(word, list(words), n=1, cutoff=0.6)), None)
