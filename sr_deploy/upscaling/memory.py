"""How much memory this process may still take."""

from __future__ import annotations

import os
from pathlib import Path

_UNKNOWN = 4 << 30
_USUAL = 768 << 20


def usual_memory() -> int:
    """Bytes that an image's activations may take where nobody says: 768 MiB, at most half of what is free."""
    return min(_USUAL, available_memory() // 2)


def available_memory() -> int:
    """Bytes that are free for this process: what the system has available, within the limit of its control group."""
    return min(_of_system(), _of_control_group())


def _of_system() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return _UNKNOWN


def _of_control_group() -> int:
    folder = Path("/sys/fs/cgroup")
    try:
        limit = int((folder / "memory.max").read_text())
        return max(0, limit - int((folder / "memory.current").read_text()))
    except (OSError, ValueError):
        return 1 << 62
