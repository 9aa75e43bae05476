"""The one error that cluster operations raise: what happened, what is kept, what to type next."""

from __future__ import annotations


class ClusterError(Exception):
    """A cluster operation could not finish.

    `kept` says what of the work so far is still good; `remedy` what to type next. `str()` gives all three,
    one a paragraph, ready to print: nobody should see a traceback.
    """

    def __init__(self, what: str, *, kept: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.kept = kept
        self.remedy = remedy

    def __str__(self) -> str:
        parts = [self.what]
        if self.kept:
            parts.append(f"kept: {self.kept}")
        if self.remedy:
            parts.append(f"next: {self.remedy}")
        return "\n".join(parts)
