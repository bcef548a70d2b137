"""Which extra of the package (pyproject.toml) provides a library that a command may lack."""

from __future__ import annotations

from importlib.util import find_spec

_LIBRARIES = {
    "card": ("matplotlib",),
    "explain": ("captum", "combatlearn", "pandas", "threadpoolctl", "umap"),
    "graph": ("holoscan", "holoscan_cli"),
    "map": ("cyclonedx",),
    "pacs": (
        "httpx",
        "jinja2",
        "prometheus_client",
        "psycopg",
        "pynetdicom",
        "python_multipart",
        "sqlalchemy",
        "starlette",
        "uvicorn",
    ),
    "ray": ("ray",),
    "table": ("dicomweb_client", "pyarrow", "requests"),
    "train": ("h5py", "lightning", "monai", "onnx", "onnxscript", "sklearn", "tensorboard", "torch"),
}
EXTRA_OF = {library: extra for extra, libraries in _LIBRARIES.items() for library in libraries}


def lacking(error: Exception) -> str | None:
    """Return one line that names the extra to install; None unless the error is a missing library of an extra."""
    library = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    extra = EXTRA_OF.get(library)
    if extra is None:
        return None
    return f"MISSING_EXTRA: {library} is not installed; install ctvae with the extra that provides it: ctvae[{extra}]"


def require(library: str) -> None:
    """Raise ModuleNotFoundError if a library is missing, without importing it: before work that would be lost."""
    if find_spec(library) is None:
        raise ModuleNotFoundError(f"No module named {library!r}", name=library)
