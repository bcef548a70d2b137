"""What runs of an image show, on a shell script that answers as ctvae does, and on scripts that do not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from app.cli import main
from app.packaging.check import calling, running
from app.packaging.check.clause import CannotTell, NotHeld
from app.packaging.check.container import Container, open_container
from app.packaging.check.image import open_image
from app.packaging.check.sandbox import Mount, run
from tests.support.checkout import ROOT
from tests.support.images import MadeImage
from tests.support.shell_image import AT_WORK, ENCODE, RESULTS, SCRIPT, shell_image
from tests.support.waiting import PATIENCE_S


@pytest.fixture(autouse=True, scope="module")
def _known_results() -> Iterator[None]:
    """The script's results stand in for those of ctvae encode, which has tests of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.packaging.check.container.encoded_outside", lambda *_: RESULTS)
        yield


@contextmanager
def opened(image: MadeImage, folder: Path, scan: Path) -> Iterator[Container]:
    with open_image(image.write_docker(folder / "ctvae.tar")) as archive, open_container(archive, scan) as container:
        yield container


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory, phantom_ct: Path) -> Path:
    """Two slices of the phantom."""
    folder = tmp_path_factory.mktemp("scan")
    for file in sorted(phantom_ct.rglob("*.dcm"))[:2]:
        shutil.copy(file, folder)
    return folder


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory, scan: Path) -> Iterator[Container]:
    with opened(shell_image(), tmp_path_factory.mktemp("right"), scan) as container:
        yield container


@pytest.mark.parametrize("code", [code for code in running.CLAUSES if code != "RUN_NO_SHELL"])
def test_an_image_that_does_what_is_asked_keeps_each_clause(right, code):
    assert running.CLAUSES[code](with_script(right, SCRIPT + AT_WORK) if code == "RUN_STOP" else right)


def test_a_script_needs_its_shell(right):
    with pytest.raises(NotHeld, match=r"exit code 126 \(bwrap: execvp /opt/start: "):
        running.no_shell(right)


WRONG = [
    ("RUN_ENCODE", ENCODE + "\nexit 3\n", SCRIPT, "exit code 3"),
    ("RUN_ENCODE", ENCODE.replace('"mu": 1', '"mu": 2'), SCRIPT, r"1\.2\.3/features\.json differ"),
    (
        "RUN_ENCODE",
        "(" + ENCODE.replace("mkdir", "exit 9") + ")\necho done\n",
        SCRIPT,
        r"exit code 0, and no 1\.2\.3/feat",
    ),
    ("RUN_ENCODE", ENCODE.replace("rm /tmp/work", ":"), SCRIPT, "it left /tmp/work"),
    ("RUN_ENCODE", ENCODE + "\necho >/var/holoscan/state || exit 1\n", SCRIPT, "exit code 1"),
    ("RUN_CRASH", "(" + ENCODE + ")\necho done\n", SCRIPT, "an application that raises ended with exit code 0"),
    ("RUN_FAILED", ENCODE.replace("exit 1; }", "continue; }"), SCRIPT, "exit code 0"),
    ("RUN_NOTHING_ELIGIBLE", "(" + ENCODE + ")\necho done\n", SCRIPT, "an empty input ended with exit code 0"),
    ("RUN_WRONG_CALL", ENCODE, SCRIPT.replace("exit 3", "exit 2"), "exit code 2"),
    ("RUN_SHOW", ENCODE, SCRIPT.replace("cat /etc/holoscan/pkg.json", "echo {}"), "show pkg does not print"),
    ("RUN_ENV", ENCODE, SCRIPT.replace("export -p", "echo none"), "env does not print"),
    ("RUN_HELP", ENCODE, SCRIPT.replace("show env extract", "show"), "help does not name env, extract"),
    ("RUN_EXTRACT", ENCODE, SCRIPT.replace("config models docs", "config docs"), "does not copy .*encoder.onnx"),
    ("RUN_EXTRACT", ENCODE, SCRIPT.replace("parts=config", 'parts="app config"'), "also copies app"),
    ("RUN_STOP", AT_WORK.replace('echo "{}" >$out/outcome.json;', ""), SCRIPT, "no outcome.json"),
    ("RUN_STOP", AT_WORK.replace("exit 1' TERM", "exit 0' TERM"), SCRIPT, "SIGTERM ended with exit code 0"),
    ("RUN_FAILED", ENCODE.replace('"failed"', '"skipped"'), SCRIPT, "statuses"),
    ("RUN_DOCTOR", ENCODE, SCRIPT.replace("golden values; exit 0", "golden; exit 1"), "exit code 1"),
    ("RUN_DOCTOR", ENCODE, SCRIPT.replace("golden values", ""), "no good golden values"),
]


@pytest.mark.parametrize(
    ("code", "encode", "script", "said"), WRONG, ids=[f"{at}-{one[0]}" for at, one in enumerate(WRONG)]
)
def test_an_image_that_does_not_is_told_so(right, code, encode, script, said):
    with pytest.raises(NotHeld, match=said):
        running.CLAUSES[code](with_script(right, script + encode))


def test_a_run_that_ends_before_its_signal_tells_nothing(right):
    early = ENCODE.replace("echo work >$out/lock", "").replace("trap", ": trap")
    with pytest.raises(CannotTell, match="had ended before the signal came"):
        running.stop(with_script(right, SCRIPT + early))


def test_a_file_that_is_renamed_while_it_is_looked_at_is_looked_for_again(tmp_path):
    (tmp_path / "lock").touch()
    os.utime(tmp_path / "lock", (0, 0))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(["sh", "-c", "trap : TERM; echo at; read end"], **pipes) as at:
        assert at.stdout.readline() == b"at\n"
        assert running._is_working(at.pid, tmp_path)
        renamed = SimpleNamespace(iterdir=lambda: [tmp_path / "lock", tmp_path / ".outcome.json.0123.partial"])
        assert not running._is_working(at.pid, renamed)
        at.stdin.close()


def with_script(container: Container, script: str) -> Container:
    """The container with another script in the place of its own, where its user may read it."""
    file = Path(tempfile.mkdtemp(dir=container.work)) / "start"
    file.write_text(script)
    file.chmod(0o755)
    file.parent.chmod(0o755)
    changed = replace(container)
    vars(changed)["start"] = replace(container.start, mounts=(Mount(file, "/opt/start"),))
    return changed


def test_the_container_has_no_network_no_rights_and_no_other_files(right):
    script = "cat /proc/self/status /proc/net/dev; echo x >/etc/x; echo x >/var/holoscan/input/x; echo $HOME-$PWD"
    start = replace(right.start, words=("/bin/sh", "-c", script), env={"PATH": "/bin"})
    ended = run(right.rootfs, start)
    lines = [line.split() for line in ended.out.splitlines()]
    status = {words[0]: words[1:] for words in lines if words}
    assert status["Uid:"] == ["4321"] * 4 and status["NoNewPrivs:"] == ["1"]
    assert {status[f"Cap{name}:"][0] for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert [words[0] for words in lines if words and words[0].endswith(":") and len(words) > 10] == ["lo:"]
    assert ended.err.count("Read-only file system") == 2
    assert ended.out.splitlines()[-1] == "-/var/holoscan"


def test_a_mount_point_that_was_missing_is_gone_afterwards(right):
    with right.rootfs.mount_points(["/var/run/made/deep", "/etc/monai/made"]) as places:
        assert places == ["/var/run/made/deep", "/etc/holoscan/made"]
        assert (right.rootfs.folder / "etc/holoscan/made").is_dir()
    assert not (right.rootfs.folder / "etc/holoscan/made").exists()
    assert not (right.rootfs.folder / "var/run").exists()


def test_the_files_on_disk_are_those_of_the_image_without_setuid(tmp_path, scan):
    image = shell_image()
    image.layers[0]["bin/cat"] = replace(image.layers[0]["bin/cat"], mode=0o4755)
    with opened(image, tmp_path, scan) as container:
        assert (container.rootfs.folder / "bin/cat").stat().st_mode & 0o7777 == 0o755
        assert (container.rootfs.folder / "etc/monai").readlink() == Path("holoscan")
        assert (container.rootfs.folder / "tmp").stat().st_mode & 0o7777 == 0o1777


def test_plain_and_mercure_calls_are_those_that_they_make(right):
    assert "results as outside" in calling.plain(right)
    assert calling.monai_package.__doc__
    with pytest.raises(NotHeld, match=r"no result\.json that is JSON"):
        calling.mercure(right)


def test_without_bubblewrap_nothing_runs(tmp_path, capsys, monkeypatch):
    archive = shell_image().write_docker(tmp_path / "ctvae.tar")
    monkeypatch.setattr("app.packaging.check.sandbox.shutil.which", lambda _: None)
    assert main(["map", "check", str(archive), "--run"]) == 3
    assert "NO_SANDBOX: found no bwrap; expected" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_check_that_is_stopped_leaves_no_files(tmp_path, scan, number):
    archive, temporary = shell_image().write_docker(tmp_path / "ctvae.tar"), tmp_path / "temporary"
    temporary.mkdir()
    held = (
        "import sys; from app.cli import main; from app.packaging.check import rootfs; write = rootfs._write_file\n"
        "def hold(*file): write(*file); print('at', flush=True); sys.stdin.read()\n"
        "rootfs._write_file = hold; sys.exit(main(['map', 'check', *sys.argv[1:]]))"
    )
    command = [sys.executable, "-c", held, archive, "--run", "--input", scan]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as check:
        assert check.stdout.readline() == b"at\n" and list(temporary.glob("ctvae-map*/rootfs/*"))
        check.send_signal(number)
        assert check.wait(PATIENCE_S) == 1
    assert list(temporary.iterdir()) == []


def test_the_command_runs_what_it_is_asked_to(tmp_path, scan, capsys):
    archive = shell_image().write_docker(tmp_path / "ctvae.tar")
    assert main(["map", "check", str(archive), "--as", "plain", "--input", str(scan), "--json"]) == 1
    verdicts = {one["question"]: one for one in json.loads(capsys.readouterr().out)["verdicts"]}
    assert verdicts["CALL_PLAIN"]["good"] is True
    assert not set(running.CLAUSES) & set(verdicts)
