"""`ctvae bundle`: one module per command of the group, imported only when it is called; what they share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from app.cli.lazy import LazyGroup

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from models.spec import Preprocessing
    from operators.types import Shape

COMMANDS = {
    "show": "Show architecture, preprocessing, taps, training and certificate.",
    "check": "Check that a bundle is intact, reproduces its golden values, and has active units.",
    "run": "Run the encoder alone on windows from a file; one array per tap.",
    "export": "Write encoder and decoder as ONNX, compared with torch.",
    "certify": "Measure on your own scans what the features are worth; write it into the bundle.",
    "reference": "Write reference patients into the bundle, so that results state their reliability.",
    "import-keras": "Import a Keras encoder: .keras, .h5 or .weights.h5.",
    "import-torch": "Import a checkpoint of MONAI's AutoencoderKL or MAISI's autoencoder.",
}


group = LazyGroup(
    "bundle",
    "app.cli.bundle",
    COMMANDS,
    help="Inspect, check, certify, export or run a bundle; make one from a Keras or MONAI checkpoint.",
)


def preprocessing_of(
    window_voxels: object, spacing: str | None, window_hu: str | None, fit: str, overlap: float = 0.5
) -> Preprocessing:
    """Return the preprocessing that the options of an import define.

    Args:
        window_voxels: `z,y,x`, or three numbers.
        spacing: `z,y,x` in mm, or None.
        window_hu: `low,high`, or None.
        fit: `window` or `resize`.
        overlap: overlap of windows.

    Returns:
        The preprocessing; arrays only, if neither spacing nor window_hu is given.

    Raises:
        BundleError: the options contradict each other.
    """
    from models.spec import BundleError, Preprocessing, arrays_only

    size = voxels("--window-voxels", window_voxels)
    if spacing is None and window_hu is None:
        return arrays_only(size)
    if window_hu is None:
        raise BundleError(
            "--spacing is given and --window-hu is not; give --window-hu LOW,HIGH too, or neither for arrays alone"
        )
    low, high = numbers("--window-hu", window_hu, 2)
    if fit not in ("window", "resize"):
        raise BundleError(f"--fit is {fit!r}; expected window or resize")
    if spacing is not None and fit == "resize":
        raise BundleError("--spacing is given with --fit resize; resizing has no spacing: leave one of them out")
    if fit == "resize":
        return Preprocessing("resize", size, None, (low, high), overlap)
    if spacing is None:
        raise BundleError(
            "--window-hu is given and --spacing is not; --fit window needs --spacing: "
            "give --spacing Z,Y,X or --fit resize"
        )
    z, y, x = numbers("--spacing", spacing, 3)
    return Preprocessing("window", size, (z, y, x), (low, high), overlap)


def voxels(option: str, given: object) -> Shape:
    """Return three positive integers from `1,2,3` or a list.

    Raises:
        BundleError: it is something else.
    """
    from models.spec import BundleError

    depth, height, width = (int(value) for value in numbers(option, given, 3, whole=True))
    if min(depth, height, width) < 1:
        raise BundleError(f"{option} is {str(given)[:60]!r}; expected three positive integers")
    return depth, height, width


def numbers(option: str, given: object, count: int, *, whole: bool = False) -> list[float]:
    """Return this many numbers from `1,2,3` or a list.

    Raises:
        BundleError: it is something else.
    """
    from math import isfinite

    from models.spec import BundleError

    words = given.replace("x", ",").split(",") if isinstance(given, str) else given
    try:
        found = [float(word) for word in words] if isinstance(words, (list, tuple)) else []
    except (TypeError, ValueError):
        found = []
    good = len(found) == count and all(isfinite(value) and (not whole or value == int(value)) for value in found)
    if not good:
        example = "32,96,96" if whole else "4,4,4" if count == 3 else "-1000,1000"
        raise BundleError(f"{option} is {str(given)[:60]!r}; expected {count} numbers, such as {example}")
    return found


def saved_arrays(file: Path, arrays: Mapping[str, NDArray[np.float32]]) -> None:
    """Write NumPy's .npz, completely or not at all.

    Raises:
        StartError: `OUTPUT_UNWRITABLE`.
    """
    from io import BytesIO

    import numpy as np

    buffer = BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_whole({file: buffer.getvalue()})


def write_whole(contents: Mapping[Path, bytes]) -> None:
    """Write files, all of them completely or none; folders are created.

    Raises:
        StartError: `OUTPUT_UNWRITABLE`.
    """
    from operators.errors import SeriesFailed, StartError
    from operators.results.atomic import write_together

    try:
        for file in contents:
            file.parent.mkdir(parents=True, exist_ok=True)
        write_together(contents)
    except OSError as error:
        raise StartError("OUTPUT_UNWRITABLE", f"cannot make the output folder ({error.strerror})") from error
    except SeriesFailed as error:
        raise StartError(error.reason, error.message) from error
