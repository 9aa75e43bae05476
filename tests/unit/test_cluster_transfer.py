"""Only layers that the node lacks are in the archive, and the archive names the image by its whole content."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

from cluster.transfer import write_missing

LAYERS = (b"the dependencies", b"our code", b"the dependencies")


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def saved(path: Path, *, layers: dict[str, bytes | str]) -> Path:
    """What `docker save` writes; a text instead of a content is a link to another layer's file."""
    contents = [layers[value] if isinstance(value, str) else value for value in layers.values()]
    plain = [gzip.decompress(c) if c[:2] == b"\x1f\x8b" else c for c in contents if isinstance(c, bytes)]
    config = json.dumps({"rootfs": {"diff_ids": [sha256(content) for content in plain]}}).encode()
    manifest = json.dumps([{"Config": "config.json", "Layers": list(layers)}]).encode()
    with tarfile.open(path, "w") as archive:
        for name, value in {**layers, "config.json": config, "manifest.json": manifest}.items():
            member = tarfile.TarInfo(name)
            if isinstance(value, str):
                member.type, member.linkname = tarfile.SYMTYPE, f"../{value}"
                archive.addfile(member)
            else:
                member.size = len(value)
                archive.addfile(member, io.BytesIO(value))
    return path


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]


def manifest_of(found: dict[str, bytes]) -> dict[str, Any]:
    (top,) = json.loads(found["index.json"])["manifests"]
    assert top["annotations"] == {"io.containerd.image.name": "bench.local/app:1"}
    content = found["blobs/" + top["digest"].replace(":", "/")]
    assert (sha256(content), len(content)) == (top["digest"], top["size"])
    return dict(json.loads(content))


def docker_archive(folder: Path) -> Path:
    layers: dict[str, bytes | str] = {"a/layer.tar": LAYERS[0], "b/layer.tar": LAYERS[1]}
    return saved(folder / "saved.tar", layers=layers | {"c/layer.tar": "a/layer.tar"})


def test_every_layer_goes_once_to_a_node_that_has_none(tmp_path: Path) -> None:
    target = tmp_path / "missing.tar"
    assert write_missing(docker_archive(tmp_path), "bench.local/app:1", set(), target) == len(
        LAYERS[0] + LAYERS[1]
    )
    found = members(target)
    manifest = manifest_of(found)
    assert [layer["digest"] for layer in manifest["layers"]] == [sha256(layer) for layer in LAYERS]
    assert [layer["size"] for layer in manifest["layers"]] == [len(layer) for layer in LAYERS]
    assert {name for name in found if name.startswith("blobs/")} >= {
        f"blobs/{sha256(layer).replace(':', '/')}" for layer in LAYERS
    }


def test_layers_that_the_node_has_stay_behind_and_the_name_is_the_same(tmp_path: Path) -> None:
    source = docker_archive(tmp_path)
    whole, rest = tmp_path / "whole.tar", tmp_path / "rest.tar"
    write_missing(source, "bench.local/app:1", set(), whole)
    assert write_missing(source, "bench.local/app:1", {sha256(LAYERS[0])}, rest) == len(LAYERS[1])
    assert f"blobs/{sha256(LAYERS[0]).replace(':', '/')}" not in members(rest)
    assert members(rest)["index.json"] == members(whole)["index.json"]


def test_compressed_layers_keep_their_own_digest(tmp_path: Path) -> None:
    packed = gzip.compress(LAYERS[0])
    source = saved(tmp_path / "saved.tar", layers={f"blobs/sha256/{sha256(packed)[7:]}": packed})
    target = tmp_path / "missing.tar"
    assert write_missing(source, "bench.local/app:1", set(), target) == len(packed)
    (layer,) = manifest_of(members(target))["layers"]
    assert layer == {
        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
        "digest": sha256(packed),
        "size": len(packed),
    }
