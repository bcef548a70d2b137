"""`ctvae train`: from scans to a bundle, gone on with after a kill, from a bundle that was there; and its recipe."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import models.training.train
from app.cli import main
from app.research.certify.certify import roles_of
from app.research.data import find_scans as finding
from app.research.data.find_scans import find_scans
from app.research.train import plots
from app.research.train.recipe import Recipe, _Loader, load_recipe, make_plan, parse_recipe
from app.research.train.train import TrainingPaths, train_bundle
from models.bundle.store import load_bundle
from models.runtime import OnnxEncoder, TorchEncoder, open_encoder
from models.spec import BundleError, Preprocessing
from models.training.settings import TrainingSettings
from models.training_record import Parent
from operators.errors import RunFailed, StartError
from operators.preprocess import preprocess
from tests.support.bundles import SMALL_CT_VAE, SMALL_WINDOWS, write_small_bundle
from tests.support.checkout import ROOT
from tests.support.cohorts import write_cohort, write_list, write_nifti
from tests.support.quick_export import export_quickly

NETWORK = {key: value for key, value in SMALL_CT_VAE.items() if key != "window_voxels"}
RECIPE = {
    "training": {"steps": 4, "batch": 4, "threads": 1, "accelerator": "cpu", "parameters": NETWORK},
    "preprocessing": {"window_voxels": [8, 16, 16], "spacing_mm": [8, 16, 16]},
}


def plan(**training):
    return make_plan(parse_recipe(RECIPE), training=training, data={})


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("cohort"), 4)


@pytest.fixture(autouse=True)
def _quick(quick_export, monkeypatch):
    """The trainings inside tests do not wait for pictures; `trained`, made before, has them."""
    monkeypatch.setattr("app.research.train.monitor.Monitor.pictures", lambda monitor, vae, step: None)


@pytest.fixture
def call(cohort, tmp_path, capsys):
    """Runs the command; (exit code, stdout, stderr)."""
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(RECIPE))

    def run(*arguments: object, data: Path = cohort, config: str = "train.yaml"):
        places = ["-o", tmp_path / "tiny", "--recipe", tmp_path / config, "--cache", tmp_path / "cache"]
        code = main(["train", *map(str, [data, *places, *arguments])])
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def trained(cohort, tmp_path_factory):
    """(places, bundle) of a training of four steps, as a user has it."""
    folder = tmp_path_factory.mktemp("trained")
    places = TrainingPaths(cohort, folder / "tiny", cache=folder / "cache")
    with pytest.MonkeyPatch.context() as patch:
        export_quickly(patch)
        return places, train_bundle(places, plan())


def test_the_command_trains_a_bundle_that_encodes(call, cohort, tmp_path):
    code, out, err = call("--seed", 3)
    assert code == 0, err
    assert "tiny 0.1.0: 4 steps" in out
    bundle = load_bundle(tmp_path / "tiny")
    assert bundle.training.command == "ctvae train DATA -o tiny --recipe train.yaml --seed 3"
    voxels = preprocess(find_scans(cohort)[0].open(), bundle.preprocessing).voxels
    mu = open_encoder(bundle, "cpu").run(voxels, ["mu"])["mu"]
    assert mu.shape == (len(voxels), 4)
    assert np.isfinite(mu).all()


def test_the_encoder_that_was_written_is_the_trained_one(trained):
    window = np.random.default_rng(0).random((1, 1, 8, 16, 16), np.float32)
    names = [tap.name for tap in trained[1].taps]
    onnx, torch = OnnxEncoder(trained[1]).run(window, names), TorchEncoder(trained[1], "cpu").run(window, names)
    for name in names:
        np.testing.assert_allclose(onnx[name], torch[name], atol=1e-5)


def test_a_second_run_decodes_no_dicom_and_gives_the_same_weights(call, tmp_path, monkeypatch):
    assert call()[0] == 0
    first = load_bundle(tmp_path / "tiny").weights_sha256
    monkeypatch.setattr(finding, "build_volume", lambda series: pytest.fail("read again"))
    code, _, err = call()
    assert code == 0, err
    assert load_bundle(tmp_path / "tiny").weights_sha256 == first


def test_a_bundle_says_what_it_was_trained_on_and_how(trained):
    training = trained[1].training
    assert sorted(case.split for case in training.data) == ["calibration", "test", "train", "train"]
    assert all(case.windows > 0 and case.scan for case in training.data)
    assert training.steps == training.settings["steps"] == 4
    assert training.settings["parameters"]["latents"] == len(training.figures.kl) == 4
    assert training.init is None
    assert "SECRET" not in json.dumps(training.as_json())


def test_what_can_be_watched_lies_beside_the_bundle(trained):
    places, _ = trained
    names = {file.name for file in places.log.iterdir()}
    assert {"curve.png", "latents.png", "reconstruction.png", "progress.jsonl", "train.yaml"} <= names
    assert not places.checkpoint.exists()
    events = EventAccumulator(str(places.log)).Reload()
    assert {"train/loss", "train/rmse", "train/kl", "train/active", "train/learning_rate"} <= set(
        events.Tags()["scalars"]
    )
    assert events.Tags()["histograms"] == ["train/kl_by_dimension"]
    assert events.Tags()["images"] == ["reconstruction", "latents"]
    assert not any(b"SECRET" in file.read_bytes() for file in places.log.iterdir())


def test_the_recipe_in_the_log_asks_for_the_same_training(trained):
    places, bundle = trained
    again = make_plan(load_recipe(places.log / "train.yaml"), training={}, data={})
    assert again.preprocessing == bundle.preprocessing
    assert json.loads(json.dumps(again.training.parameters)) == dict(bundle.architecture_parameters)
    assert again.training.steps == 4


def test_an_interrupted_training_that_goes_on_ends_where_an_uninterrupted_one_does(trained, tmp_path, monkeypatch):
    whole, expected = trained
    monkeypatch.setattr(models.training.train, "train", partial(models.training.train.train, report_every_s=0.0))
    places = replace(whole, output=tmp_path / "tiny")

    def kill(text: str, fraction: float) -> None:
        if text.startswith("step 2 "):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(RunFailed, match=r"INTERRUPTED: .* tiny\.checkpoint keeps it: go on with .* --resume"):
        train_bundle(places, plan(), report=kill)
    assert places.checkpoint.is_file()
    assert not places.output.exists()
    with pytest.raises(StartError, match=r"CHECKPOINT_EXISTS: .* --resume, or delete it"):
        train_bundle(places, plan())
    resumed = train_bundle(places, plan(), resume=True)
    assert resumed.weights_sha256 == expected.weights_sha256
    steps = [json.loads(line)["step"] for line in (places.log / "progress.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]
    assert not places.checkpoint.exists()


def test_a_training_that_begins_anew_keeps_nothing_of_an_older_log(trained, tmp_path, monkeypatch):
    places = replace(trained[0], output=tmp_path / "tiny")
    engine = models.training.train.train
    monkeypatch.setattr(models.training.train, "train", partial(engine, report_every_s=0.0))
    train_bundle(places, plan())
    old = set(places.log.glob("events.out.*"))
    monkeypatch.setattr(
        models.training.train, "train", partial(engine, report_every_s=1e9)
    )  # one line, at the last step
    train_bundle(places, plan(steps=6), resume=True)  # and no checkpoint to go on from
    lines = (places.log / "progress.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [6]
    assert old
    assert not old & set(places.log.glob("events.out.*"))


def test_a_checkpoint_of_other_settings_is_one_clear_line(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(models.training.train, "train", partial(models.training.train.train, report_every_s=0.0))
    places = replace(trained[0], output=tmp_path / "tiny")
    stop = lambda text, fraction: text.startswith("step 1 ") and os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
    with pytest.raises(RunFailed):
        train_bundle(places, plan(), report=stop)
    with pytest.raises(StartError, match=r"CHECKPOINT_INVALID: .*learning_rate"):
        train_bundle(places, plan(learning_rate=1e-4), resume=True)


def test_resume_without_a_checkpoint_begins_and_says_so(call):
    code, _, err = call("--resume", "--steps", 1)
    assert code == 0
    assert "no tiny.checkpoint to resume from: training begins at the start" in err
    assert "1 test patients are too few to tell whether the posterior has collapsed" in err


def test_a_dry_run_shows_split_windows_and_memory_and_writes_nothing(call, cohort, tmp_path, trained):
    code, out, err = call("--dry-run")
    assert code == 0, err
    data = trained[1].training.data
    for split in ("train", "calibration", "test"):
        cases = [case for case in data if case.split == split]
        row = next(line.split() for line in out.splitlines() if line.startswith(split))
        assert row[1:] == [str(len(cases)), str(len(cases)), str(sum(case.windows for case in cases)), "0"]
    assert "about 4 steps of" in out
    assert "memory of this process" in out
    assert {path.name for path in tmp_path.iterdir()} == {"train.yaml"}


def test_a_trained_network_whose_bundle_could_not_be_written_is_got_out_with_resume(
    trained, cohort, tmp_path, monkeypatch
):
    places = TrainingPaths(cohort, tmp_path / "tiny", cache=trained[0].cache)

    def refuses(bundle, vae):
        raise BundleError("the disk is full")

    with monkeypatch.context() as patched, pytest.raises(BundleError, match=r"tiny\.checkpoint keeps the trained"):
        patched.setattr("app.research.train.train.write", refuses)
        train_bundle(places, plan())
    monkeypatch.setattr("models.training.run.TrainingRun.advance", lambda *given: pytest.fail("trained again"))
    assert train_bundle(places, plan(), resume=True).weights_sha256 == trained[1].weights_sha256


def test_a_bundle_is_fine_tuned_from_its_own_weights(cohort, tmp_path):
    parent = write_small_bundle(tmp_path / "parent")
    recipe = parse_recipe({"training": {"steps": 1, "batch": 4, "threads": 1, "learning_rate": 1e-8}})
    tuned = train_bundle(
        TrainingPaths(cohort, tmp_path / "tuned", cache=tmp_path / "cache"),
        make_plan(recipe, training={}, data={}, start=parent),
    )
    assert tuned.training.init == Parent("parent", "0.0.1", parent.weights_sha256)
    assert (tuned.preprocessing, tuned.architecture) == (parent.preprocessing, parent.architecture)
    window = np.random.default_rng(0).random((1, 1, 8, 16, 16), np.float32)
    before, after = (open_encoder(bundle, "cpu").run(window, ["mu"])["mu"] for bundle in (parent, tuned))
    np.testing.assert_allclose(after, before, atol=1e-4)
    assert tuned.weights_sha256 != parent.weights_sha256


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"training": {"architecture": "question"}}, "the architecture of the bundle to start from is 'ct_vae'"),
        ({"training": {"parameters": {"latents": 8}}}, "parameters.latents of the bundle to start from is 4"),
        ({"preprocessing": {"window_hu": [-1000, 500]}}, "preprocessing.window_hu"),
        ({"preprocessing": {"outside": "air"}}, "preprocessing.outside of the bundle to start from is 'kept'"),
    ],
)
def test_what_contradicts_the_bundle_to_start_from_is_an_error(tmp_path, asked, says):
    parent = write_small_bundle(tmp_path / "parent")
    with pytest.raises(StartError, match=f"INIT_CONFLICT: {says}"):
        make_plan(parse_recipe(asked), training={}, data={}, start=parent)


def test_whom_the_parent_learned_from_is_not_measured_with(trained, tmp_path):
    places, parent = trained
    by_split = {case.split: case.scan for case in parent.training.data}
    now = {by_split["train"]: "test", by_split["test"]: "calibration"}
    rows = [("path", "patient", "split")]
    for number, one in enumerate(find_scans(places.data)):
        split = now.get(one.key, "train")
        rows.append((one.known_as["path"], f"new {number}", split))
    listed = write_list(tmp_path / "list.csv", *rows)
    again = TrainingPaths(listed, tmp_path / "tuned", root=places.data, cache=places.cache)
    with pytest.raises(
        StartError, match=r"BAD_SPLIT: tiny was trained or calibrated on patient new ., who is in test now"
    ):
        train_bundle(again, make_plan(Recipe(), training={"steps": 1}, data={}, start=parent))


def test_whom_a_grandparent_learned_from_is_never_measured_with(trained, tmp_path):
    places, first = trained
    more = write_cohort(tmp_path / "more", 8)  # p1 to p4 are the first one's, too

    def tune(name: str, parent, **splits: str):
        rows = [(path, f"new {path}", split) for path, split in splits.items()]
        listed = write_list(tmp_path / f"{name}.csv", ("path", "patient", "split"), *rows)
        made = make_plan(Recipe(), training={"steps": 1, "threads": 1}, data={}, start=parent)
        return train_bundle(TrainingPaths(listed, tmp_path / name, root=more, cache=places.cache), made)

    second = tune("second", first, p5="train", p6="calibration", p7="test")
    third = tune("third", second, p5="train", p7="calibration", p8="test")
    learned = [case.scan for case in first.training.data if case.split != "test"]
    before = third.training.learned_before
    assert first.training.learned_before == ()
    assert [case.scan for case in before[:3]] == learned
    assert before[3:] == tuple(case for case in second.training.data if case.split != "test")
    trained_on = next(one.known_as["path"] for one in find_scans(more) if one.key == learned[0])
    for path, split in (("p6", "test"), (trained_on, "calibration"), (trained_on, "test")):
        splits = {"p7": "train", "p8": "test" if split == "calibration" else "calibration", path: split}
        with pytest.raises(StartError, match=f"third was trained or calibrated on patient new {path}, who is in"):
            tune("fourth", third, **splits)
    tune("fifth", third, p5="train", p6="calibration", p8="test")  # who watched over the parent may watch again
    measured = {scan.key for scan in roles_of(find_scans(more), third).measured}
    assert measured == {one.key for one in find_scans(more)} - set(learned) - {
        case.scan for made in (second, third) for case in made.training.data if case.split != "test"
    }
    assert len(measured) == 2


def test_a_list_with_labels_of_its_own_and_of_a_file_is_trained_on(call, cohort, tmp_path):
    write_nifti(cohort.parent / "more" / "p5.nii.gz", 5)
    rows = [(str(cohort / f"p{n}"), f"p{n}", split) for n, split in enumerate(("train", "calibration", "test"), 1)]
    rows.append((str(cohort.parent / "more" / "p5.nii.gz"), "p5", "train"))
    listed = write_list(tmp_path / "list.csv", ("path", "patient", "split"), *rows)
    labels = write_list(tmp_path / "labels.csv", ("patient", "stage"), ("p1", "II"))
    code, _, err = call("--labels", labels, "--steps", 1, data=listed)
    assert code == 0, err
    cases = load_bundle(tmp_path / "tiny").training.data
    assert [(case.patient, case.split) for case in cases] == [
        ("p1", "train"),
        ("p5", "train"),
        ("p2", "calibration"),
        ("p3", "test"),
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--arch", "resnet"], "BAD_RECIPE: architecture is 'resnet'; known are"),
        (["--steps", "0"], "BAD_RECIPE: steps is 0"),
        (["--init", "nowhere"], "BUNDLE_INVALID: no models folder"),
        (["--recipe", "nowhere.yaml"], "BAD_RECIPE: cannot read nowhere.yaml"),
        (["--labels", "nowhere.csv"], "BAD_LABELS: cannot read the list"),
        (["--notes", "nowhere.md"], "BAD_NOTES"),
        (["--version", "a b"], "BUNDLE_INVALID: metadata.json: version is 'a b'"),
    ],
)
def test_a_call_that_cannot_start_is_one_clear_line_and_exit_code_3(call, tmp_path, arguments, says):
    code, _, err = call(*arguments)
    assert code == 3
    assert says in err
    assert "Traceback" not in err
    assert [file.name for file in tmp_path.iterdir()] == ["train.yaml"]


def test_a_window_that_makes_no_network_is_the_recipes_fault(call, tmp_path):
    (tmp_path / "odd.yaml").write_text("preprocessing: {window_voxels: [9, 97, 97]}")
    code, _, err = call(config="odd.yaml")
    assert code == 3
    assert "BAD_RECIPE: ct_vae window (9, 97, 97)" in err
    assert not (tmp_path / "tiny.log").exists()


def test_what_would_refuse_the_bundle_refuses_it_before_anything_is_read(cohort, tmp_path, monkeypatch):
    def refuses(vae):
        raise BundleError("made up")

    monkeypatch.setattr("models.bundle.export.encoder_onnx", refuses)
    with pytest.raises(BundleError, match="made up"):
        train_bundle(TrainingPaths(cohort, tmp_path / "tiny", cache=tmp_path / "cache"), plan())
    assert list(tmp_path.iterdir()) == []


def test_something_else_in_the_outputs_place_is_found_before_anything_is_read(cohort, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(StartError, match="OUTPUT_IN_THE_WAY"):
        train_bundle(TrainingPaths(cohort, tmp_path / "mine", cache=tmp_path / "cache"), plan())
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("training: {leaning_rate: 1}", r"unknown key training\.leaning_rate; known are architecture"),
        ("trainin: {steps: 1}", "unknown key trainin; known are training, preprocessing, data"),
        ("training: {steps: '10'}", r"training\.steps is '10': input should be a valid integer"),
        ("training: {batch: true}", r"training\.batch is 'True'"),
        ("training: {scale: big}", r"training\.scale is 'big'"),
        ("training: {steps: 1, steps: 2}", "line 1: the key steps stands twice"),
        ("preprocessing: {spacing_mm: [4, 4]}", r"preprocessing\.spacing_mm"),
        ("- training", "the file is"),
        ("training: [", "cannot read train.yaml at line"),
        ("data: {seed: 2020-01-01}", "holds a value other than text, numbers, lists or sections"),
        ("training: !!python/object/apply:os.getcwd []", "cannot read train.yaml at line 1"),
    ],
)
def test_a_recipe_that_is_wrong_is_one_clear_line(tmp_path, text, says):
    (tmp_path / "train.yaml").write_text(text)
    with pytest.raises(StartError, match=says) as met:
        load_recipe(tmp_path / "train.yaml")
    assert met.value.reason == "BAD_RECIPE"


def test_a_number_may_be_written_as_yaml_1_2_has_it(tmp_path):
    (tmp_path / "train.yaml").write_text("training: {learning_rate: 2e-3}\ndata:\n")
    assert load_recipe(tmp_path / "train.yaml").training == {"learning_rate": 0.002}


def test_the_documented_recipe_has_every_key_with_its_default():
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    recipe = parse_recipe(yaml.load(page.split("```yaml\n")[1].split("```")[0], _Loader))
    for section, of in ((recipe.training, TrainingSettings), (recipe.preprocessing, Preprocessing)):
        assert {one.name for one in fields(of)} - set(section) <= {"steps"}
    assert make_plan(recipe, training={}, data={}) == make_plan(Recipe(), training={}, data={"root": "scans"})


def test_the_command_line_goes_before_the_file():
    recipe = parse_recipe({"training": {"minutes": 5, "batch": 8, "seed": 1}})
    made = make_plan(recipe, training={"steps": 7, "batch": 2, "seed": None}, data={}).training
    assert (made.steps, made.minutes, made.batch, made.seed) == (7, None, 2, 1)


@pytest.mark.parametrize("part", ["calibration", "test"])
def test_a_split_cannot_be_asked_to_be_empty(part):
    with pytest.raises(StartError, match=r"BAD_RECIPE: .* calibration and test must be above 0"):
        make_plan(parse_recipe({"data": {part: 0}}), training={}, data={})


def test_a_curve_of_one_report_is_seen(tmp_path):
    figures = {"loss": 1.0, "rmse": 0.1, "kl": 2.0, "active": 3, "latents": 4, "calibration": None}
    plots.plot_curve(tmp_path / "one.png", [SimpleNamespace(step=5, **figures)], (-1000, 1000), title="")
    picture = imread(tmp_path / "one.png")[..., :3]
    drawn = np.abs(picture - to_rgb(plots.USED)).max(axis=-1) < 0.02
    assert drawn.sum() > 4 * 10  # four dots


def test_parts_that_leave_nothing_to_train_on_are_refused():
    with pytest.raises(StartError, match="leave nothing to train on"):
        make_plan(parse_recipe({"data": {"test": 0.6, "calibration": 0.4}}), training={}, data={})


def test_the_networks_window_is_the_preprocessings():
    assert plan().training.parameters["window_voxels"] == [8, 16, 16]
    other = parse_recipe({"training": {"parameters": {"window_voxels": [8, 8, 8]}}})
    with pytest.raises(StartError, match=r"parameters.window_voxels is \[8, 8, 8\]"):
        make_plan(other, training={}, data={})


def test_the_default_preprocessing_is_the_architectures():
    made = make_plan(Recipe(), training={"architecture": "question"}, data={})
    assert (made.preprocessing.fit, made.preprocessing.window_voxels) == ("resize", (32, 256, 256))
    assert make_plan(parse_recipe(RECIPE), training={}, data={}).preprocessing == SMALL_WINDOWS
