"""Where things lie in the image, and its environment: the table of paths of the MAP specification 1.0.0."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Final

API_VERSION: Final = "1.0.0"
APP: Final = PurePosixPath("/opt/holoscan/app")
MODELS: Final = PurePosixPath("/opt/holoscan/models")
DOCS: Final = PurePosixPath("/opt/holoscan/docs")
# Where Debian's Python looks for what is no Debian package; a link leads Docker's own Python there.
LIBRARIES: Final = PurePosixPath("/usr/local/lib/python3.11/dist-packages")
WORK: Final = PurePosixPath("/var/holoscan")
INPUT: Final = WORK / "input"
OUTPUT: Final = WORK / "output"
LOGS: Final = WORK / "logs"
CONFIG: Final = WORK / "app.yaml"
MANIFESTS: Final = PurePosixPath("/etc/holoscan")
APP_JSON: Final = MANIFESTS / "app.json"
PKG_JSON: Final = MANIFESTS / "pkg.json"
SBOM: Final = MANIFESTS / "sbom.json"
EXPORT: Final = PurePosixPath("/var/run/holoscan/export")
MONAI: Final = PurePosixPath("/etc/monai")  # a link to MANIFESTS: mercure looks there
PROCESSING_CONTAINER: Final = PurePosixPath("/processing-container.json")  # Kaapana's place

USER: Final = "1000:1000"
PROGRAM: Final = ("python3", str(APP))
COMMAND: Final = " ".join(PROGRAM)

# Grand Challenge mounts these; they do not exist in the image, so that their presence is the sign.
CHALLENGE_INPUT: Final = PurePosixPath("/input")
CHALLENGE_OUTPUT: Final = PurePosixPath("/output")

# What the specification asks for; below, what Python needs: bytecode is not written, any uid has a home.
ENVIRONMENT: Final = {
    "HOLOSCAN_APPLICATION": str(APP),
    "HOLOSCAN_INPUT_PATH": f"{INPUT}/",
    "HOLOSCAN_OUTPUT_PATH": f"{OUTPUT}/",
    "HOLOSCAN_WORKDIR": f"{WORK}/",
    "HOLOSCAN_MODEL_PATH": f"{MODELS}/",
    "HOLOSCAN_CONFIG_PATH": str(CONFIG),
    "HOLOSCAN_APP_MANIFEST_PATH": str(APP_JSON),
    "HOLOSCAN_PKG_MANIFEST_PATH": str(PKG_JSON),
    "HOLOSCAN_DOCS": str(DOCS),
    "HOLOSCAN_LOGS": str(LOGS),
}
PROCESS_ENVIRONMENT: Final = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
    "HOME": "/tmp",  # noqa: S108  any uid may write there, and nothing else
}


def below(root: Path, place: PurePosixPath) -> Path:
    """Return where a place of the image lies below a root: of the image itself, `/`, or of a folder that holds it."""
    return root / place.relative_to("/")
