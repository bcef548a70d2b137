"""What is taken out of the installed libraries: nothing that runs imports it, as the test of the image shows."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from operators.errors import RunFailed

# Of imagecodecs, a module per codec: those that decode DICOM's transfer syntaxes, and what they load.
CODECS: Final = ("imcd", "jpeg8", "jpegls", "jpeg2k", "htj2k", "ljpeg", "jpegsof3", "shared", "shared_cython")
CODEC_LIBRARIES: Final = ("libopenjp2", "libopenjph", "libcharls", "libjpeg", "liblcms2")
# Patterns below the folder of libraries, by reason. A pattern that matches nothing is a mistake, or no longer needed.
CUT: Final[dict[str, tuple[str, ...]]] = {
    "tests, examples and their data": (
        "**/tests", "**/conftest.py", "pydicom/data/test_files", "docs",
    ),
    "what compiles or generates code": (
        "numpy/distutils", "**/*.h", "**/*.hpp", "**/*.pxd", "**/*.pyx", "**/*.a", "**/*.pyi",
        "nvidia/*/include",
    ),
    "other programs' entry points": ("bin",),
    "ONNX Runtime's tools for making models": (
        "onnxruntime/transformers", "onnxruntime/tools", "onnxruntime/quantization", "onnxruntime/datasets",
    ),
    "holoscan's operators, viewer and inference, which the graph does not use": (
        "holoscan/operators", "holoscan/pose_tree", "holoscan/data_loggers", "holoscan/lib/libholoscan_op_*",
        "holoscan/lib/libholoscan_viz*", "holoscan/lib/libholoscan_infer*", "holoscan/lib/libholoinfer*",
        "holoscan/lib/libholoscan_data_loggers*", "holoscan/lib/libholoscan_pose_tree*", "holoscan/lib/libgxf_sample*",
    ),
    "SciPy's downloads": ("scipy/datasets",),
}  # fmt: skip


def cut(libraries: Path) -> None:
    """Remove what nothing imports.

    Args:
        libraries: folder with the installed packages.

    Raises:
        RunFailed: `BUILD_FAILED`: a pattern matches nothing; the library has changed.
    """
    found = [path for patterns in CUT.values() for pattern in patterns for path in _matches(libraries, pattern)]
    for path in (*found, *_other_codecs(libraries)):
        remove(path)


def _matches(libraries: Path, pattern: str) -> list[Path]:
    found = list(libraries.glob(pattern))
    if not found:
        raise RunFailed("BUILD_FAILED", f"the cut {pattern!r} matches nothing; look what the library has instead")
    return found


def _other_codecs(libraries: Path) -> list[Path]:
    kept = {f"_{codec}.abi3.so" for codec in CODECS}
    modules = [path for path in (libraries / "imagecodecs").glob("_*.so") if path.name not in kept]
    loaded = (libraries / "imagecodecs.libs").iterdir()
    return modules + [path for path in loaded if path.name.split("-")[0] not in CODEC_LIBRARIES]


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder, if it is there: it may have gone with a folder above it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
