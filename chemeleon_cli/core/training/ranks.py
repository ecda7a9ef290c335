"""Work that the first rank does for all ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from chemeleon_cli.errors import UserError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

T = TypeVar("T")


def on_first_rank(fabric: Fabric, work: Callable[[], T]) -> T:
    """Call a function on the first rank and broadcast its result.

    Args:
        fabric: launched.
        work: the function; its result can be pickled.

    Raises:
        UserError: the function raised it. It is raised on every rank, because the others would otherwise wait forever
            for the rank that stopped.
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
