"""Serves the promoted model: `python -m core.serving --host 0.0.0.0 --port 8080 [--reconcile-seconds N]`.

GET /model, GET /recommend?item=&n=, GET /healthz; with the token: PUT /model (compare-and-swap) and
POST /reload (PROXY of a rollout restart: loads what the registry's alias says).
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections import OrderedDict
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

from core import artifacts, promotion
from core.errors import BenchError
from core.httpd import HttpError, JsonHandler, JsonServer, fail, token_from_environment
from core.recommender import Model, from_joblib
from core.registry import TAG_INTENT, ModelVersion, Registry, open_registry
from core.settings import Settings

KEYS_KEPT = 1024


@dataclass(frozen=True)
class Identity:
    """What GET /model answers. `generation` grows with every swap, also across restarts."""

    name: str
    version: str
    sha256: str
    run_id: str
    since: str
    generation: int


@dataclass(frozen=True)
class Loaded:
    """One model and who it is; replaced as a whole, so a request sees one or the other."""

    identity: Identity
    model: Model


class Service:
    """The model served, and the rule for changing it."""

    def __init__(self, name: str, registry_kind: str, tracking_uri: str) -> None:
        self.name = name
        self._registry_kind = registry_kind
        self._tracking_uri = tracking_uri
        self._registry: Registry | None = None
        self._change = threading.RLock()
        self._keys: OrderedDict[str, Identity] = OrderedDict()
        self.loaded: Loaded | None = None
        # Seconds since the epoch: a restart begins above every generation handed out before it.
        self.generation = int(time.time())
        self.trouble = "starting"

    def registry(self) -> Registry:
        """The registry, opened on first use. Raises RegistryError."""
        with self._change:
            if self._registry is None:
                self._registry = open_registry(self._registry_kind, self._tracking_uri)
            return self._registry

    def swap(self, wanted: ModelVersion, *, generation: int | None, key: str | None) -> Identity:
        """Load and serve `wanted`.

        Args:
            generation: what the caller saw last; None swaps whatever is served.
            key: the same key gets the answer of the first time, if that is still what is served.

        Raises:
            HttpError: 412 if the generation has moved on.
            BenchError: if the file cannot be read or is not what its digest says.
        """
        with self._change:
            known = self._keys.get(key) if key else None
            if known is not None and self.loaded is not None and self.loaded.identity == known:
                return known
            if generation is not None and generation != self.generation:
                raise HttpError(412, f"generation is {self.generation}, not {generation}")
            model = from_joblib(artifacts.read(wanted.uri, sha256=wanted.sha256), wanted.uri)
            self.generation += 1
            identity = Identity(
                wanted.name,
                wanted.version,
                wanted.sha256,
                wanted.run_id,
                datetime.now(UTC).isoformat(timespec="milliseconds"),
                self.generation,
            )
            self.loaded = Loaded(identity, model)
            if key:
                self._keys[key] = identity
                while len(self._keys) > KEYS_KEPT:
                    self._keys.popitem(last=False)
            return identity

    def reload(self) -> Identity | None:
        """Serve what the registry's alias says. None if it names nothing."""
        champion = self.registry().champion(self.name)
        if champion is None:
            return None
        return self.swap(champion, generation=None, key=None)

    def reconcile(self) -> list[str]:
        """Finish promotions that were begun and left. Returns the versions finished, oldest first.

        Only intents of the safe order are acted on: an alias that disagrees with what is served is what
        the naive order leaves behind, and stays visible.
        """
        registry = self.registry()
        done = []
        for version, intent in promotion.open_intents(registry, self.name):
            with self._change:
                served = self.loaded.identity.version if self.loaded else ""
                if promotion.superseded(registry, version, intent, served):
                    registry.delete_tag(version.name, version.version, TAG_INTENT)
                    continue
                if served != version.version:
                    self.swap(version, generation=None, key=intent.key)
                promotion.finish(registry, version, intent, _announce)
            done.append(version.version)
        return done

    def keep_up(self, every_seconds: float, stop: threading.Event) -> None:
        """Load the champion once the registry answers, then reconcile for ever (if every_seconds > 0)."""
        first = True
        while True:
            try:
                if first:
                    self.reload_if_empty()
                    first = False
                if every_seconds > 0:
                    for version in self.reconcile():
                        print(f"serving: finished the promotion of version {version}", flush=True)
                self.trouble = ""
            except BenchError as error:
                if str(error) != self.trouble:
                    fail("serving", error)
                self.trouble = str(error)
            except Exception as error:  # noqa: BLE001 - the loop must outlive any answer of the registry
                fail("serving", error)
                self.trouble = str(error)
            if every_seconds <= 0 and not first:
                return
            if stop.wait(every_seconds or 2.0):
                return

    def reload_if_empty(self) -> None:
        """Serve the champion unless somebody has already swapped a model in."""
        with self._change:
            if self.loaded is None:
                self.reload()


def _announce(name: str, target: str, **details: str) -> None:
    print(f"serving: {name} {target} {details}", file=sys.stderr, flush=True)


class ServingServer(JsonServer):
    """HTTP around a Service."""

    def __init__(self, host: str, port: int, token: str, service: Service) -> None:
        self.service = service
        super().__init__(host, port, _Handler, token)


class _Handler(JsonHandler):
    server: ServingServer

    def route(self, method: str) -> None:
        url = urlsplit(self.path)
        service = self.server.service
        try:
            if (method, url.path) == ("GET", "/healthz"):
                self._health(service)
            elif (method, url.path) == ("GET", "/model"):
                self._model(service)
            elif (method, url.path) == ("GET", "/recommend"):
                self._recommend(service, parse_qs(url.query))
            elif (method, url.path) == ("PUT", "/model"):
                self.require_token()
                self._put(service)
            elif (method, url.path) == ("POST", "/reload"):
                self.require_token()
                self.body()
                self._reload(service)
            else:
                raise HttpError(404, f"no {method} {url.path}")
        except BenchError as error:
            raise HttpError(502, str(error)) from error

    def _health(self, service: Service) -> None:
        starting = service.trouble == "starting"
        self.answer(503 if starting else 200, {"ok": not starting, "trouble": service.trouble})

    def _model(self, service: Service) -> None:
        loaded = service.loaded
        if loaded is None:
            self.answer(404, {"error": "no model has been promoted yet", "generation": service.generation})
            return
        self.answer(200, asdict(loaded.identity), {"ETag": f'"{loaded.identity.generation}"'})

    def _recommend(self, service: Service, query: dict[str, list[str]]) -> None:
        loaded = service.loaded
        if loaded is None:
            raise HttpError(404, "no model has been promoted yet")
        item, n = query.get("item", [""])[0], query.get("n", ["5"])[0]
        if not n.isdigit() or not 1 <= int(n) <= 1000:
            raise HttpError(400, "n is a number from 1 to 1000")
        try:
            pairs = loaded.model.recommend(item, int(n))
        except KeyError:
            raise HttpError(404, f"no item {item!r} in the model served") from None
        self.answer(
            200,
            {
                "item": item,
                "version": loaded.identity.version,
                "sha256": loaded.identity.sha256,
                "items": [{"item": other, "cosine": cosine} for other, cosine in pairs],
            },
        )

    def _put(self, service: Service) -> None:
        body = self.json_body()
        match = self.headers.get("If-Match", "").strip().strip('"')
        if not match.isdigit():
            raise HttpError(428, "If-Match: GENERATION is required")
        wanted = _wanted(body)
        if wanted.name != service.name:
            raise HttpError(400, f"this service serves {service.name}, not {wanted.name}")
        key = self.headers.get("Idempotency-Key") or None
        self.answer(200, asdict(service.swap(wanted, generation=int(match), key=key)))

    def _reload(self, service: Service) -> None:
        identity = service.reload()
        if identity is None:
            raise HttpError(404, "the registry names no champion")
        self.answer(200, asdict(identity))


def _wanted(body: Any) -> ModelVersion:
    fields = ("name", "version", "uri", "sha256", "run_id")
    if not isinstance(body, dict):
        raise HttpError(400, "the body is a JSON object")
    for field in fields:
        if not isinstance(body.get(field), str) or not body[field]:
            raise HttpError(400, f"{field} must be a non-empty string")
    return ModelVersion(**{field: body[field] for field in fields})


def main() -> int:
    """Serve until SIGTERM. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m core.serving", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--model-name", default=os.environ.get("BENCH_MODEL_NAME", "recommender"))
    parser.add_argument(
        "--registry",
        choices=("mlflow", "configmap-proxy"),
        default=os.environ.get("BENCH_REGISTRY", "mlflow"),
    )
    parser.add_argument(
        "--reconcile-seconds",
        type=float,
        default=0.0,
        help="look this often for promotions left half done; 0: never (default)",
    )
    args = parser.parse_args()
    settings = Settings.from_environment()
    service = Service(args.model_name, args.registry, settings.tracking_uri)
    try:
        server = ServingServer(args.host, args.port, token_from_environment("serving"), service)
    except BenchError as error:
        fail("serving", error)
        return error.exit_code
    except OSError as error:
        fail("serving", OSError(f"cannot listen on {args.host}:{args.port}: {error.strerror}"))
        return 1
    stop = threading.Event()
    threading.Thread(target=service.keep_up, args=(args.reconcile_seconds, stop), daemon=True).start()
    server.serve_until_signalled("serving")
    stop.set()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
