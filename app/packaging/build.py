"""Build the image: context, base, builder, archive. The same commit on the same base gives the same digest."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from app.packaging.check.image import open_image
from app.packaging.cut import cut
from app.packaging.layout import ENVIRONMENT, PROCESS_ENVIRONMENT, SBOM
from app.packaging.libraries import Variant, install, lock_of
from app.packaging.manifests import labels
from app.packaging.programs import find, run
from app.packaging.sbom import model_components
from app.packaging.stage import BUNDLES, ROOT, Revision, revision, stage
from models.bundle.store import load_bundle
from operators import __version__
from operators.errors import RunFailed
from operators.uids import file_sha256

HERE: Final = Path(__file__).parent
WORK: Final = ROOT / "build" / "map"


@dataclass(frozen=True, slots=True)
class Built:
    """An image as it was built.

    Attributes:
        archive: OCI archive.
        bill: its bill of materials, the same as inside.
        digest: of the manifest.
        unpacked_bytes: of its layers.
        compressed_bytes: of its layers.
    """

    archive: Path
    bill: Path
    digest: str
    unpacked_bytes: int
    compressed_bytes: int


def build(variant: Variant, base: str, output: Path, image: str = "") -> Built:
    """Build the image of a variant.

    Args:
        variant: which lock of libraries.
        base: an image's name, or the path of a root file system as a .tar.
        output: folder for the archive.
        image: name with tag under which the image will be known; ctvae:VERSION by default.

    Raises:
        StartError: `NO_CHECKOUT` or `NO_PROGRAM`.
        RunFailed: `BUILD_FAILED`.
    """
    name, commit = image or f"ctvae:{__version__}", revision()
    context = prepare(variant, base, name, commit)
    output.mkdir(parents=True, exist_ok=True)
    archive = (output / f"ctvae-{variant}.oci.tar").resolve()
    archive.unlink(missing_ok=True)
    if docker_daemon():
        _with_docker(context, base, name, commit, archive)
    else:
        _with_buildah(context, base, name, commit, archive)
    return described(archive, output / f"ctvae-{variant}.sbom.json")


def prepare(variant: Variant, base: str, image: str, commit: Revision) -> Path:
    """Return the folder that the Containerfile builds from: staged application, libraries, Containerfile.

    Raises:
        StartError: `NO_CHECKOUT`.
        RunFailed: `BUILD_FAILED`.
    """
    context = WORK / "context"
    shutil.rmtree(context, ignore_errors=True)
    stage(context, image)
    shutil.copytree(libraries(variant), context / "lib", symlinks=True, copy_function=os.link)
    models = [one for name in BUNDLES for one in _models(name)]
    (context / "components.json").write_text(json.dumps(models), encoding="utf-8")
    created = datetime.fromtimestamp(commit.epoch, UTC).isoformat()
    named = labels(image, commit.source, commit.commit, created, Path(base).name if base.endswith(".tar") else base)
    lines = [containerfile_line("ENV", ENVIRONMENT | PROCESS_ENVIRONMENT), containerfile_line("LABEL", named)]
    text = (HERE / "Containerfile").read_text(encoding="utf-8")
    (context / "Containerfile").write_text(text + "".join(lines), encoding="utf-8")
    return context


def libraries(variant: Variant) -> Path:
    """Return the folder with a variant's libraries, cut; it is kept until its lock or the cut changes."""
    lock = lock_of(variant)
    key = sha256(lock.read_bytes() + (HERE / "cut.py").read_bytes() + (HERE / "libraries.py").read_bytes())
    kept = WORK / f"lib-{variant}-{key.hexdigest()[:12]}"
    if not kept.is_dir():
        unfinished = WORK / f"lib-{variant}"
        shutil.rmtree(unfinished, ignore_errors=True)
        install(lock, unfinished)
        cut(unfinished)
        unfinished.rename(kept)
    return kept


def docker_daemon() -> bool:
    """Return whether a Docker daemon answers."""
    program = shutil.which("docker")
    if program is None:
        return False
    return subprocess.run([program, "version"], capture_output=True, timeout=60).returncode == 0  # noqa: S603


def _with_buildah(context: Path, base: str, image: str, commit: Revision, archive: Path) -> None:
    buildah = find("buildah", package="buildah")
    if base.endswith(".tar"):
        base = _imported(buildah, Path(base))
    plain = ["--isolation", "chroot", "--layers=false", "--format", "oci", "--identity-label=false"]
    run([
        buildah, "bud", *plain, "--timestamp", str(commit.epoch), "--build-arg", f"BASE={base}", "--tag", image,
        "--file", str(context / "Containerfile"), str(context),
    ])  # fmt: skip
    run([buildah, "push", image, f"oci-archive:{archive}:{image}"])


def _imported(buildah: str, base: Path) -> str:
    """Return the name of a base that was a .tar; it is imported once."""
    name = f"localhost/ctvae-base:{file_sha256(base)[:12]}"
    known = run([buildah, "images", "--format", "{{.Name}}:{{.Tag}}"]).split()
    if name not in known:
        recipe = WORK / "base.Containerfile"
        recipe.write_text(f"FROM scratch\nADD {base.name} /\n", encoding="utf-8")
        plain = ["--isolation", "chroot", "--layers=false", "--timestamp", "0"]
        run([buildah, "bud", *plain, "--tag", name, "--file", str(recipe), str(base.resolve().parent)])
    return name


def _with_docker(context: Path, base: str, image: str, commit: Revision, archive: Path) -> None:
    docker = find("docker", package="docker.io")
    if base.endswith(".tar"):
        name = f"ctvae-base:{file_sha256(Path(base))[:12]}"
        run([docker, "import", base, name])
        base = name
    run([
        docker, "buildx", "build", "--provenance=false", "--sbom=false", "--network", "none",
        "--build-arg", f"BASE={base}", "--build-arg", f"SOURCE_DATE_EPOCH={commit.epoch}", "--tag", image,
        "--output", f"type=oci,dest={archive},rewrite-timestamp=true", str(context), "--file",
        str(context / "Containerfile"),
    ])  # fmt: skip


def described(archive: Path, bill: Path) -> Built:
    """Read what was built: digest, sizes, and the bill of materials, which is copied out of it.

    Args:
        archive: OCI archive.
        bill: file for the copy.

    Raises:
        StartError: `BAD_IMAGE`: the archive is damaged.
        RunFailed: `BUILD_FAILED`: it is not an OCI archive.
    """
    with open_image(archive) as image:
        if image.contents.digest is None:
            raise RunFailed("BUILD_FAILED", f"{archive.name} is not an OCI archive")
        bill.write_bytes(image.read(str(SBOM)))
        return Built(archive, bill, image.contents.digest, image.layer_bytes, image.packed_bytes)


def _models(name: str) -> list[dict[str, Any]]:
    folder = ROOT / "models" / name
    return model_components(folder, load_bundle(folder).version)


def containerfile_line(instruction: str, values: Mapping[str, str]) -> str:
    """Return an instruction of a Containerfile, with every value quoted."""
    quoted = [f"{name}={json.dumps(value).replace('$', chr(92) + '$')}" for name, value in sorted(values.items())]
    return f"{instruction} " + " \\\n    ".join(quoted) + "\n"
