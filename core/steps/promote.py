"""Make the registered model the one that is served; two writes, in the order the configuration names."""

from __future__ import annotations

from core import promotion
from core.context import StepContext
from core.errors import BadInput
from core.registry import ModelVersion, Registry, find
from core.steps import boolean


def run(context: StepContext) -> dict[str, str]:
    """Outputs promoted, served_sha256. A model that failed its gate is not promoted, and that is no error.

    Raises:
        BadInput: if there is no such version.
        RegistryError, ServingError: if one of the two cannot be reached.
    """
    serving = promotion.Serving(context.settings.serving_uri, context.settings.token)
    passed = context.inputs.get("passed", "").lower()
    if passed == "false":
        print("promote: the model failed its gate; nothing changed")
        return {"promoted": "false", "served_sha256": serving.served().sha256}
    registry = context.registry()
    version = context.inputs.get("model_version") or _own_version(context, registry)
    model = registry.get(context.config.model_name, version)
    if not passed and model.tags.get("bench.passed") != "true":
        print(f"promote: version {version} has no passed gate on record; nothing changed")
        return {"promoted": "false", "served_sha256": serving.served().sha256}
    return write_twice(context, registry, serving, model, "promote")


def write_twice(
    context: StepContext,
    registry: Registry,
    serving: promotion.Serving,
    model: ModelVersion,
    operation: str,
) -> dict[str, str]:
    """Promote or roll back to `model`. Raises RegistryError, ServingError."""
    order = promotion.naive if context.config.promote_order == "naive" else promotion.safe
    intent = promotion.make_intent(
        registry,
        model,
        run_id=context.run_id,
        operation=operation,
        by=context.inputs.get("promoted_by") or f"{context.step} of run {context.run_id}",
        score=context.inputs.get("score") or model.tags.get("bench.score", ""),
    )
    outcome = order(registry, serving, model, intent, context.effect, context.between_writes)
    context.reads_version(model)
    if outcome.promoted:
        context.made("served", f"{serving.uri}/model", outcome.served_sha256)
    context.details.update(
        order=context.config.promote_order, previous_version=outcome.previous, note=outcome.note
    )
    print(f"{operation}: {model.name} version {model.version}: {outcome.note}")
    return {"promoted": boolean(value=outcome.promoted), "served_sha256": outcome.served_sha256}


def _own_version(context: StepContext, registry: Registry) -> str:
    own = find(registry, context.config.model_name, context.run_id, context.index)
    if own is None:
        raise BadInput(
            f"run {context.run_id} has registered no {context.config.model_name} in {registry.uri}",
            next_step="run register first, or give --input model_version=N",
        )
    return own.version
