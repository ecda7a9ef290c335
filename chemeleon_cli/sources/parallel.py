"""A map over many items in worker processes that keeps their order and holds only a few in memory."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from chemeleon_cli.core.machine import processors, worker_pool

In = TypeVar("In")
Out = TypeVar("Out")

PATIENCE = 2.0
"""Seconds of work in this process before workers are started, which take about as long to start."""
CHUNK = 64


def ordered_map(function: Callable[[In], Out], items: Iterable[In], patience: float = PATIENCE) -> Iterator[Out]:
    """`map(function, items)`, in worker processes once it has taken `patience` seconds here.

    Args:
        function: must be importable by name; its argument and result must be picklable.
        items: are read as needed, a few chunks ahead.
        patience: seconds; 0 starts the workers at once.
    """
    items = iter(items)
    workers = min(8, processors())
    spent = 0.0
    while workers == 1 or spent < patience:
        item = next(items, items)
        if item is items:
            return
        start = time.perf_counter()
        result = function(item)  # type: ignore[arg-type]
        spent += time.perf_counter() - start
        yield result
    pool = worker_pool(workers)
    try:
        waiting: deque[Future[list[Out]]] = deque()
        while chunk := list(itertools.islice(items, CHUNK)):
            waiting.append(pool.submit(_each, function, chunk))
            if len(waiting) > 3 * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _each(function: Callable[[In], Out], chunk: list[In]) -> list[Out]:
    return [function(item) for item in chunk]
