"""What a checkpoint holds of a training, and how a training goes on from it."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torch import Tensor

from models.training.checkpoint import CheckpointError
from models.training.progress import Progress

if TYPE_CHECKING:
    from models.training.run import TrainingRun

logger = logging.getLogger(__name__)

_FREE_TO_DIFFER = ("threads", "devices", "nodes", "accelerator")


def state_of(run: TrainingRun) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, all else): with them a training goes on as if it had not stopped. What is drawn has no state."""
    tensors = {f"vae/{name}": tensor for name, tensor in run.vae.state_dict().items()}
    if run.measured is not run.vae:
        tensors |= {f"average/{name}": tensor for name, tensor in run.measured.state_dict().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in run.best.items()}
    for number, moments in run.optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser/{number}/{name}": tensor for name, tensor in moments.items()}
    return tensors, {
        **run.identity,
        "step": run.step,
        "elapsed_s": run.elapsed_s,
        "fraction": run.fraction,
        "ended": run.ended,
        "calibrated": run.calibrated,
        "best_loss": run.best_loss if run.best else None,
        "worse": run.worse,
        "history": [asdict(progress) for progress in run.watch.history],
    }


def restore(run: TrainingRun, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Go on from a checkpoint.

    Raises:
        CheckpointError: it is of another training.
    """
    _check_identity(run, state)
    try:
        run.vae.load_state_dict(_under("vae/", tensors))
        if run.measured is not run.vae:
            run.measured.load_state_dict(_under("average/", tensors))
        moments: dict[int, dict[str, Tensor]] = {}
        for key, tensor in _under("optimiser/", tensors).items():
            number, name = key.split("/")
            moments.setdefault(int(number), {})[name] = tensor
        groups = run.optimiser.state_dict()["param_groups"]
        run.optimiser.load_state_dict({"state": moments, "param_groups": groups})
        run.best = _under("best/", tensors)
        run.best_loss = math.inf if state["best_loss"] is None else float(state["best_loss"])
        run.step, run.worse, run.ended = int(state["step"]), int(state["worse"]), state["ended"]
        run.elapsed_s, run.fraction = float(state["elapsed_s"]), float(state["fraction"])
        run.calibrated = state["calibrated"]
        rows = [row | {"kl_by_dimension": tuple(row["kl_by_dimension"])} for row in state["history"]]
        run.watch.resume([Progress(**row) for row in rows])
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError("the checkpoint does not fit this network; remove it to train anew") from error


def _check_identity(run: TrainingRun, state: dict[str, Any]) -> None:
    given, mine = state.get("settings"), run.identity["settings"]
    if not isinstance(given, dict) or given.keys() != mine.keys():
        raise CheckpointError("the checkpoint has settings of another version; remove it to train anew")
    differing = [name for name in mine if given[name] != mine[name]]
    changed = [name for name in differing if name not in _FREE_TO_DIFFER]
    if changed:
        raise CheckpointError(f"the checkpoint has other settings: {', '.join(changed)}; give those or remove it")
    if state.get("data") != run.identity["data"]:
        raise CheckpointError("the checkpoint is of other windows or another start; give those or remove it")
    if differing or state.get("torch") != run.identity["torch"]:
        logger.warning("going on from a checkpoint of another machine or torch: the same, but not to the last bit")


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
