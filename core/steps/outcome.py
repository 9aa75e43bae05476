"""Say in the ledger how the whole run ended: what an orchestrator's exit handler calls."""

from __future__ import annotations

from core.context import StepContext


def run(context: StepContext) -> dict[str, str]:
    """Output status, as the orchestrator gave it. Raises BadInput if it gave none, LedgerError."""
    status = context.scalar("status")
    context.effect("run.outcome", context.run_id, status=status)
    print(f"outcome: run {context.run_id} ended as {status}")
    return {"status": status}
