"""The model registry: MLflow (SQLite file or server), or a labelled ConfigMap proxy of one.

Both keep the same record: versions with tags, and one alias, `champion`, for the promoted version.
"""

from __future__ import annotations

import contextlib
import json
import os
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from core.errors import RegistryError
from core.http import client

CHAMPION = "champion"
TAG_RUN = "bench.run_id"
TAG_INDEX = "bench.index"
TAG_ATTEMPT = "bench.attempt_token"
TAG_SHA = "bench.sha256"
TAG_PROMOTED = "bench.promoted"
TAG_INTENT = "bench.promote_intent"
TAG_LABEL = "bench.registry"


@dataclass(frozen=True)
class ModelVersion:
    """One registered model: `uri` and `sha256` of its file, and its tags."""

    name: str
    version: str
    uri: str
    sha256: str
    run_id: str
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Registration:
    """What `register` writes down: the durable lineage record of one model."""

    name: str
    uri: str
    sha256: str
    run_id: str
    index: int | None
    attempt_token: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]


class Registry(Protocol):
    """What the steps and the serving service need of a registry. Every call raises RegistryError."""

    uri: str

    def register(self, record: Registration) -> ModelVersion:
        """The version of this (run id, index), made if there is none yet."""
        ...

    def get(self, name: str, version: str) -> ModelVersion:
        """One version."""
        ...

    def tagged(self, name: str, key: str, value: str | None = None) -> list[ModelVersion]:
        """The versions with this tag (and value, if given), oldest first."""
        ...

    def champion(self, name: str) -> ModelVersion | None:
        """The version the alias names, if any."""
        ...

    def set_champion(self, name: str, version: str) -> None:
        """Point the alias at a version."""
        ...

    def set_tags(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """Add or replace tags of a version."""
        ...

    def delete_tag(self, name: str, version: str, key: str) -> None:
        """Remove a tag; nothing happens if it is not there."""
        ...


def find(registry: Registry, name: str, run_id: str, index: int | None) -> ModelVersion | None:
    """The first version this (run id, index) registered, if any."""
    wanted = (run_id, _index_text(index))
    for version in registry.tagged(name, TAG_RUN, run_id):
        if (version.tags.get(TAG_RUN), version.tags.get(TAG_INDEX)) == wanted:
            return version
    return None


def open_registry(kind: str, tracking_uri: str) -> Registry:
    """`mlflow` at its tracking URI, or `configmap-proxy` in the pod's namespace.

    Raises:
        RegistryError: if it cannot be opened.
    """
    if kind == "configmap-proxy":
        return ConfigMapProxy.in_cluster()
    return MlflowRegistry(tracking_uri)


def preload(kind: str) -> None:
    """Import now what the registry needs, so that no step's own time contains it."""
    if kind == "mlflow":
        import tenacity  # noqa: F401
    else:
        import httpx  # noqa: F401


class MlflowRegistry:
    """MLflow's registry and tracking store, through mlflow-skinny's client."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
        with self._named():
            if uri.startswith("sqlite:///"):
                Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
            from mlflow.tracking import MlflowClient

            with _one_migration_at_a_time(uri):
                self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
                if uri.startswith("sqlite:"):
                    self._client.search_registered_models(max_results=1)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except RegistryError:
            raise
        except Exception as error:
            raise RegistryError(
                f"registry {self.uri}: {_first_line(error)}",
                kept="what the ledger has recorded; the step can be started again",
                next_step="check that the registry at MLFLOW_TRACKING_URI answers",
            ) from error

    def register(self, record: Registration) -> ModelVersion:
        """See Registry. The MLflow run holds parameters, metrics and tags, and outlives pods."""
        with self._named():
            self._ensure_model(record.name)
            known = find(self, record.name, record.run_id, record.index)
            if known is not None:
                return known
            run_id = self._log_run(record)
            self._log_dataset(run_id, record)
            made = self._client.create_model_version(
                record.name, source=record.uri, run_id=run_id, tags=_version_tags(record, "mlflow")
            )
            self._client.set_terminated(run_id, "FINISHED")
            first = find(self, record.name, record.run_id, record.index)
            return first if first is not None else self._convert(made)

    def _ensure_model(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _log_run(self, record: Registration) -> str:
        from mlflow.entities import Metric, Param, RunTag

        experiment = self._experiment(record.name)
        name = record.run_id if record.index is None else f"{record.run_id}-{record.index}"
        run = self._client.create_run(experiment, run_name=name)
        run_id: str = run.info.run_id
        now = int(run.info.start_time)
        self._client.log_batch(
            run_id,
            metrics=[Metric(key, value, now, 0) for key, value in sorted(record.metrics.items())],
            params=[Param(key, value) for key, value in sorted(record.params.items())],
            tags=[RunTag(key, value) for key, value in sorted(_version_tags(record, "mlflow").items())],
        )
        return run_id

    def _log_dataset(self, run_id: str, record: Registration) -> None:
        from mlflow.entities import Dataset, DatasetInput

        sha256, uri = record.tags.get("bench.dataset_sha256", ""), record.tags.get("bench.dataset_uri", "")
        if not sha256 or not uri:
            return
        source = json.dumps({"uri": uri, "sha256": sha256})
        digest = sha256[:36]  # MLflow keeps 36 characters; the whole digest stands in source and tags
        dataset = Dataset(name="ratings", digest=digest, source_type="uri", source=source)
        self._client.log_inputs(run_id, [DatasetInput(dataset, [])])

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        known = self._client.get_experiment_by_name(name)
        if known is None:
            try:
                return str(self._client.create_experiment(name))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                known = self._client.get_experiment_by_name(name)
        return str(known.experiment_id)

    def _convert(self, version: Any) -> ModelVersion:
        tags = dict(version.tags)
        return ModelVersion(
            name=version.name,
            version=str(version.version),
            uri=version.source,
            sha256=tags.get(TAG_SHA, ""),
            run_id=tags.get(TAG_RUN, ""),
            tags=tags,
        )

    def get(self, name: str, version: str) -> ModelVersion:
        """See Registry."""
        with self._named():
            return self._convert(self._client.get_model_version(name, version))

    def tagged(self, name: str, key: str, value: str | None = None) -> list[ModelVersion]:
        """See Registry. The server filters: the cost does not grow with the number of versions."""
        condition = f"tags.`{key}` LIKE '%'" if value is None else f"tags.`{key}` = '{value}'"
        with self._named():
            found: list[ModelVersion] = []
            token = None
            while True:
                page = self._client.search_model_versions(
                    f"name='{name}' AND {condition}", 100, page_token=token
                )
                found.extend(self._convert(version) for version in page)
                token = page.token
                if not token:
                    return sorted(found, key=lambda version: int(version.version))

    def champion(self, name: str) -> ModelVersion | None:
        """See Registry."""
        from mlflow.exceptions import MlflowException

        with self._named():
            try:
                return self._convert(self._client.get_model_version_by_alias(name, CHAMPION))
            except MlflowException as error:
                # the first for a missing model, the second for a missing alias
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise

    def set_champion(self, name: str, version: str) -> None:
        """See Registry."""
        with self._named():
            _unless_beaten(lambda: self._client.set_registered_model_alias(name, CHAMPION, version))

    def set_tags(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """See Registry."""
        with self._named():
            for item in tags.items():
                _unless_beaten(partial(self._client.set_model_version_tag, name, version, *item))

    def delete_tag(self, name: str, version: str, key: str) -> None:
        """See Registry."""
        with self._named():
            if key in self.get(name, version).tags:
                self._client.delete_model_version_tag(name, version, key)


def _unless_beaten(write: Callable[[], object]) -> None:
    """Do an idempotent write, again if another writer made the same row in between.

    MLflow's SQL store looks for the row of a tag or alias and inserts it if there is none; when two do so at
    once, the database refuses the second ("UNIQUE constraint failed" of SQLite, "violates unique constraint"
    of PostgreSQL). The row is there now, so that the same write finds it.
    """
    import tenacity

    for attempt in tenacity.Retrying(
        retry=tenacity.retry_if_exception_message(match=r"(?is).*unique constraint"),
        stop=tenacity.stop_after_attempt(5),
        reraise=True,
    ):
        with attempt:
            write()


class ConfigMapProxy:
    """PROXY, not a registry: the record as JSON in one ConfigMap, compare-and-swapped by resourceVersion.

    It stands where a team has no model registry and stamps a ConfigMap instead. No access control per
    model, no search, 1 MiB in all.
    """

    CONFIG_MAP = "model-registry-proxy"

    def __init__(self, server: str, namespace: str, token: str, verify: ssl.SSLContext | bool) -> None:
        self._path = f"/api/v1/namespaces/{namespace}/configmaps"
        self.uri = f"{server}{self._path}/{self.CONFIG_MAP}"
        self._http = client(server, headers={"Authorization": f"Bearer {token}"}, verify=verify, timeout=10.0)

    @classmethod
    def in_cluster(cls) -> ConfigMapProxy:
        """With the mounted service-account token. Raises RegistryError outside a pod."""
        mount = Path(
            os.environ.get("BENCH_SERVICEACCOUNT_DIR", "/var/run/secrets/kubernetes.io/serviceaccount")
        )
        try:
            token = (mount / "token").read_text(encoding="utf-8").strip()
            namespace = (mount / "namespace").read_text(encoding="utf-8").strip()
            verify = ssl.create_default_context(cafile=str(mount / "ca.crt"))
            host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
        except (OSError, KeyError) as error:
            raise RegistryError(
                f"registry configmap-proxy: no service account here ({error})",
                next_step="run in a pod whose ServiceAccount may get, create and update ConfigMaps",
            ) from error
        return cls(f"https://{host}:{port}", namespace, token, verify)

    def _load(self) -> tuple[dict[str, Any], str | None]:
        response = self._call("GET", f"{self._path}/{self.CONFIG_MAP}")
        if response is None:
            return {"label": "PROXY", "models": {}}, None
        content = json.loads(response.get("data", {}).get("record", '{"label": "PROXY", "models": {}}'))
        return content, response["metadata"]["resourceVersion"]

    def _call(self, method: str, path: str, body: object = None) -> dict[str, Any] | None:
        """The JSON answer, or None for 404 and 409 (nobody there; somebody was faster)."""
        import httpx

        try:
            response = self._http.request(method, path, json=body)
        except httpx.TransportError as error:
            raise RegistryError(f"registry {self.uri} is unreachable: {error}") from error
        if response.status_code in (404, 409):
            return None
        if response.is_error:
            raise RegistryError(f"registry {self.uri}: {response.status_code} {response.text[:200]}")
        answer: dict[str, Any] = response.json()
        return answer

    def _change(self, name: str, change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Apply `change` to a model's record; on a lost race read again and apply it again."""
        for _ in range(20):
            record, resource_version = self._load()
            model = record["models"].setdefault(name, {"versions": {}, "champion": None})
            change(model)
            metadata: dict[str, Any] = {"name": self.CONFIG_MAP, "labels": {"bench/proxy": "true"}}
            if resource_version is not None:
                metadata["resourceVersion"] = resource_version
            body = {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": metadata,
                "data": {"record": json.dumps(record, sort_keys=True)},
            }
            path = self._path if resource_version is None else f"{self._path}/{self.CONFIG_MAP}"
            if self._call("POST" if resource_version is None else "PUT", path, body) is not None:
                result: dict[str, Any] = model
                return result
        raise RegistryError(f"registry {self.uri}: twenty writers in a row were faster")

    def register(self, record: Registration) -> ModelVersion:
        """See Registry."""

        def add(model: dict[str, Any]) -> None:
            for known in model["versions"].values():
                if (known["tags"][TAG_RUN], known["tags"][TAG_INDEX]) == wanted:
                    return
            model["versions"][str(len(model["versions"]) + 1)] = {
                "uri": record.uri,
                "sha256": record.sha256,
                "params": dict(record.params),
                "metrics": dict(record.metrics),
                "tags": _version_tags(record, "configmap-proxy (PROXY)"),
            }

        wanted = (record.run_id, _index_text(record.index))
        self._change(record.name, add)
        made = find(self, record.name, record.run_id, record.index)
        if made is None:
            raise RegistryError(f"registry {self.uri}: the version just written is gone")
        return made

    def get(self, name: str, version: str) -> ModelVersion:
        """See Registry."""
        for known in self._versions(name):
            if known.version == version:
                return known
        raise RegistryError(f"registry {self.uri}: {name} has no version {version}")

    def tagged(self, name: str, key: str, value: str | None = None) -> list[ModelVersion]:
        """See Registry."""
        found = [version for version in self._versions(name) if key in version.tags]
        return [version for version in found if value is None or version.tags[key] == value]

    def _versions(self, name: str) -> list[ModelVersion]:
        model = self._load()[0]["models"].get(name, {"versions": {}})
        return [
            ModelVersion(name, number, item["uri"], item["sha256"], item["tags"][TAG_RUN], item["tags"])
            for number, item in sorted(model["versions"].items(), key=lambda pair: int(pair[0]))
        ]

    def champion(self, name: str) -> ModelVersion | None:
        """See Registry."""
        version = self._load()[0]["models"].get(name, {}).get("champion")
        return None if version is None else self.get(name, version)

    def set_champion(self, name: str, version: str) -> None:
        """See Registry."""
        self._change(name, lambda model: model.update(champion=version))

    def set_tags(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """See Registry."""
        self._change(name, lambda model: model["versions"][version]["tags"].update(tags))

    def delete_tag(self, name: str, version: str, key: str) -> None:
        """See Registry."""
        self._change(name, lambda model: model["versions"][version]["tags"].pop(key, None))


def _version_tags(record: Registration, label: str) -> dict[str, str]:
    return {
        **record.tags,
        TAG_RUN: record.run_id,
        TAG_INDEX: _index_text(record.index),
        TAG_ATTEMPT: record.attempt_token,
        TAG_SHA: record.sha256,
        TAG_LABEL: label,
    }


def _index_text(index: int | None) -> str:
    return "" if index is None else str(index)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]


@contextlib.contextmanager
def _one_migration_at_a_time(uri: str) -> Iterator[None]:
    """MLflow creates its SQLite tables on first use and breaks if two processes do so at once."""
    if not uri.startswith("sqlite:///"):
        yield
        return
    import fcntl

    path = Path(uri.removeprefix("sqlite:///"))
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
