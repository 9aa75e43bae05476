"""A step that does next to nothing: what is left is the orchestrator."""

from __future__ import annotations

import time

from core.context import StepContext
from core.errors import BenchError


def run(context: StepContext) -> dict[str, str]:
    """Output value: the Fibonacci number, or the seconds slept. Raises BenchError for a wrong sum."""
    seconds = context.config.sleep_seconds
    if seconds > 0:
        time.sleep(seconds)
        return {"value": repr(seconds)}
    value = fibonacci(context.config.fibo)
    expected = _by_addition(context.config.fibo)
    if value != expected:
        raise BenchError(
            f"fibo({context.config.fibo}) gave {value}, not {expected}", next_step="check the CPU"
        )
    return {"value": str(value)}


def fibonacci(n: int) -> int:
    """F(n) by naive recursion, F(0) = 0, F(1) = 1: on purpose exponential in n."""
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


def _by_addition(n: int) -> int:
    low, high = 0, 1
    for _ in range(n):
        low, high = high, low + high
    return low
