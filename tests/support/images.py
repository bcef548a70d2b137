"""Images of a few files, made as archives: a right one, and what makes it wrong."""

from __future__ import annotations

import copy
import gzip
import hashlib
import importlib.util
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

EPOCH = 1_700_000_000
CREATED = datetime.fromtimestamp(EPOCH, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
VERSION = "1.2.3"


@dataclass(frozen=True)
class File:
    content: bytes = b""
    mode: int = 0o644
    kind: bytes = tarfile.REGTYPE
    target: str = ""
    mtime: float = EPOCH
    pax: Mapping[str, str] = field(default_factory=dict)

    def member(self, name: str) -> tarfile.TarInfo:
        made = tarfile.TarInfo(name)
        made.size, made.mode, made.type, made.linkname = len(self.content), self.mode, self.kind, self.target
        made.mtime, made.pax_headers = self.mtime, dict(self.pax)
        return made


def folder(mode: int = 0o755) -> File:
    return File(mode=mode, kind=tarfile.DIRTYPE)


def link(target: str) -> File:
    return File(mode=0o777, kind=tarfile.SYMTYPE, target=target)


def document(content: Any) -> File:
    return File(json.dumps(content).encode())


@dataclass
class MadeImage:
    """Files by layer, each from path to File, and the configuration; a test changes them and writes the archive."""

    layers: list[dict[str, File]]
    config: dict[str, Any]
    created: str = CREATED
    history: list[dict[str, str]] = field(default_factory=list)

    def changed(self, path: str, content: Any) -> None:
        """Replace a JSON document of the first layer by what a function makes of it."""
        made = json.loads(self.layers[0][path].content)
        content(made)
        self.layers[0][path] = replace(self.layers[0][path], content=json.dumps(made).encode())

    def document(self, layers: Sequence[bytes]) -> dict[str, Any]:
        digests = [sha256(layer) for layer in layers]
        return {
            "architecture": "amd64",
            "os": "linux",
            "created": self.created,
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": digests},
            "history": self.history,
        }

    def write_oci(self, archive: Path) -> Path:
        plain = [tarred(layer) for layer in self.layers]
        packed = [gzip.compress(layer, 1, mtime=0) for layer in plain]
        config = json.dumps(self.document(plain)).encode()
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "config": described(config, "application/vnd.oci.image.config.v1+json"),
                "layers": [described(layer, "application/vnd.oci.image.layer.v1.tar+gzip") for layer in packed],
            }
        ).encode()
        index = {"schemaVersion": 2, "manifests": [described(manifest, "application/vnd.oci.image.manifest.v1+json")]}
        members = {f"blobs/sha256/{sha256(blob)[7:]}": File(blob) for blob in (config, manifest, *packed)}
        members |= {"oci-layout": document({"imageLayoutVersion": "1.0.0"}), "index.json": document(index)}
        archive.write_bytes(tarred(members))
        return archive

    def write_docker(self, archive: Path) -> Path:
        plain = [tarred(layer) for layer in self.layers]
        config = json.dumps(self.document(plain)).encode()
        name = f"{sha256(config)[7:]}.json"
        names = [f"{number}/layer.tar" for number in range(len(plain))]
        members = {name: File(config), **{one: File(layer) for one, layer in zip(names, plain, strict=True)}}
        members["manifest.json"] = document([{"Config": name, "RepoTags": ["ctvae:1"], "Layers": names}])
        archive.write_bytes(tarred(members))
        return archive


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def described(content: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": sha256(content), "size": len(content)}


def tarred(files: Mapping[str, File]) -> bytes:
    """A tar archive of files, in their order; folders on the way are made, but for a path that names them itself."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, file in files.items():
            archive.addfile(file.member(name), io.BytesIO(file.content))
    return buffer.getvalue()


ENVIRONMENT = {
    "HOLOSCAN_INPUT_PATH": "/var/holoscan/input",
    "HOLOSCAN_OUTPUT_PATH": "/var/holoscan/output",
    "HOLOSCAN_WORKDIR": "/var/holoscan",
    "HOLOSCAN_MODEL_PATH": "/opt/holoscan/models",
    "HOLOSCAN_CONFIG_PATH": "/var/holoscan/app.yaml",
    "HOLOSCAN_APP_MANIFEST_PATH": "/etc/holoscan/app.json",
    "HOLOSCAN_PKG_MANIFEST_PATH": "/etc/holoscan/pkg.json",
    "HOLOSCAN_DOCS": "/opt/holoscan/docs",
    "HOLOSCAN_LOGS": "/var/holoscan/logs",
}
APP = {
    "apiVersion": "1.0.0",
    "type": "application",
    "command": "python3 /opt/holoscan/app",
    "environment": ENVIRONMENT,
    "input": {"path": "/var/holoscan/input", "formats": ["file"]},
    "output": {"path": "/var/holoscan/output", "format": {"type": "file"}},
    "sdk": "monai-deploy",
    "sdkVersion": "4.0.0",
    "timeout": 0,
    "version": VERSION,
    "workingDirectory": "/var/holoscan/",
}
PACKAGE = {
    "apiVersion": "1.0.0",
    "applicationRoot": "/opt/holoscan/app/",
    "modelRoot": "/opt/holoscan/models/",
    "models": [{"name": "ct_vae", "path": "ct_vae"}],
    "resources": {"cpu": 2, "gpu": 0, "memory": "2Gi"},
    "version": VERSION,
}
KAAPANA = {
    "name": "ctvae",
    "description": "CT to features.",
    "api_version": 1,
    "templates": [
        {
            "identifier": "encode",
            "description": "Encode a series.",
            "inputs": [{"name": "ct", "mounted_path": "/var/holoscan/input"}],
            "outputs": [{"name": "features", "mounted_path": "/var/holoscan/output"}],
            "env": [{"name": "LOG", "value": "INFO"}],
        }
    ],
}
COMMAND = {
    "name": "ctvae",
    "version": VERSION,
    "schema-version": "1.0",
    "type": "docker",
    "image": "ctvae:1",
    "command-line": "python3 /opt/holoscan/app -i /input -o /output",
    "override-entrypoint": True,
    "mounts": [
        {"name": "in", "writable": False, "path": "/input"},
        {"name": "out", "writable": True, "path": "/output"},
    ],
    "inputs": [],
    "outputs": [{"name": "features", "mount": "out"}],
    "xnat": [
        {
            "name": "ctvae-scan",
            "contexts": ["xnat:imageScanData"],
            "external-inputs": [{"name": "scan", "type": "Scan"}],
            "derived-inputs": [
                {
                    "name": "dicom",
                    "type": "Resource",
                    "derived-from-wrapper-input": "scan",
                    "provides-files-for-command-mount": "in",
                }
            ],
            "output-handlers": [
                {"name": "out", "accepts-command-output": "features", "as-a-child-of": "scan", "type": "Resource"}
            ],
        }
    ],
}
PROGRAM = File(b"\x7fELF", 0o755)
WEIGHTS = b"weights"
SOURCE = b"import sys\n"


def licensed(name: str, purl: str) -> dict[str, Any]:
    licences = [{"license": {"id": "MIT"}}]
    return {"type": "library", "name": name, "version": "1.0", "purl": purl, "licenses": licences}


SBOM = {
    "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
    "bomFormat": "CycloneDX",
    "specVersion": "1.6",
    "version": 1,
    "components": [
        licensed("typing-extensions", "pkg:pypi/typing-extensions@1.0"),
        licensed("libc6", "pkg:deb/debian/libc6@1.0%2Bdeb12?arch=amd64"),
        {
            "type": "machine-learning-model",
            "name": "ct_vae",
            "version": "1.0",
            "licenses": [{"license": {"id": "Apache-2.0"}}],
            "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(WEIGHTS).hexdigest()}],
            "modelCard": {"modelParameters": {"task": "features"}},
        },
    ],
}


def right_image() -> MadeImage:
    """An image that keeps every clause, of some 40 entries."""
    compiled = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8)  # by an unchecked hash
    files = {
        **dict.fromkeys(("bin", "etc", "etc/holoscan", "opt/holoscan", "opt/holoscan/models"), folder()),
        **dict.fromkeys(("usr/lib/python3/dist-packages", "var/holoscan", "var/holoscan/input"), folder()),
        **dict.fromkeys(("var/holoscan/output", "var/holoscan/logs", "proc", "sys", "dev", "run"), folder()),
        "tmp": folder(0o1777),
        **dict.fromkeys(("bin/sh", "bin/cat", "usr/bin/python3"), PROGRAM),
        "etc/monai": link("holoscan"),
        "etc/holoscan/app.json": document(APP),
        "etc/holoscan/pkg.json": document(PACKAGE),
        "etc/holoscan/sbom.json": document(SBOM),
        "etc/holoscan/command.json": document(COMMAND),
        "processing-container.json": document(KAAPANA),
        "opt/holoscan/app/__main__.py": File(SOURCE),
        "opt/holoscan/app/__pycache__/__main__.cpython-311.pyc": File(compiled),
        "opt/holoscan/models/ct_vae/encoder.onnx": File(WEIGHTS),
        "opt/holoscan/docs/README.md": File(b"read me"),
        "opt/holoscan/docs/LICENSE": File(b"licence"),
        "var/holoscan/app.yaml": File(b"encode: {}\n"),
        "var/lib/dpkg/status": File(b"Package: libc6\nStatus: install ok installed\nVersion: 1.0+deb12\n"),
        "usr/lib/python3/dist-packages/typing_extensions-1.0.dist-info/METADATA": File(
            b"Metadata-Version: 2.1\nName: typing_extensions\nVersion: 1.0\n"
        ),
    }
    labels = {"title": "ctvae", "version": VERSION, "source": "https://example.org/ctvae", "revision": "0" * 40}
    labels |= {"licenses": "Apache-2.0", "created": CREATED, "base.name": "debian"}
    config = {
        "User": "1000:1000",
        "Env": ["PATH=/usr/bin:/bin", *(f"{name}={value}" for name, value in ENVIRONMENT.items())],
        "Entrypoint": ["/usr/bin/python3", "/opt/holoscan/app"],
        "WorkingDir": "/var/holoscan",
        "Labels": {f"org.opencontainers.image.{name}": value for name, value in labels.items()}
        | {"org.nrg.commands": json.dumps([COMMAND])},
    }
    return copy.deepcopy(MadeImage([files], config, history=[{"created": CREATED, "created_by": "COPY . /"}]))
