"""Which CT series are encoded: rules take them, preferences rank them, and each that is dropped says why."""

from __future__ import annotations

import json
import random
import re
import textwrap
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from app.cli import main as ctvae
from app.encode_folder import encode
from app.settings import load_settings
from operators.errors import StartError
from operators.job import Job
from operators.read_study import read_studies
from operators.select_series import PreferMatch, Selection, select
from operators.series.rule import ImageTypeRule, Range, Rule
from operators.series.sdk_rules import parse_sdk_rules
from operators.types import Outcome, Series, Study
from tests.app.test_main_job import Run, run_program
from tests.support.checkout import ROOT
from tests.support.clocks import Clock
from tests.support.tiny_ct import AXIAL, put, write_tiny_ct
from tests.support.tiny_series import CORONAL, SAGITTAL, Tiny, write

PAGE = ROOT / "docs" / "selection.md"


def one(folder: Path, slices: int = 5, orientation: tuple[float, ...] = AXIAL, **says: object) -> Series:
    [study] = read_studies(write(folder, Tiny(1, slices, orientation, says=says))).studies
    return study.series[0]


def rule(**conditions: object) -> Selection:
    return Selection((Rule("the rule", **conditions),))  # type: ignore[arg-type]


def verdict(series: Series, selection: Selection) -> str:
    """The name of the rule that takes a series, or the reason why none does."""
    [job] = select(study_of(series), selection)
    if isinstance(job.state, Outcome):
        return reason(job)
    return next((one.detail for one in job.state.findings if one.code == "SELECTED_BY_RULE"), "no rule")


def reason(job: Job[Series]) -> str:
    """ "taken", or the reason why not."""
    return str(job.state.reason) if isinstance(job.state, Outcome) else "taken"


def study_of(*series: Series) -> Study:
    return Study(series[0].study_instance_uid, series)


def selected(folder: Path, selection: Selection) -> list[Job[Series]]:
    return [job for study in read_studies(folder).studies for job in select(study, selection)]


def verdicts(folder: Path, selection: Selection) -> dict[int, str]:
    """The number of each series → "taken", or the reason why not."""
    jobs = selected(folder, selection)
    return {int(job.series.series_instance_uid.split(".")[-1]): reason(job) for job in jobs}


def message(folder: Path, selection: Selection, number: int) -> str:
    jobs = selected(folder, selection)
    [found] = [job for job in jobs if job.series.series_instance_uid.endswith(f".9.{number}")]
    return str(found.ended("eligible").message)


FITS = {
    "modality": ({"Modality": "CT"}, "ct", "MR"),
    "description": ({"SeriesDescription": "Thorax LUNG 1.0"}, "lung", "^lung"),
    "exclude_description": ({"SeriesDescription": "Thorax LUNG 1.0"}, "^lung", "lung"),
    "kernel": ({"ConvolutionKernel": "B70f"}, "^b[5-8]", "^B3"),
    "kernel of two values": ({"ConvolutionKernel": ["I70f", "2"]}, r"^I70f\\2$", "^2"),
    "body_part": ({"BodyPartExamined": "CHEST"}, "chest|thorax", "head"),
    "image_type": (
        {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"]},
        ImageTypeRule(("original", "CT_SOM5 SPI"), ("DERIVED",)),
        ImageTypeRule(("CT_SOM5",)),
    ),
    "image_type that must not": (
        {"ImageType": ["DERIVED", "SECONDARY", "AXIAL"]},
        ImageTypeRule(excludes=("MPR",)),
        ImageTypeRule(excludes=("derived",)),
    ),
    "thickness_mm": ({"SliceThickness": 2}, Range(2, 2), Range(max=1.99)),
    "slices": ({}, Range(min=5, max=5), Range(min=6)),
}


@pytest.mark.parametrize(("says", "fits", "misses"), FITS.values(), ids=FITS)
def test_a_condition_holds_or_names_itself(tmp_path, request, says, fits, misses):
    condition = request.node.callspec.id.split()[0]
    series = one(tmp_path, **says)

    assert verdict(series, rule(**{condition: fits})) == "the rule"
    assert verdict(series, rule(**{condition: misses})) == "NO_RULE"
    assert f"the rule: {condition}: " in message(tmp_path, rule(**{condition: misses}), 1)


@pytest.mark.parametrize(
    ("plane", "orientation"), [("axial", AXIAL), ("coronal", CORONAL), ("sagittal", SAGITTAL)], ids=lambda one: one[:3]
)
def test_orientation_is_the_plane_nearest_to_the_slices(tmp_path, plane, orientation):
    series = one(tmp_path, orientation=orientation)
    took = [
        asked for asked in ("axial", "coronal", "sagittal") if verdict(series, rule(orientation=asked)) != "NO_RULE"
    ]
    assert took == [plane]


@pytest.mark.parametrize(
    ("condition", "absent"),
    [
        ({"description": ".*"}, {"SeriesDescription": None}),
        ({"kernel": ".*"}, {"ConvolutionKernel": ""}),
        ({"body_part": ".*"}, {}),
        ({"thickness_mm": Range(min=0)}, {"SliceThickness": None}),
        ({"thickness_mm": Range(min=0)}, {"SliceThickness": "nan"}),
        ({"orientation": "axial"}, {"ImageOrientationPatient": [1, 0]}),
        ({"image_type": ImageTypeRule(("ORIGINAL",))}, {"ImageType": None}),
        ({"modality": "CT"}, {"Modality": ""}),
    ],
)
def test_what_is_absent_fulfils_no_condition(tmp_path, condition, absent):
    assert verdict(one(tmp_path, **absent), rule(**condition)) == "NO_RULE"


def test_thickness_and_image_type_are_those_of_every_instance(tmp_path):
    def change(dataset, d):
        if d == 3:
            put(dataset, SliceThickness=4, ImageType=["DERIVED", "PRIMARY", "AXIAL"])

    write_tiny_ct(tmp_path, change=change)
    [series] = read_studies(tmp_path).studies[0].series
    assert verdict(series, rule(thickness_mm=Range(max=3))) == "NO_RULE"
    assert verdict(series, rule(image_type=ImageTypeRule(("ORIGINAL",)))) == "NO_RULE"


def test_all_conditions_must_hold_and_any_rule_takes(tmp_path):
    series = one(tmp_path, ConvolutionKernel="B30f", BodyPartExamined="CHEST")
    both, thin = Rule("both", kernel="B3", body_part="head"), Rule("thin", thickness_mm=Range(max=2))
    assert verdict(series, Selection((both,))) == "NO_RULE"
    assert verdict(series, Selection((both, thin, Rule("every")))) == "thin, every"


def test_without_rules_every_ct_series_is_taken_and_nothing_is_said(tmp_path):
    series = one(tmp_path)
    assert [job.state for job in select(study_of(series))] == [series]


def test_what_is_no_ct_keeps_its_reason_whatever_the_rules(tmp_path):
    assert verdict(one(tmp_path, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), rule(modality="CT")) == "LOCALIZER"


def test_the_message_names_the_rule_that_came_nearest_and_what_does_not_hold(tmp_path):
    far = Rule("far", kernel="x", body_part="y", slices=Range(min=50))
    near = Rule("near", body_part="chest", thickness_mm=Range(max=1))
    write(tmp_path, Tiny(1, says={"BodyPartExamined": "CHEST"}))
    assert "nearest is near: thickness_mm: 2 is above 1;" in message(tmp_path, Selection((far, near)), 1)


def test_no_message_repeats_a_description(tmp_path):
    write(tmp_path, Tiny(1, says={"SeriesDescription": "JANE DOE lung", "StudyDescription": "JANE DOE"}))
    sdk = parse_sdk_rules({"selections": [{"conditions": {"StudyDescription": "x", "AccessionNumber": "A123"}}]})
    for selection in (rule(description="head"), rule(exclude_description="lung"), Selection(sdk_rules=sdk)):
        assert not re.search("JANE|A123", message(tmp_path, selection, 1))


THREE = (
    Tiny(1, 6, says={"SliceThickness": 2, "ConvolutionKernel": "B30f", "SeriesDescription": "soft"}),
    Tiny(2, 5, says={"SliceThickness": 1, "ConvolutionKernel": "B70f", "SeriesDescription": "lung"}),
    Tiny(3, 5, says={"SliceThickness": None, "ConvolutionKernel": "B70f", "SeriesDescription": "lung again"}),
)


@pytest.mark.parametrize(
    ("prefer", "best"),
    [
        (("thinnest",), 2),
        (("thickest",), 1),
        (("most_slices",), 1),
        ((PreferMatch(kernel="B7"),), 2),
        ((PreferMatch(description="again"),), 3),
        ((PreferMatch(kernel="B7"), PreferMatch(description="again")), 3),
        ((PreferMatch(kernel="none"),), 1),
    ],
    ids=str,
)
def test_the_best_of_a_study_stays_and_the_others_name_it(tmp_path, prefer, best):
    write(tmp_path, *THREE)
    selection = Selection(prefer=prefer)
    found = verdicts(tmp_path, selection)
    assert [number for number, what in found.items() if what == "taken"] == [best]
    others = set(found) - {best}
    assert all(found[number] == "NOT_PREFERRED" for number in others)
    assert all(THREE[best - 1].uid in message(tmp_path, selection, number) for number in others)


def test_keep_says_how_many_stay(tmp_path):
    write(tmp_path, *THREE)
    assert verdicts(tmp_path, Selection(prefer=("thinnest",), keep=2)) == {1: "taken", 2: "taken", 3: "NOT_PREFERRED"}


def test_only_what_a_rule_takes_is_ranked(tmp_path):
    write(tmp_path, *THREE)
    selection = Selection((Rule("soft", kernel="B30"),), prefer=("thinnest",))
    assert verdicts(tmp_path, selection) == {1: "taken", 2: "NO_RULE", 3: "NO_RULE"}


def test_each_study_has_its_own_best(tmp_path):
    thin, thick = {"SliceThickness": 1}, {"SliceThickness": 5}
    write(tmp_path, Tiny(1, says=thin), Tiny(2, says=thick), Tiny(3, study=2, says=thick))
    assert verdicts(tmp_path, Selection(prefer=("thinnest",))) == {1: "taken", 2: "NOT_PREFERRED", 3: "taken"}


def test_the_order_of_series_decides_nothing(tmp_path):
    study = read_studies(write(tmp_path, *(Tiny(number) for number in range(1, 7)))).studies[0]
    selection = Selection((Rule("all"),), prefer=("thinnest", "most_slices"), keep=2)
    kept = set()
    for seed in range(20):
        shuffled = random.Random(seed).sample(study.series, len(study.series))
        jobs = select(study_of(*shuffled), selection)
        kept.add(frozenset(job.series.series_instance_uid for job in jobs if isinstance(job.state, Series)))
    assert kept == {frozenset({Tiny(1).uid, Tiny(2).uid})}


def test_parts_of_a_series_are_ranked_each_for_itself(tmp_path):
    whole = one(tmp_path)
    parts = [replace(whole, part=2), replace(whole, part=1), replace(whole, part=3, instances=whole.instances[:4])]
    jobs = select(study_of(*parts), Selection(prefer=("most_slices",)))
    assert [reason(job) for job in jobs] == ["NOT_PREFERRED", "taken", "NOT_PREFERRED"]
    assert f"{whole.series_instance_uid} part 1;" in str(jobs[0].ended("eligible").message)


def test_an_error_over_one_series_ends_no_other(tmp_path, monkeypatch):
    write(tmp_path, *THREE)
    real = Rule.unmet

    def fails(self, series):
        if series.series_instance_uid.endswith("2"):
            raise RuntimeError("odd")
        return real(self, series)

    monkeypatch.setattr(Rule, "unmet", fails)
    assert [reason(job) for job in selected(tmp_path, rule())] == ["taken", "INTERNAL_ERROR", "taken"]


def test_the_time_of_selection_is_in_the_ledger(tmp_path, monkeypatch):
    write(tmp_path, *THREE)
    clock = Clock()

    def keep(series):
        clock.now += 3.0
        return series

    monkeypatch.setattr("operators.select_series.keep_ct_images", keep)
    monkeypatch.setattr("operators.job.time", clock)
    monkeypatch.setattr("operators.select_series.time", clock)
    for job in selected(tmp_path, Selection(prefer=("thinnest",))):
        assert job.ended("eligible").seconds == job.seconds == {"select": 3.0}


def test_a_selection_without_conditions_selects_nothing_as_in_the_sdk(tmp_path):
    sdk = parse_sdk_rules({"selections": [{"name": "empty", "conditions": {}}]})
    assert verdict(one(tmp_path), Selection(sdk_rules=sdk)) == "NO_RULE"


# Settings, commands, documents.


def settings_file(folder: Path, selection: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "rules.yaml"
    path.write_text(yaml.safe_dump({"selection": selection}))
    return path


def test_the_sdks_file_lies_beside_the_settings(tmp_path):
    document = {"selections": [{"name": "a", "conditions": {"Modality": "CT"}}]}
    (tmp_path / "sdk.json").write_text(json.dumps(document))
    from_file = load_settings(settings_file(tmp_path, {"sdk_rules": "sdk.json"}), {})
    inline = load_settings(settings_file(tmp_path, {"sdk_rules": document}), {})
    assert from_file.selection == inline.selection == Selection(sdk_rules=parse_sdk_rules(document))


@pytest.mark.parametrize(
    ("selection", "named"),
    [
        ({"rule": []}, "selection.rule"),
        ({"rules": [{"name": "a", "kernal": "x"}]}, "selection.rules.0.kernal"),
        ({"rules": [{"kernel": "x"}]}, "selection.rules.0.name"),
        ({"rules": [{"name": "a", "kernel": "(a+)+"}]}, "selection.rules.0.*repeats a group"),
        ({"rules": [{"name": "a", "thickness_mm": {"min": 3, "max": 1}}]}, "thickness_mm.*in this order"),
        ({"rules": [{"name": "a", "thickness_mm": {}}]}, "thickness_mm.*min, max or both"),
        ({"rules": [{"name": "a", "orientation": "up"}]}, "orientation.*'axial'"),
        ({"rules": [{"name": "a", "image_type": {}}]}, "image_type.*contains"),
        ({"rules": [{"name": "a"}, {"name": "a"}]}, "the same name"),
        ({"prefer": ["thinest"]}, "selection.prefer.0: .*'thinnest'"),
        ({"prefer": [{"kernal": "x"}]}, "kernal"),
        ({"prefer": [{"kernel": "x", "description": "y"}]}, "either kernel or description"),
        ({"keep": 2}, "prefer"),
        ({"prefer": ["thinnest"], "keep": 0}, "1 or more"),
        ({"sdk_rules": "none.json"}, "sdk_rules: cannot read none.json"),
        ({"sdk_rules": 3}, "sdk_rules"),
    ],
)
def test_what_is_wrong_in_the_section_is_named(tmp_path, selection, named):
    with pytest.raises(StartError, match=named) as caught:
        load_settings(settings_file(tmp_path, selection), {})
    assert caught.value.reason == "SETTINGS_INVALID"


def examples() -> Iterable[str]:
    return re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize("number", range(3))
def test_each_example_of_the_page_is_read(tmp_path, number):
    path = tmp_path / "example.yaml"
    path.write_text(list(examples())[number])
    assert load_settings(path, {}).selection != Selection()


def test_the_page_has_no_example_that_is_not_read():
    assert len(list(examples())) == 3


def test_the_page_shows_what_inspect_prints(tmp_path, shared_ct, capsys):
    rules = tmp_path / "lung.yaml"
    rules.write_text(next(iter(examples())))
    ctvae(["inspect", str(shared_ct("cmbcrc_01068")), "-c", str(rules), "-v"])
    assert textwrap.indent(capsys.readouterr().out, "    ") in PAGE.read_text()


MINE = {
    "rules": [{"name": "long enough", "slices": {"min": 6}, "modality": "CT"}],
    "prefer": [{"description": "lung"}, "thinnest"],
}


@pytest.fixture(scope="module")
def four_series(tmp_path_factory) -> Path:
    """One that is preferred, one that is not, one that no rule takes, and a localizer."""
    soft, lung = {"SeriesDescription": "soft"}, {"SeriesDescription": "lung"}
    localizer = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    four = (Tiny(1, 8, says=soft), Tiny(2, 8, says=lung), Tiny(3, 5, says=lung), Tiny(4, says=localizer))
    return write(tmp_path_factory.mktemp("four"), *four)


ENDED = {
    "1": ("skipped", "NOT_PREFERRED"),
    "2": ("written", None),
    "3": ("skipped", "NO_RULE"),
    "4": ("skipped", "LOCALIZER"),
}


def ended(series: Iterable[dict]) -> dict[str, tuple[str, str | None]]:
    return {line["folder"]: (line["status"], line["reason"]) for line in series}


def test_the_graph_and_the_loop_and_inspect_select_alike(four_series, tmp_path, capsys):
    config = str(settings_file(tmp_path, MINE))
    arguments = ("-i", str(four_series), "-o", str(tmp_path / "graph"), "-c", config)
    graph = run_program(tmp_path / "graph", *arguments)
    loop = Run(ctvae(["encode", str(four_series), "-o", str(tmp_path / "loop"), "-c", config]), tmp_path / "loop", "")
    capsys.readouterr()
    code = ctvae(["inspect", str(four_series), "--json", "-c", config])
    inspected = json.loads(capsys.readouterr().out)["series"]

    assert (graph.code, loop.code, code) == (0, 0, 0), graph.stderr
    assert ended(graph.outcomes) == ended(loop.outcomes) == ENDED
    assert graph.files() == loop.files() and len(loop.files()) == 2
    assert {line["folder"]: line["message"] for line in inspected} == {
        line["folder"]: line["message"] for line in loop.outcomes
    }
    assert ended(inspected) == ENDED | {"2": ("eligible", None)}
    features = json.loads((loop.results[0] / "features.json").read_text())
    assert {"code": "SELECTED_BY_RULE", "detail": "long enough"} in features["findings"]


def test_inspect_shows_a_person_which_rule_took_or_dropped_each_series(four_series, tmp_path, capsys):
    ctvae(["inspect", "-v", str(four_series), "-c", str(settings_file(tmp_path, MINE))])
    shown = capsys.readouterr().out
    assert "finding SELECTED_BY_RULE: long enough" in shown
    assert "NO_RULE: no selection rule accepts it; nearest is long enough: slices: 5 is below 6" in shown
    assert f"preferred by description lung, then thinnest: {Tiny(2).uid}" in shown


def test_a_run_whose_rules_take_nothing_says_that_and_not_that_there_is_no_ct(four_series, tmp_path, capsys):
    config = settings_file(tmp_path, {"rules": [{"name": "heads", "body_part": "head"}]})
    code = ctvae(["encode", str(four_series), "-o", str(tmp_path / "out"), "-c", str(config)])
    stderr = capsys.readouterr().err
    assert code == 2
    assert "NO_RULE: no selection rule accepts any of 3 CT series" in stderr and "NO_CT" not in stderr


def test_the_python_function_takes_a_selection(four_series):
    assert [record.series_instance_uid for record in encode(four_series, selection=rule(slices=Range(max=5)))] == [
        Tiny(3).uid
    ]


def test_a_real_lung_kernel_is_told_from_the_others(shared_ct):
    kernel = rule(kernel="^LUNG$", thickness_mm=Range(max=2.5))
    jobs = [job for name in ("cmbcrc_01068", "crlm_1004") for job in selected(shared_ct(name), kernel)]
    assert sorted(map(reason, jobs)) == ["NO_RULE", "taken"]
