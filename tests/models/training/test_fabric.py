"""A training that was killed goes on exactly; two processes are one; a checkpoint is trusted in nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from models.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from models.training.settings import TrainingSettings
from models.training.train import TrainingInterrupted, train
from tests.support.bundles import SMALL_CT_VAE
from tests.support.checkout import ROOT
from tests.support.clocks import Clock

STEPS = 24
SETTINGS = TrainingSettings(
    "ct_vae",
    SMALL_CT_VAE,
    steps=STEPS,
    batch=8,
    bank=24,
    trunk_until=0.5,
    threads=1,
    accelerator="cpu",
    ema=0.9,
    patience=40,
    invariance=0.1,
    invariance_scale="whitened",
    aggregate=0.02,
    blur=0.5,
    kl_warmup=0.05,
)
PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np
from safetensors.torch import save_file
from models.training.settings import TrainingSettings
from models.training.train import train

windows, trainings, checkpoint, hold_at = sys.argv[1:5]
def report(progress):
    print(progress.step, flush=True)
    if progress.step == int(hold_at):
        sys.stdin.read()
def main():
    scans = [np.load(windows)]
    places = {"checkpoint": Path(checkpoint)} if checkpoint else {}
    for out, settings in json.loads(trainings).items():
        trained = train(scans, TrainingSettings(**settings), report, report_every_s=0.0,
                        calibration=[scans[0][:3, :8, :16, :16]], checkpoint_every_s=0.0, **places)
        if trained.rank == 0:
            save_file({name: tensor.contiguous() for name, tensor in trained.vae.state_dict().items()}, out)
if __name__ == "__main__":
    main()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("fabric")
    (place / "program.py").write_text(PROGRAM)
    np.save(place / "windows.npy", np.random.default_rng(0).random((10, 10, 18, 18)).astype(np.float16))
    return place


def windows(folder: Path) -> np.ndarray:
    return np.load(folder / "windows.npy")


def start(
    folder: Path, trainings: dict[str, TrainingSettings], checkpoint: str = "", hold_at: int = 0
) -> subprocess.Popen:
    """A process that trains by one settings after the other, and stays at a step; weights go to the files named."""
    given = json.dumps({name: asdict(settings) for name, settings in trainings.items()})
    command = [sys.executable, str(folder / "program.py"), str(folder / "windows.npy"), given, checkpoint, str(hold_at)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, text=True, cwd=folder, **pipes)


def train_here(folder: Path, settings: TrainingSettings, checkpoint: Path | None = None, **more):
    here = windows(folder)
    return train([here], settings, calibration=[here[:3, :8, :16, :16]], checkpoint=checkpoint, **more)


def weights_of(trained) -> dict[str, torch.Tensor]:
    return trained.vae.state_dict()


@pytest.fixture(scope="module")
def whole(folder):
    """The training that nothing interrupted."""
    return train_here(folder, SETTINGS)


def test_a_killed_training_goes_on_to_the_same_weights_bit_for_bit(folder, whole):
    checkpoint = folder / "killed.checkpoint"
    with start(folder, {"never": SETTINGS}, str(checkpoint), hold_at=10) as process:
        assert "10\n" in process.stdout
        process.kill()
    assert load_checkpoint(checkpoint)[1]["step"] == 9
    resumed = train_here(folder, SETTINGS, checkpoint)
    assert resumed.steps == whole.steps == STEPS
    assert all(torch.equal(tensor, weights_of(whole)[name]) for name, tensor in weights_of(resumed).items())
    assert [progress.step for progress in resumed.history][:9] == list(range(1, 10))
    assert resumed.elapsed_s > resumed.history[8].elapsed_s


def test_a_terminated_training_says_where_it_stands_and_goes_on_to_the_same_weights(folder, whole):
    checkpoint = folder / "terminated.checkpoint"

    def terminate(progress):
        if progress.step == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TrainingInterrupted, match="interrupted after step 8; start again with its checkpoint"):
        train_here(folder, SETTINGS, checkpoint, report=terminate, report_every_s=0.0)
    assert signal.getsignal(signal.SIGTERM) is handler
    tensors, state = load_checkpoint(checkpoint)
    assert state["step"] == 8
    assert {"vae/mu.weight", "average/mu.weight"} <= tensors.keys()
    assert any(name.startswith("optimiser/") and name.endswith("/exp_avg") for name in tensors)
    resumed = train_here(folder, SETTINGS, checkpoint)
    assert all(torch.equal(tensor, weights_of(whole)[name]) for name, tensor in weights_of(resumed).items())


def test_ctrl_c_is_heard_too_and_without_a_checkpoint_it_says_so(folder):
    def interrupt(progress):
        if progress.step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(TrainingInterrupted, match="after step 2; it kept no checkpoint"):
        train_here(folder, SETTINGS, report=interrupt, report_every_s=0.0)


def test_a_training_by_the_clock_counts_the_time_before_it_was_interrupted(folder, tmp_path, monkeypatch):
    checkpoint = tmp_path / "timed.checkpoint"
    timed = replace(SETTINGS, steps=None, minutes=0.5, bank=0, trunk_until=1.0)
    monkeypatch.setattr("models.training.train.time", Clock(step_s=1.0))  # a second per step

    def stop(progress):
        if progress.step == 10:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TrainingInterrupted, match="after step 11;"):
        train_here(folder, timed, checkpoint, report=stop, report_every_s=0.0)
    assert load_checkpoint(checkpoint)[1]["elapsed_s"] == 11
    monkeypatch.setattr("models.training.train.time", Clock(now=1000.0, step_s=1.0))  # as after a pause
    resumed = train_here(folder, timed, checkpoint, report_every_s=0.0)
    assert [progress.elapsed_s for progress in resumed.history] == list(range(1, 31))
    assert (resumed.steps, resumed.elapsed_s) == (30, 30)


def test_a_finished_checkpoint_gives_its_network_at_once_and_holds_nothing_else(folder):
    checkpoint = folder / "finished.checkpoint"
    trained = train_here(folder, replace(SETTINGS, steps=4), checkpoint)
    assert {name.partition("/")[0] for name in load_checkpoint(checkpoint)[0]} == {"vae", "average", "best"}
    again = train_here(folder, replace(SETTINGS, steps=4), checkpoint)
    assert again.steps == 4
    assert all(torch.equal(tensor, weights_of(trained)[name]) for name, tensor in weights_of(again).items())


PLAIN = replace(SETTINGS, steps=6, patience=0, ema=0.0, free_bits_nats=0.01)
SPLIT = {
    "plain": PLAIN,
    "penalty and features, two passes a step": replace(
        PLAIN, penalty="beta_tc", penalty_weight=2.0, feature_weight=0.2, feature_block=4, accumulate=2
    ),
}


@pytest.fixture(scope="module")
def by_two(folder) -> dict[str, Path]:
    """Weights that two processes trained; starting them takes longer than the trainings."""
    files = {name: folder / f"two{number}.safetensors" for number, name in enumerate(SPLIT)}
    asked = {str(files[name]): replace(settings, devices=2) for name, settings in SPLIT.items()}
    with start(folder, asked) as process:
        said, _ = process.communicate(timeout=240)
    assert process.returncode == 0
    assert said.split() == 2 * [str(step) for step in range(1, 7)]  # rank 0 alone reports
    return files


@pytest.mark.parametrize("kind", SPLIT)
def test_two_processes_are_one(folder, by_two, kind):
    one, two = weights_of(train_here(folder, SPLIT[kind])), load_file(by_two[kind])
    untrained = weights_of(train_here(folder, replace(SPLIT[kind], steps=1, learning_rate=1e-8)))
    moved = sum(float((one[name] - untrained[name]).square().sum()) for name in one)
    apart = sum(float((one[name] - two[name]).square().sum()) for name in one)
    assert apart < 3e-5 * moved


@pytest.fixture(scope="module")
def kept(folder) -> Path:
    checkpoint = folder / "kept.checkpoint"
    train_here(folder, replace(SETTINGS, steps=3), checkpoint)
    return checkpoint


def test_a_checkpoint_is_safetensors_with_json_in_its_header(kept):
    with safe_open(kept, framework="np") as file:
        state = json.loads(file.metadata()["ctvae_training"])
        assert {"vae/mu.weight", "average/mu.weight", "best/mu.weight"} <= set(file.keys())
    assert state["step"] == 3
    assert not list(kept.parent.glob(".*unfinished"))


@pytest.mark.parametrize("changes", [{"learning_rate": 1e-3}, {"seed": 1}, {"steps": 4}])
def test_a_checkpoint_of_other_settings_is_refused_by_their_name(folder, kept, changes):
    settings = replace(SETTINGS, **({"steps": 3} | changes))
    with pytest.raises(CheckpointError, match=f"other settings: {next(iter(changes))}; give those or remove it"):
        train_here(folder, settings, kept)


def test_a_checkpoint_of_other_windows_is_refused(folder, kept):
    other = windows(folder) * np.float16(0.5)
    with pytest.raises(CheckpointError, match="of other windows or another start"):
        train([other], replace(SETTINGS, steps=3), calibration=[other[:3, :8, :16, :16]], checkpoint=kept)


def test_a_checkpoint_may_be_gone_on_from_elsewhere_with_a_warning(folder, kept, caplog):
    train_here(folder, replace(SETTINGS, steps=3, threads=2), kept)
    assert "not to the last bit" in caplog.text


@pytest.mark.parametrize("cut_to", [0, 7, 1000, -1])
def test_a_damaged_checkpoint_is_one_clear_line(folder, kept, tmp_path, cut_to):
    damaged = tmp_path / "damaged"
    damaged.write_bytes(kept.read_bytes()[:cut_to])
    with pytest.raises(CheckpointError, match="the checkpoint is damaged"):
        train_here(folder, replace(SETTINGS, steps=3), damaged)


def test_a_checkpoint_without_a_weight_or_with_one_that_is_not_finite_is_refused(folder, kept, tmp_path):
    tensors, state = load_checkpoint(kept)
    del state["format"]
    save_checkpoint(tmp_path / "less", {k: v for k, v in tensors.items() if k != "vae/mu.weight"}, state)
    with pytest.raises(CheckpointError, match="does not fit this network"):
        train_here(folder, replace(SETTINGS, steps=3), tmp_path / "less")
    save_checkpoint(tmp_path / "nan", tensors | {"vae/mu.weight": tensors["vae/mu.weight"] * np.nan}, state)
    with pytest.raises(CheckpointError, match="not finite"):
        train_here(folder, replace(SETTINGS, steps=3), tmp_path / "nan")


def test_weights_alone_are_no_checkpoint(folder, tmp_path):
    save_file({"mu.weight": torch.zeros(2)}, tmp_path / "weights")
    with pytest.raises(CheckpointError, match="damaged or none of ctvae's"):
        train_here(folder, SETTINGS, tmp_path / "weights")
