"""What the environment and the mounted folders say of a batch run: where to read, where to write, who called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from app.packaging.layout import CHALLENGE_INPUT, CHALLENGE_OUTPUT, INPUT, OUTPUT, below
from operators.errors import StartError

Convention = Literal["map", "mercure", "kaapana", "monai", "challenge"]

# The pair of variables by which each caller names its folders, in the order in which they are looked for: mercure sets
# those of all three, and each image has the last.
VARIABLES: Final[tuple[tuple[Convention, str, str], ...]] = (
    ("mercure", "MERCURE_IN_DIR", "MERCURE_OUT_DIR"),
    ("kaapana", "OPERATOR_IN_DIR", "OPERATOR_OUT_DIR"),
    ("monai", "MONAI_INPUTPATH", "MONAI_OUTPUTPATH"),
)
MODELS: Final = "MONAI_MODELPATH"


@dataclass(frozen=True, slots=True)
class Folders:
    """Where a run reads and writes.

    Attributes:
        convention: whose way of calling it is.
        source: folder with the input.
        target: folder for the results.
    """

    convention: Convention
    source: Path
    target: Path


def folders(environment: Mapping[str, str], root: Path = Path("/")) -> Folders:
    """Return where a run reads and writes that was called without -i and -o.

    Args:
        environment: of the process.
        root: of the file system, for the folders that are looked for.

    Raises:
        StartError: `SETTINGS_INVALID`: one variable of a pair, or a relative path.
    """
    for convention, source, target in VARIABLES:
        given = [name for name in (source, target) if environment.get(name)]
        if given:
            if len(given) == 1:
                missing = target if given == [source] else source
                raise StartError("SETTINGS_INVALID", f"{given[0]} is set and {missing} is not; set both or neither")
            return Folders(convention, _absolute(environment, source), _absolute(environment, target))
    named = environment.get("HOLOSCAN_INPUT_PATH"), environment.get("HOLOSCAN_OUTPUT_PATH")
    default = Path(named[0] or INPUT), Path(named[1] or OUTPUT)
    if default[0] == Path(INPUT) and _empty(below(root, INPUT)) and below(root, CHALLENGE_INPUT).is_dir():
        return Folders("challenge", Path(CHALLENGE_INPUT), Path(CHALLENGE_OUTPUT))
    return Folders("map", *default)


def _absolute(environment: Mapping[str, str], name: str) -> Path:
    path = Path(environment[name])
    if not path.is_absolute():
        raise StartError("SETTINGS_INVALID", f"{name} is {str(path)!r}; expected an absolute path")
    return path


def _empty(folder: Path) -> bool:
    return not folder.is_dir() or next(folder.iterdir(), None) is None
