"""Promotion and rollback: two writes, the registry and the serving service, in two orders.

naive: alias and tags, then a reload. Killed in between, registry and serving disagree until somebody looks.
safe: an intent with an idempotency key, a compare-and-swap on serving, alias and tags, intent cleared. Killed
anywhere, a retry or the reconcile loop of serving finishes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from core.errors import BenchError, ServingError
from core.http import client
from core.ledger import TOKEN_HEADER
from core.registry import TAG_INTENT, TAG_PROMOTED, ModelVersion, Registry

TAG_BY = "bench.promoted_by"
TAG_AT = "bench.promoted_at"
TAG_SCORE = "bench.evidence_score"
TAG_PREVIOUS = "bench.previous_version"
TAG_OPERATION = "bench.promoted_as"
TAG_KEY = "bench.promote_key"
TRIES = 5


@dataclass(frozen=True)
class Intent:
    """A promotion under way, as kept in a tag of the version it promotes.

    `key` is the same for every attempt of one step; `operation` is promote or rollback; `previous` is the
    version that was champion when the intent was first written ("" if none).
    """

    key: str
    operation: str
    by: str
    at: str
    score: str
    previous: str

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self.__dict__, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Intent:
        """Raises ValueError or TypeError for anything `to_json` did not write."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Served:
    """What the serving service says of itself; all empty and generation as given if it serves nothing."""

    version: str
    sha256: str
    generation: int


@dataclass(frozen=True)
class Outcome:
    """`promoted` false means that something newer is served, and was left alone."""

    promoted: bool
    served_sha256: str
    previous: str
    note: str


class Effect(Protocol):
    """Announces a side effect in the ledger, before it happens."""

    def __call__(self, name: str, target: str, **details: str) -> None: ...


class Serving:
    """Client of the serving service. Every call raises ServingError, naming the URI."""

    def __init__(self, uri: str, token: str) -> None:
        self.uri = uri.rstrip("/")
        self._http = client(self.uri, headers={TOKEN_HEADER: token}, timeout=60.0)

    def _call(self, method: str, path: str, **arguments: Any) -> tuple[int, dict[str, Any]]:
        import httpx

        try:
            response = self._http.request(method, path, **arguments)
        except httpx.TransportError as error:
            raise ServingError(
                f"serving at {self.uri} is unreachable: {str(error) or type(error).__name__}",
                kept="the registry's record; a safe promotion under way is finished by a retry",
                next_step=f"check that it answers: curl {self.uri}/healthz",
            ) from error
        try:
            body = response.json()
        except ValueError:
            body = {"error": response.text[:200]}
        return response.status_code, body

    def _refused(self, status: int, body: Mapping[str, Any]) -> ServingError:
        return ServingError(
            f"serving at {self.uri} refused: {status} {body.get('error', '')}",
            kept="the model served until now; in the safe order also the intent, which a retry or the"
            " reconcile loop of serving finishes",
            next_step="check BENCH_TOKEN" if status == 401 else "see the service's log",
        )

    def served(self) -> Served:
        """What is served now."""
        status, body = self._call("GET", "/model")
        if status == 404:
            return Served("", "", int(body.get("generation", 0)))
        if status != 200:
            raise self._refused(status, body)
        return Served(str(body["version"]), str(body["sha256"]), int(body["generation"]))

    def details(self) -> dict[str, Any] | None:
        """GET /model as it is, or None if nothing is served."""
        status, body = self._call("GET", "/model")
        if status not in (200, 404):
            raise self._refused(status, body)
        return body if status == 200 else None

    def swap(self, model: ModelVersion, *, generation: int, key: str) -> bool:
        """Serve `model` if the generation is still the given one. False if it is not."""
        status, body = self._call(
            "PUT",
            "/model",
            headers={"If-Match": str(generation), "Idempotency-Key": key},
            json={
                "name": model.name,
                "version": model.version,
                "uri": model.uri,
                "sha256": model.sha256,
                "run_id": model.run_id,
            },
        )
        if status == 412:
            return False
        if status != 200:
            raise self._refused(status, body)
        return True

    def reload(self) -> None:
        """Have it load what the registry's alias says."""
        status, body = self._call("POST", "/reload", content=b"")
        if status != 200:
            raise self._refused(status, body)


def now_text() -> str:
    """UTC, ISO 8601, microseconds: as text, later is greater."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def make_intent(
    registry: Registry, model: ModelVersion, *, run_id: str, operation: str, by: str, score: str
) -> Intent:
    """This step's intent: the one an earlier attempt left, or a new one."""
    key = f"{run_id}/{operation}/{model.name}/{model.version}"
    left = model.tags.get(TAG_INTENT)
    if left is not None:
        known = Intent.from_json(left)
        if known.key == key:
            return known
    champion = registry.champion(model.name)
    previous = champion.version if champion is not None else ""
    if previous == model.version:
        previous = model.tags.get(TAG_PREVIOUS, "")
    return Intent(key, operation, by, now_text(), score, previous)


def naive(
    registry: Registry,
    serving: Serving,
    model: ModelVersion,
    intent: Intent,
    effect: Effect,
    between: Callable[[], None],
) -> Outcome:
    """PROXY of annotate-then-restart: write the registry, then make serving reload.

    `between` is called after the first write.
    """
    effect("registry.champion", registry.uri, version=model.version, sha256=model.sha256)
    registry.set_champion(model.name, model.version)
    registry.set_tags(model.name, model.version, promoted_tags(intent))
    between()
    effect("serving.reload", serving.uri, version=model.version, sha256=model.sha256)
    serving.reload()
    served = serving.served()
    return Outcome(served.sha256 == model.sha256, served.sha256, intent.previous, "naive order")


def safe(
    registry: Registry,
    serving: Serving,
    model: ModelVersion,
    intent: Intent,
    effect: Effect,
    between: Callable[[], None],
) -> Outcome:
    """Intent, compare-and-swap, check, record; every part may be repeated. `between`: see `naive`.

    Raises:
        ServingError: if serving answers with another digest than the one promoted.
    """
    if model.tags.get(TAG_KEY) == intent.key and TAG_INTENT not in model.tags:
        served = serving.served()
        same = served.sha256 == model.sha256
        return Outcome(same, served.sha256, intent.previous, "an earlier attempt had finished it")
    effect("registry.intent", registry.uri, version=model.version, key=intent.key)
    registry.set_tags(model.name, model.version, {TAG_INTENT: intent.to_json()})
    between()
    for _ in range(TRIES):
        served = serving.served()
        if served.sha256 == model.sha256 and served.version == model.version:
            break
        if superseded(registry, model, intent, served.version):
            registry.delete_tag(model.name, model.version, TAG_INTENT)
            return Outcome(
                False,
                served.sha256,
                intent.previous,
                f"version {served.version}, newer, is served: left alone",
            )
        effect("serving.swap", serving.uri, version=model.version, sha256=model.sha256, key=intent.key)
        serving.swap(model, generation=served.generation, key=intent.key)
    else:
        raise ServingError(
            f"serving at {serving.uri} was changed by somebody else {TRIES} times in a row",
            kept=f"the intent to promote {model.name} version {model.version}",
            next_step="start the step again",
        )
    finish(registry, model, intent, effect)
    return Outcome(True, model.sha256, intent.previous, "safe order")


def superseded(registry: Registry, model: ModelVersion, intent: Intent, served_version: str) -> bool:
    """Whether what is served was promoted after this intent was written, and so must stay.

    A late retry or a zombie attempt must not undo a newer decision.
    """
    if served_version in ("", model.version, intent.previous):
        return False
    other = registry.get(model.name, served_version)
    return other.tags.get(TAG_AT, "") > intent.at or (
        intent.operation == "promote" and int(other.version) > int(model.version)
    )


def finish(registry: Registry, model: ModelVersion, intent: Intent, effect: Effect) -> None:
    """The registry's part once serving has the model: alias, tags, intent cleared."""
    effect("registry.champion", registry.uri, version=model.version, sha256=model.sha256, key=intent.key)
    registry.set_champion(model.name, model.version)
    registry.set_tags(model.name, model.version, promoted_tags(intent))
    registry.delete_tag(model.name, model.version, TAG_INTENT)


def promoted_tags(intent: Intent) -> dict[str, str]:
    """What the registry keeps of a promotion: who, when, on which evidence, instead of which version."""
    return {
        TAG_PROMOTED: "true",
        TAG_OPERATION: intent.operation,
        TAG_KEY: intent.key,
        TAG_BY: intent.by,
        TAG_AT: intent.at,
        TAG_SCORE: intent.score,
        TAG_PREVIOUS: intent.previous,
    }


def open_intents(registry: Registry, name: str) -> list[tuple[ModelVersion, Intent]]:
    """Promotions begun and not finished, oldest first; what is no intent of ours is left alone."""
    found = []
    for version in registry.tagged(name, TAG_INTENT):
        try:
            found.append((version, Intent.from_json(version.tags[TAG_INTENT])))
        except (ValueError, TypeError):
            continue
    return sorted(found, key=lambda pair: pair[1].at)


def rollback_of_run(registry: Registry, name: str, run_id: str) -> ModelVersion | None:
    """The version an earlier attempt of this run's rollback chose, finished or not.

    Without it a retry after the service finished the first attempt would roll back a second time.
    """
    prefix = f"{run_id}/rollback/"
    for version, intent in open_intents(registry, name):
        if intent.key.startswith(prefix):
            return version
    for version in registry.tagged(name, TAG_KEY):
        if version.tags[TAG_KEY].startswith(prefix):
            return version
    return None


def rollback_target(registry: Registry, name: str, version: str | None) -> ModelVersion:
    """The version to go back to: the given one, or the one the champion replaced.

    Raises:
        BenchError: if there is none, or it was never promoted.
    """
    champion = registry.champion(name)
    if version is None:
        version = champion.tags.get(TAG_PREVIOUS, "") if champion is not None else ""
        if not version:
            raise BenchError(
                f"{name} has no known-good version to go back to in {registry.uri}",
                next_step="name one: step rollback --input model_version=N",
            )
    target = registry.get(name, version)
    if target.tags.get(TAG_PROMOTED) != "true":
        raise BenchError(
            f"{name} version {version} was never promoted, so it is not known to be good",
            kept=f"version {champion.version if champion else 'none'} as champion",
            next_step="promote it instead, so that its evidence is recorded",
        )
    return target
