"""Processors of the machine, and worker processes. Imports nothing heavy."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor


def processors() -> int:
    """Number of processors that this process may use, or of the whole machine if the system does not tell (macOS)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_pool(workers: int, initializer: Callable[[], object] | None = None) -> ProcessPoolExecutor:
    """A pool of worker processes. They are spawned, because forking a process that runs threads can hang."""
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer)
