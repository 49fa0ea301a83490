"""Which of several processes speaks, and writes."""

from __future__ import annotations

import os


def num_processes() -> int:
    """Number of processes that ``torchrun`` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this process is the only one of its training, or the first of several."""
    return num_processes() == 1 or os.environ.get("RANK", "0") == "0"
