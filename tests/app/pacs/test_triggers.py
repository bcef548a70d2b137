"""What makes ctvae start: script and plug-in of Orthanc, tried with a real one, and the workflow for MONAI Deploy."""

from __future__ import annotations

import json
import sys

import pytest

from app.packaging import layout
from tests.support.checkout import ROOT, skip_or_fail
from tests.support.orthanc import loopback, need_orthanc
from tests.support.triggered import PYTHON_PLUGIN


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What arrived, by what sent it."""
    need_orthanc()
    if not PYTHON_PLUGIN.exists():
        skip_or_fail("no Python plug-in of Orthanc; run .ci/programs")
    with loopback() as network:
        ran = network.run([sys.executable, "-m", "tests.support.triggered", tmp_path_factory.mktemp("triggered")])
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.parametrize("name", ["lua", "plugin"])
def test_a_stable_ct_series_is_sent_and_neither_an_sr_nor_a_screenshot_is_tried(told, name):
    assert told[name] == {"arrived": 3, "errors": []}


def test_the_plugin_sends_again_what_a_listener_that_was_down_did_not_take_also_after_a_kill(told):
    assert told["again"] == 3


def test_a_dicomweb_server_that_is_polled_gives_what_is_not_here_once_and_a_late_slice_too(told):
    found = told["polled"]
    assert found["took"] == [2, 0, 1] and found["same bytes"]
    assert found["from"] == [["DICOMWEB", "127.0.0.1"]]


def test_a_server_that_is_away_is_said_and_asked_again(told):
    assert told["polled"]["said"].startswith("SERVER_FAILED: 127.0.0.1 gave no DICOMweb answer")


def test_the_workflow_starts_the_program_of_the_container_and_maps_what_it_names():
    workflow = json.loads((ROOT / "integrations" / "monai-deploy" / "workflow.json").read_text())
    tasks = {task["id"]: task for task in workflow["tasks"]}
    named = [to["name"] for task in tasks.values() for to in task.get("task_destinations", [])]
    assert named == ["ctvae", "export"] and set(named) < set(tasks)
    arguments = tasks["ctvae"]["args"]
    assert {"server_url", "entrypoint", "command", "container_image", "temp_storage_container_path"} <= arguments.keys()
    assert (arguments["command"], arguments["user"]) == (layout.COMMAND, layout.USER)
    mapped = {one["name"] for side in tasks["ctvae"]["artifacts"].values() for one in side}
    assert mapped == {name for name in arguments if name.startswith("env_")}
    for name in mapped:
        assert arguments[name] == layout.ENVIRONMENT[name.removeprefix("env_")]
    exported = tasks["export"]["artifacts"]["input"][0]["value"]
    assert exported == "{{ context.executions.ctvae.artifacts.env_HOLOSCAN_OUTPUT_PATH }}"
    assert [to["name"] for to in tasks["export"]["export_destinations"]] == ["PACS"]
    assert workflow["informatics_gateway"]["export_destinations"] == ["PACS"]
