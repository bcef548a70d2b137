"""How ctvae runs: the graph, the commands, the Python function.

from app import encode
for record in encode("study/", model="models/ct_vae"):
    print(record.series_instance_uid, record.taps["mu"].values)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.encode_folder import encode

__all__ = ["encode"]


def __getattr__(name: str) -> Any:
    """Import `app.encode_folder.encode` on first use: `import app` alone stays cheap for the commands."""
    if name == "encode":
        from app.encode_folder import encode

        return encode
    raise AttributeError(f"module 'app' has no attribute {name!r}")
