"""What the ranks of a run do together: work that the first one does for all, gradients, agreement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from chemeleon_cli.errors import UserError

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch import nn

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


def average_gradients(fabric: Fabric, parameters: Sequence[nn.Parameter]) -> None:
    """Replace the gradients of parameters, which all ranks have, by their means over the ranks."""
    import torch

    flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    mean: Any = fabric.all_reduce(flat, reduce_op="mean")
    for p, g in zip(parameters, mean.split([p.numel() for p in parameters]), strict=True):
        p.grad = g.view_as(p)


def largest_of_ranks(fabric: Fabric, value: float) -> float:
    """The largest value of all ranks, so that all ranks decide alike."""
    import torch

    if fabric.world_size == 1:
        return value
    return float(torch.as_tensor(fabric.all_gather(torch.tensor(value))).max())
