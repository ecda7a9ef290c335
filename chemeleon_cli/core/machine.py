"""What the machine has. Imports nothing heavy."""

from __future__ import annotations

import os


def processors() -> int:
    """Processors that this process may use; of the whole machine where the system does not tell, as on macOS."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
