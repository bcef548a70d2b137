"""The listener's settings: the file that is shipped, what the environment replaces, and what is wrong."""

from __future__ import annotations

import pytest

from app.pacs.settings import Limits, ListenerSettings, load_listener
from app.settings import Settings, load_settings
from operators.errors import StartError


def test_the_shipped_file_says_what_the_defaults_are_and_listens_on_loopback_alone():
    assert load_listener(environment={}) == ListenerSettings()
    assert ListenerSettings().address == "127.0.0.1"


def test_destinations_and_the_limits_of_the_worker_are_read(tmp_path):
    (tmp_path / "app.yaml").write_text("""
listener:
  destinations:
    - {name: PACS, ae_title: ORTHANC, port: 4242, commitment: true, from_ae: [CT1]}
    - {name: WEB, kind: stow, url: "http://127.0.0.1:8042/dicom-web"}
""")
    found = load_listener(tmp_path / "app.yaml", {"CTVAE_LISTENER_WORKER_LIMITS_TIME_S": "60"})
    assert [(one.name, one.kind, one.from_ae) for one in found.destinations] == [
        ("PACS", "store", ("CT1",)),
        ("WEB", "stow", ()),
    ]
    assert found.worker.limits.time_s == 60 and found.database_url.endswith("listener/queue.db")


def test_the_environment_replaces_single_keys_and_a_secret_comes_from_a_file(tmp_path):
    url, settings = tmp_path / "url", tmp_path / "settings.yaml"
    url.write_text("postgresql://ctvae:secret@db/queue\n")
    settings.write_text("listener:\n  port: 1\n  limits: {associations: 3}\n")
    given = {
        "PORT": "11113",
        "AE_TITLE": "0815",
        "CALLING_AE_TITLES": "[CT1, CT2]",
        "LIMITS_IDLE_S": "7",
        "DATABASE_FILE": str(url),
    }
    found = load_listener(settings, {f"CTVAE_LISTENER_{name}": value for name, value in given.items()})
    assert (found.port, found.ae_title, found.calling_ae_titles) == (11113, "0815", ("CT1", "CT2"))
    assert found.limits == Limits(associations=3, idle_s=7)
    assert found.database == "postgresql://ctvae:secret@db/queue"


WRONG_FILES = [
    ("listener: {prot: 1}", "line 1: listener.prot: unknown key"),
    ("listener:\n  limits: {idel_s: 1}", "line 2: listener.limits.idel_s"),
    ("listener: {ae_title: A_TITLE_OF_TOO_MANY_LETTERS}", "expected 1 to 16 ASCII characters"),
    ("listener: {tls: {key: k.pem}}", "expected both certificate and key"),
    ("listener: {port: '1'}", "expected a whole number"),
    ("listener: {destinations: [{name: A}]}", "destination A: no ae_title"),
    ("listener: {destinations: [{name: A, ae_title: X}, {name: A, ae_title: Y}]}", "two destinations have the same"),
    (
        "listener: {destinations: [{name: A, ae_title: X, prot: 1}]}",
        "line 1: listener.destinations.0.prot: unknown key",
    ),
    ("listener: {worker: {limits: {time: 1}}}", "listener.worker.limits.time: unknown key"),
]


@pytest.mark.parametrize(("text", "said"), WRONG_FILES)
def test_a_wrong_file_is_named_with_line_and_key(tmp_path, text, said):
    (tmp_path / "app.yaml").write_text(text)
    with pytest.raises(StartError) as caught:
        load_listener(tmp_path / "app.yaml", {})
    assert caught.value.reason == "SETTINGS_INVALID" and said in caught.value.message


WRONG_VARIABLES = [
    ("CTVAE_LISTENER_PROT", "1", "CTVAE_LISTENER_PROT: unknown variable"),
    ("CTVAE_LISTENER_PORT", "eleven", "CTVAE_LISTENER_PORT: "),
    ("CTVAE_LISTENER_LIMITS_IDLE_S", "[1", "CTVAE_LISTENER_LIMITS_IDLE_S: cannot be read"),
    ("CTVAE_LISTENER_DATABASE_FILE", "/nowhere/url", "CTVAE_LISTENER_DATABASE_FILE: cannot read"),
]


@pytest.mark.parametrize(("name", "value", "said"), WRONG_VARIABLES)
def test_a_wrong_variable_is_named_and_its_value_is_not_shown(name, value, said):
    with pytest.raises(StartError) as caught:
        load_listener(environment={name: value})
    assert caught.value.message.startswith(said) and value not in caught.value.message[len(said) :]


def test_a_run_does_not_mind_the_section(tmp_path):
    (tmp_path / "app.yaml").write_text("listener: {port: 1}\n")
    assert load_settings(tmp_path / "app.yaml", {}) == Settings()
