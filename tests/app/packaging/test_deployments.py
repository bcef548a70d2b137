"""The manifests in integrations/ say of the image what is true of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.exit_codes import COULD_NOT_START, NOTHING_WRITTEN
from app.packaging.layout import INPUT, OUTPUT, PROGRAM, USER
from operators import __version__
from tests.support.checkout import ROOT

KUBERNETES = sorted((ROOT / "integrations" / "kubernetes").glob("*.yaml"))
COMPOSE = yaml.safe_load((ROOT / "integrations" / "compose" / "compose.yaml").read_text())


def documents(file: Path, kind: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(file.read_text()) if one["kind"] == kind]


def pods() -> list[dict[str, Any]]:
    found = [one for file in KUBERNETES for kind in ("Job", "Deployment") for one in documents(file, kind)]
    return [one["spec"]["template"]["spec"] for one in found]


def test_each_pod_is_as_hardened_as_the_image_allows():
    assert len(pods()) == 2
    for pod in pods():
        (container,) = pod["containers"]
        assert container["image"] == f"ctvae:{__version__}"
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" == USER
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}, "the root is read-only"


def test_the_job_does_not_retry_what_cannot_succeed():
    (job,) = documents(ROOT / "integrations/kubernetes/job.yaml", "Job")
    (rule,) = job["spec"]["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [NOTHING_WRITTEN, COULD_NOT_START])
    mounts = {mount["mountPath"]: mount for mount in job["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]}
    assert mounts[str(INPUT)]["readOnly"] is True and str(OUTPUT) in mounts


@pytest.mark.parametrize("where", ["compose", "kubernetes"])
def test_the_probe_is_the_golden_self_test(where):
    if where == "compose":
        command = COMPOSE["services"]["ctvae"]["healthcheck"]["test"][1:]
    else:
        (deployment,) = documents(ROOT / "integrations/kubernetes/listener.yaml", "Deployment")
        command = deployment["spec"]["template"]["spec"]["containers"][0]["startupProbe"]["exec"]["command"]
    assert command == [*PROGRAM, "doctor"]


def test_the_listener_of_kubernetes_reads_its_settings(tmp_path: Path):
    from app.pacs.settings import load_listener

    (settings,) = documents(ROOT / "integrations/kubernetes/listener.yaml", "ConfigMap")
    (tmp_path / "app.yaml").write_text(settings["data"]["app.yaml"])
    (tmp_path / "database").write_text("postgresql://ctvae:secret@postgres/ctvae\n")
    found = load_listener(tmp_path / "app.yaml", {"CTVAE_LISTENER_DATABASE_FILE": str(tmp_path / "database")})
    assert (found.address, found.database) == ("0.0.0.0", "postgresql://ctvae:secret@postgres/ctvae")


def test_compose_has_the_services_and_settings_of_make_pacs_demo(tmp_path: Path):
    """The demo's Orthanc and listener; beside them the queue's server, which the demo does without."""
    from app.pacs.demo import listener_settings, orthanc_settings
    from app.pacs.settings import load_listener

    folder, listener = ROOT / "integrations" / "compose", COMPOSE["services"]["ctvae"]
    assert set(COMPOSE["services"]) == {"ctvae", "orthanc", "postgres"}
    mounts = dict(mount.split(":")[:2] for mount in COMPOSE["services"]["orthanc"]["volumes"])
    assert mounts["./orthanc.json"] == "/etc/orthanc/orthanc.json"
    expected = orthanc_settings(mounts["orthanc"], "ctvae", mounts["../orthanc/ctvae.lua"])
    # Inside a container every client is remote; its port is this machine's alone.
    expected |= {"RemoteAccessAllowed": True, "AuthenticationEnabled": False}
    assert json.loads((folder / "orthanc.json").read_text()) == expected
    assert "127.0.0.1:8042:8042" in COMPOSE["services"]["orthanc"]["ports"]

    secret = tmp_path / "database"
    secret.write_text("postgresql://ctvae:secret@postgres/ctvae\n")
    environment = {name: str(value) for name, value in listener["environment"].items()}
    found = load_listener(folder / "app.yaml", environment | {"CTVAE_LISTENER_DATABASE_FILE": str(secret)})
    demo = load_listener(listener_settings(tmp_path), {})
    (destination,), (of_the_demo,) = found.destinations, demo.destinations
    assert destination == replace(of_the_demo, host="orthanc")
    assert (found.port, found.page.port) == (demo.port, demo.page.port)
    assert listener["ports"] == [f"{found.port}:{found.port}", f"127.0.0.1:{found.page.port}:{found.page.port}"]


def test_compose_hardens_the_listener_and_keeps_the_database_inside():
    listener = COMPOSE["services"]["ctvae"]
    assert (listener["image"], listener["user"], listener["read_only"]) == (f"ctvae:{__version__}", USER, True)
    assert listener["cap_drop"] == ["ALL"]
    assert COMPOSE["services"]["postgres"]["networks"] == ["inside"] and COMPOSE["networks"]["inside"]["internal"]
