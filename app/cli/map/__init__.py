"""`ctvae map`: one module per command of the group, imported only when it is called."""

from __future__ import annotations

from app.cli.lazy import LazyGroup

COMMANDS = {
    "build": "Build the image as an OCI archive, with its bill of materials.",
    "stage": "Write the folder that the image is built from.",
    "check": "Check an image without a daemon: the MAP specification, its hardening, its SBOM.",
}

group = LazyGroup(
    "map", "app.cli.map", COMMANDS, help="Build and check the container image (a MONAI Application Package)."
)
