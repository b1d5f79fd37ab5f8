"""What a process uses of its machine, as Linux tells it."""

from pathlib import Path
from typing import Literal


def process_memory(key: Literal["VmRSS", "VmHWM"]) -> int:
    """Return this process's memory now, or at its highest so far, in bytes; on Linux only.

    getrusage's ru_maxrss will not do, since it starts at the size of the parent.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    (value,) = (line.split()[1] for line in lines if line.startswith(f"{key}:"))
    return int(value) * 1024
