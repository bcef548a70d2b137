"""`ctvae map`: one module per command of the group, imported only when it is called."""

from __future__ import annotations

from app.cli.lazy import LazyGroup

COMMANDS = {
    "stage": "Write the folder that the image is built from.",
}

group = LazyGroup("map", "app.cli.map", COMMANDS, help="Build the container image (a MONAI Application Package).")
