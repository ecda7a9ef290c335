"""Work that one rank does for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from chemeleon_cli.errors import UserError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

T = TypeVar("T")


def on_first_rank(fabric: Fabric, work: Callable[[], T]) -> T:
    """Do some work on the first rank and tell the others what came of it.

    Args:
        fabric: launched.
        work: its result can be pickled.

    Raises:
        UserError: of the work, on every rank; the others would wait forever for a rank that has stopped.
    """
    result: T | None = None
    error: UserError | None = None
    if fabric.is_global_zero:
        try:
            result = work()
        except UserError as caught:
            error = caught
    result, text = fabric.broadcast((result, error and (error.message, error.hint)))
    if text is not None:
        raise error or UserError(*text)
    return result  # type: ignore[return-value]
