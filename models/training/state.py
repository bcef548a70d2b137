"""The state of a training in a checkpoint: training resumes from it as if it had not stopped."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from torch import Tensor

from models.training.checkpoint import CheckpointError
from models.training.progress import Progress

logger = logging.getLogger(__name__)

_FREE_TO_DIFFER = ("threads", "devices", "nodes", "accelerator")


@dataclass(frozen=True, slots=True)
class TrainingIdentity:
    """What a training starts from; a checkpoint belongs to one such identity.

    Attributes:
        settings: all of `TrainingSettings`, plain JSON values.
        data: `models.training.checkpoint.digest_of`.
        torch: version of torch.
    """

    settings: Mapping[str, Any]
    data: str
    torch: str


@dataclass(frozen=True, slots=True)
class TrainingState:
    """All that a step changes. Random draws have no state.

    Attributes:
        identity: whose state it is.
        tensors: `vae/…`, `average/…`, `best/…` by parameter, `optimiser/<number>/<moment>`, `bank/…`.
        step: of the optimiser.
        elapsed_s: of training.
        fraction: of it that is done.
        ended: whether the calibration windows ended it.
        calibrated: loss on the calibration windows when last measured.
        best_loss: the smallest of them; None before the first.
        worse: number of checks since then.
        history: the reports so far.
    """

    identity: TrainingIdentity
    tensors: Mapping[str, Tensor]
    step: int
    elapsed_s: float
    fraction: float
    ended: Literal["finished", "early"]
    calibrated: float | None
    best_loss: float | None
    worse: int
    history: tuple[Progress, ...]

    def plain(self) -> dict[str, Any]:
        """Return everything except the tensors as JSON values."""
        values = {
            field.name: getattr(self, field.name) for field in fields(self) if field.name not in ("identity", "tensors")
        }
        return {**asdict(self.identity), **values, "history": [asdict(progress) for progress in self.history]}

    def under(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose names begin with a prefix, without that prefix."""
        found = self.tensors.items()
        return {name.removeprefix(prefix): tensor for name, tensor in found if name.startswith(prefix)}


def read_state(tensors: Mapping[str, Tensor], plain: Mapping[str, Any], identity: TrainingIdentity) -> TrainingState:
    """Return the state that a checkpoint holds of this training.

    Raises:
        CheckpointError: it belongs to another training, or is incomplete.
    """
    _check_identity(plain, identity)
    try:
        rows = [row | {"kl_by_dimension": tuple(row["kl_by_dimension"])} for row in plain["history"]]
        return TrainingState(
            identity=identity,
            tensors=tensors,
            step=int(plain["step"]),
            elapsed_s=float(plain["elapsed_s"]),
            fraction=float(plain["fraction"]),
            ended=plain["ended"],
            calibrated=plain["calibrated"],
            best_loss=None if plain["best_loss"] is None else float(plain["best_loss"]),
            worse=int(plain["worse"]),
            history=tuple(Progress(**row) for row in rows),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError("the checkpoint is incomplete; remove it to train anew") from error


def _check_identity(plain: Mapping[str, Any], identity: TrainingIdentity) -> None:
    given, mine = plain.get("settings"), identity.settings
    if not isinstance(given, dict) or given.keys() != mine.keys():
        raise CheckpointError("the checkpoint has settings of another version; remove it to train anew")
    differing = [name for name in mine if given[name] != mine[name]]
    changed = [name for name in differing if name not in _FREE_TO_DIFFER]
    if changed:
        raise CheckpointError(f"the checkpoint has other settings: {', '.join(changed)}; give those or remove it")
    if plain.get("data") != identity.data:
        raise CheckpointError("the checkpoint is of other windows or another start; give those or remove it")
    if differing or plain.get("torch") != identity.torch:
        logger.warning("resuming from a checkpoint of another machine or torch: equal, but not to the last bit")
