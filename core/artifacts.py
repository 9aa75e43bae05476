"""Files of a run, by URI: a plain folder or an object store, through fsspec; every digest is sha256."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from core.errors import BadInput, StoreError


@dataclass(frozen=True)
class Artifact:
    """A file and what it held: `uri` is the durable address, `path` where this process reads or wrote it."""

    uri: str
    sha256: str
    size: int
    path: str


def preload(places: Iterable[str]) -> None:
    """Import now what reading or writing these places needs, so that no step's own time contains it."""
    schemes = {place.partition("://")[0] for place in places if "://" in place}
    if schemes - {"file", "local", "bookstore", "models", "http", "https"}:
        import fsspec

        for scheme in schemes:
            with contextlib.suppress(ValueError, ImportError):  # named when the file is opened
                fsspec.get_filesystem_class(scheme)


def sha256_of(content: bytes) -> str:
    """64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def join(base: str, *names: str) -> str:
    """`base` with path segments added; works for folders and URIs alike."""
    return "/".join([base.rstrip("/"), *names])


def as_uri(place: str) -> str:
    """`place` as a URI: a local path becomes an absolute file:// one."""
    if "://" in place:
        return place
    return Path(place).absolute().as_uri()


def local_path(place: str) -> Path | None:
    """The local file behind a path or a file:// URI, else None."""
    if "://" not in place:
        return Path(place)
    parts = urlsplit(place)
    if parts.scheme in ("file", "local"):
        return Path(unquote(parts.path))
    return None


def read(place: str, *, sha256: str | None = None) -> bytes:
    """The whole content at a path or URI.

    Raises:
        BadInput: if there is no such file.
        StoreError: if the store does not answer, or the content is not what `sha256` promises.
    """
    path = local_path(place)
    try:
        content = path.read_bytes() if path is not None else _remote_read(place)
    except BadInput:
        raise
    except FileNotFoundError as error:
        raise BadInput(f"there is no file at {place}", next_step="check the URI") from error
    except Exception as error:
        raise _store_error(f"cannot read {place}", error) from error
    if sha256 and sha256_of(content) != sha256:
        raise StoreError(
            f"{place} has sha256 {sha256_of(content)}, but {sha256} was promised",
            kept="the file as it is",
            next_step="run the step that wrote it again",
        )
    return content


def write(place: str, content: bytes) -> None:
    """Write the whole content; a local file appears complete and fsynced, or not at all.

    Raises:
        StoreError: if the store is full or does not answer.
    """
    path = local_path(place)
    try:
        if path is None:
            _remote_write(place, content)
        else:
            _local_write(path, content)
    except BadInput:
        raise
    except Exception as error:
        raise _store_error(f"cannot write {place}", error) from error


def exists(place: str) -> bool:
    """Whether there is a file at `place`. Raises StoreError if the store does not answer."""
    path = local_path(place)
    try:
        return path.is_file() if path is not None else _remote_exists(place)
    except BadInput:
        raise
    except Exception as error:
        raise _store_error(f"cannot look at {place}", error) from error


def list_files(folder: str) -> list[str]:
    """Names of the files directly in a folder, sorted; empty if there is no such folder.

    Raises:
        StoreError: if the store does not answer.
    """
    path = local_path(folder)
    try:
        if path is not None:
            return sorted(item.name for item in path.iterdir()) if path.is_dir() else []
        return _remote_list(folder)
    except BadInput:
        raise
    except Exception as error:
        raise _store_error(f"cannot list {folder}", error) from error


def _local_write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _filesystem(uri: str) -> tuple[Any, str]:
    """The fsspec filesystem and path of a URI. Raises BadInput for a scheme that nothing here speaks."""
    import fsspec

    options: dict[str, Any] = {}
    if uri.startswith("s3://"):
        # A store that does not answer must be noticed in seconds; S3-compatible stores vary in checksums,
        # and every file has its sha256 anyway.
        options = {
            "use_listings_cache": False,
            "config_kwargs": {
                "connect_timeout": 5,
                "read_timeout": 60,
                "retries": {"max_attempts": 3},
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
            },
        }
    try:
        filesystem, path = fsspec.core.url_to_fs(uri, **options)
    except (ValueError, ImportError) as error:
        raise BadInput(
            f"{uri}: {error}", next_step="use a path, file://, s3:// or another fsspec URI"
        ) from error
    return filesystem, path


def _remote_read(uri: str) -> bytes:
    filesystem, path = _filesystem(uri)
    content: bytes = filesystem.cat_file(path)
    return content


def _remote_write(uri: str, content: bytes) -> None:
    filesystem, path = _filesystem(uri)
    filesystem.pipe_file(path, content)


def _remote_exists(uri: str) -> bool:
    filesystem, path = _filesystem(uri)
    return bool(filesystem.isfile(path))


def _remote_list(uri: str) -> list[str]:
    filesystem, path = _filesystem(uri)
    try:
        return sorted(name.rpartition("/")[2] for name in filesystem.ls(path, detail=False, refresh=True))
    except FileNotFoundError:
        return []


def _store_error(what: str, error: Exception) -> StoreError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    where = f" (store at {endpoint})" if endpoint and "s3://" in what else ""
    return StoreError(
        f"{what}{where}: {reason or type(error).__name__}",
        kept="files written before this one",
        next_step="free space or check the store and its credentials, then start the step again",
    )
