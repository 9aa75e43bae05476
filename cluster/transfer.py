"""An image as an archive for the node's containerd, without the layers that it has already."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Set
from pathlib import Path
from typing import IO

OCI = "application/vnd.oci.image"


def write_missing(saved: Path, name: str, held: Set[str], target: Path) -> int:
    """Turn the file of `docker save` into an OCI archive at `target`, without the layers in `held` (sha256:…).

    The image gets the name `name`. Returns how many bytes of layers are in the archive.
    """
    written: dict[str, int] = {}
    with tarfile.open(saved) as source, tarfile.open(target, "w") as archive:
        entry = json.loads(_read(source, "manifest.json"))[0]
        config = _read(source, entry["Config"])
        layers = []
        for path, content in zip(entry["Layers"], json.loads(config)["rootfs"]["diff_ids"], strict=True):
            stream = _open(source, path)
            size = stream.seek(0, io.SEEK_END)
            stream.seek(0)
            # Docker's own store saves layers as they are, named by nothing; its containerd store by their digest.
            digest = f"sha256:{Path(path).name}" if path.startswith("blobs/") else content
            kind = f"{OCI}.layer.v1.tar" + ("" if digest == content else "+gzip")
            layers.append({"mediaType": kind, "digest": digest, "size": size})
            if digest not in held and digest not in written:
                _add(archive, _blob(digest), stream, size)
                written[digest] = size
        described = {"mediaType": f"{OCI}.config.v1+json", **_add_bytes(archive, config)}
        manifest = {"schemaVersion": 2, "mediaType": f"{OCI}.manifest.v1+json", "config": described}
        top = _add_bytes(archive, json.dumps(manifest | {"layers": layers}, sort_keys=True).encode())
        annotations = {"io.containerd.image.name": name}
        index = {"mediaType": f"{OCI}.manifest.v1+json", "annotations": annotations, **top}
        for file, value in (
            ("oci-layout", {"imageLayoutVersion": "1.0.0"}),
            ("index.json", {"schemaVersion": 2, "manifests": [index]}),
        ):
            text = json.dumps(value, sort_keys=True).encode()
            _add(archive, file, io.BytesIO(text), len(text))
    return sum(written.values())


def _open(source: tarfile.TarFile, path: str) -> IO[bytes]:
    stream = source.extractfile(path)
    if stream is None:
        raise OSError(f"`docker save` left no file {path}")
    return stream


def _read(source: tarfile.TarFile, path: str) -> bytes:
    with _open(source, path) as stream:
        return stream.read()


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _add(archive: tarfile.TarFile, path: str, stream: IO[bytes], size: int) -> None:
    member = tarfile.TarInfo(path)
    member.size = size
    archive.addfile(member, stream)


def _add_bytes(archive: tarfile.TarFile, content: bytes) -> dict[str, str | int]:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    _add(archive, _blob(digest), io.BytesIO(content), len(content))
    return {"digest": digest, "size": len(content)}
