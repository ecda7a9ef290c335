"""What the machine has. Imports nothing heavy."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor


def processors() -> int:
    """Processors that this process may use; of the whole machine where the system does not tell, as on macOS."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_pool(workers: int, initializer: Callable[[], object] | None = None) -> ProcessPoolExecutor:
    """So many worker processes. They are spawned and not forked, as forking a process that runs threads can hang."""
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer)
