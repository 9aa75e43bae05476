"""Errors a person is meant to read: what happened, what was kept, what to type next."""

from __future__ import annotations


class BenchError(Exception):
    """A failure with a message for the user; `exit_code` is what the `step` command ends with.

    Args:
        what: what went wrong, naming the thing and its URI.
        kept: what is still in place.
        next_step: what to do or type next.
    """

    exit_code = 1

    def __init__(self, what: str, *, kept: str = "nothing was changed", next_step: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.kept = kept
        self.next_step = next_step

    def __str__(self) -> str:
        message = f"{self.what}; kept: {self.kept}"
        return f"{message}; next: {self.next_step}" if self.next_step else message


class BadInput(BenchError):
    """The caller gave something that cannot work: exit code 2, retrying is pointless."""

    exit_code = 2


class StoreError(BenchError):
    """The artifact store could not be read or written."""


class LedgerError(BenchError):
    """The ledger could not be read or written."""


class RegistryError(BenchError):
    """The model registry could not be read or written."""


class ServingError(BenchError):
    """The serving service could not be reached, or refused."""


class InjectedFault(Exception):
    """The fault `exception`: raised on purpose, so that it looks like any other crash of user code."""
