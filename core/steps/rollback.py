"""Go back to a known-good version: an operation of its own, recorded like a promotion."""

from __future__ import annotations

from core import promotion
from core.context import StepContext
from core.steps.promote import write_twice


def run(context: StepContext) -> dict[str, str]:
    """Outputs promoted, served_sha256, model_version. To `--input model_version=N`, or the previous one.

    Raises:
        BenchError: if there is no known-good version.
        RegistryError, ServingError: if one of the two cannot be reached.
    """
    registry = context.registry()
    name = context.config.model_name
    given = context.inputs.get("model_version")
    begun = promotion.rollback_of_run(registry, name, context.run_id)
    target = begun or promotion.rollback_target(registry, name, given or None)
    serving = promotion.Serving(context.settings.serving_uri, context.settings.token)
    return {
        **write_twice(context, registry, serving, target, "rollback"),
        "model_version": target.version,
    }
