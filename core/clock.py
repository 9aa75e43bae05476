"""Wall and monotonic clocks, and when this process began."""

from __future__ import annotations

import os
import time
from pathlib import Path


def wall_ns() -> int:
    """Nanoseconds since the Unix epoch."""
    return time.time_ns()


def monotonic_ns() -> int:
    """Nanoseconds of CLOCK_MONOTONIC: comparable between processes of one node."""
    return time.monotonic_ns()


def process_start_ns() -> int:
    """Wall-clock nanoseconds at which the kernel started this process.

    Field 22 of `/proc/self/stat` counts clock ticks since boot (proc_pid_stat(5)); its resolution is
    one tick, 10 ms where `getconf CLK_TCK` says 100.

    Raises:
        OSError: if /proc is not mounted.
    """
    fields = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    ticks = int(fields[19])  # the 22nd field: the name in parentheses and the pid before it are cut off
    started_after_boot = ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    since_start = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - started_after_boot
    return time.time_ns() - since_start
