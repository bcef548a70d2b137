"""app.yaml, arguments and environment become settings, or one line that says what is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app.open_pipeline import open_pipeline
from app.settings import EncodeSettings, Settings, check_paths, load_settings
from app.settings_file import SETTINGS_FILE
from operators.errors import StartError


def settings_file(folder: Path, text: str) -> Path:
    path = folder / "app.yaml"
    path.write_text(text)
    return path


def test_the_shipped_file_says_the_defaults():
    assert load_settings(SETTINGS_FILE, {}) == Settings()


def test_a_section_is_read(tmp_path):
    path = settings_file(tmp_path, "encode: {model: mine, taps: [dense], device: cpu}\nprivacy: {with_dates: true}")

    settings = load_settings(path, {})

    assert settings.encode == EncodeSettings("mine", ("dense",), "cpu")
    assert settings.privacy.with_dates and not settings.privacy.with_identifiers


def test_the_class_of_the_sr_reaches_the_pipeline(tmp_path):
    settings = load_settings(settings_file(tmp_path, "sr: comprehensive"), {})

    assert open_pipeline(settings, None, tmp_path).sr == "comprehensive"


def test_the_packagers_sections_are_left_to_it(tmp_path):
    assert load_settings(settings_file(tmp_path, "application: {title: x}\nresources: {cpu: 1}"), {}) == Settings()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("encode: {tap: [dense]}", "encode.tap"),
        ("geometri: {}", "geometri"),
        ("encode: {device: tpu}", "encode.device"),
        ("sr: enhanced", "sr"),
        ("privacy: {with_dates: perhaps}", "privacy.with_dates"),
        ("privacy: {site_key: secret}", "CTVAE_SITE_KEY"),
        ("encode: [", "line 1"),
        ("sr: comprehensive\nencode:\n\tmodel: x", "line 3: found character"),
        ("sr: comprehensive\nencode: {}\nencode: {}", "line 3: encode is given twice"),
        ("encode:\n  taps: []\n  taps: [dense]", "line 3: taps is given twice"),
        ("encode:\n  model: null\n  taps: dense", 'line 3: encode.taps: found "dense"; expected a list'),
        ("encode: {taps: [1]}", "encode.taps.0: found 1; expected text"),
        ("selection: 4", "selection: found 4; expected keys with values"),
        ("selection: {rules: [3]}", "selection.rules.0: found 3; expected keys with values"),
        ("selection: {rules: [{kernel: B}]}", "selection.rules.0.name: missing"),
        ("selection: {rules: [{name: a, slices: {max: -2}}]}", "selection.rules.0.slices: found -2; expected a number"),
        ("# old\ntraining: {minutes: 5}", "line 2: training: a training recipe has this section; give the recipe with"),
        ("selection: {prefer: [{kernl: B}]}", "selection.prefer.0.kernl: unknown key"),
        ('geometry: {min_slices: "4"}', 'geometry.min_slices: found "4"; expected a whole number, not in quotes'),
        ("geometry: {min_slices: true}", "geometry.min_slices: found true; expected a whole number"),
        ("resources: {cpu: -1}", "resources.cpu: found -1; expected a whole number from 1 on"),
        ("resources: {cpu: 1, gpu: many}", 'resources.gpu: found "many"; expected a whole number from 0 on'),
        ("resources: {memory: much}", "resources.memory: expected a number of Mi or Gi"),
        ("privacy: {with_dates: 1}", "privacy.with_dates: found 1; expected true or false"),
        ("a: &itself [*itself]", "without references to itself"),
        ("just text", "no sections"),
    ],
)
def test_what_is_unknown_or_wrong_is_named(tmp_path, text, named):
    with pytest.raises(StartError, match=re.escape(named)) as caught:
        load_settings(settings_file(tmp_path, text), {})

    assert caught.value.reason == "SETTINGS_INVALID"
    assert not re.search("instance of|tuple|Input should", caught.value.message)


def test_the_sdks_variable_names_the_file(tmp_path):
    path = settings_file(tmp_path, "encode: {device: cpu}")

    assert load_settings(None, {"HOLOSCAN_CONFIG_PATH": str(path)}).encode.device == "cpu"


def test_a_named_file_that_is_missing_is_an_error(tmp_path):
    with pytest.raises(StartError, match="SETTINGS_INVALID"):
        load_settings(tmp_path / "none.yaml", {})


def test_the_sites_key_comes_from_the_environment():
    assert load_settings(None, {"CTVAE_SITE_KEY": "secret"}).privacy.site_key == b"secret"
    assert load_settings(None, {}).privacy.site_key is None


def test_paths_come_from_the_sdks_variables(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "models").mkdir()
    environment = {
        "HOLOSCAN_INPUT_PATH": str(tmp_path / "in"),
        "HOLOSCAN_OUTPUT_PATH": str(tmp_path / "out" / "deep"),
        "HOLOSCAN_MODEL_PATH": str(tmp_path / "models"),
    }

    paths = check_paths(None, None, None, environment)

    assert (paths.input, paths.models) == (tmp_path / "in", tmp_path / "models")
    assert paths.output.is_dir()


def test_arguments_win_over_variables(tmp_path):
    (tmp_path / "in").mkdir()

    paths = check_paths(tmp_path / "in", tmp_path / "out", None, {"HOLOSCAN_INPUT_PATH": "elsewhere"})

    assert paths.input == tmp_path / "in"


@pytest.mark.parametrize(
    ("source", "target", "models", "reason"),
    [
        ("none", "out", None, "INPUT_MISSING"),
        ("file", "out", None, "INPUT_NOT_A_FOLDER"),
        ("in", "file", None, "OUTPUT_UNWRITABLE"),
        ("in", "file/below", None, "OUTPUT_UNWRITABLE"),
        ("in", "out", "none", "MODELS_MISSING"),
    ],
)
def test_a_wrong_path_has_its_own_reason(tmp_path, source, target, models, reason):
    (tmp_path / "file").write_text("")
    (tmp_path / "in").mkdir()

    with pytest.raises(StartError) as caught:
        check_paths(tmp_path / source, tmp_path / target, tmp_path / models if models else None, {})

    assert caught.value.reason == reason
