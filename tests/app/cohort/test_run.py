"""A cohort from its files to its tables: whatever happens on the way, the same bytes; every series in one table."""

from __future__ import annotations

import multiprocessing
import os
import select
import shutil
import signal
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from app import encode
from app.cohort import local, run
from app.cohort.ended import EndedStore
from app.cohort.index import FILES
from app.cohort.indexed_series import INDEX
from app.cohort.local import Limits
from app.cohort.look import look_here
from app.cohort.run import Options, run_cohort
from app.table.make import TableSettings, make_table
from operators.errors import RunFailed, StartError
from tests.support.cohort_runs import SETTINGS, never_answer, run_and_die, run_here
from tests.support.cohorts import write_nifti, write_patient
from tests.support.waiting import PATIENCE_S

WRITTEN = 5  # two phantoms, one of them in two places; one in an archive; NIfTI in two places; a real chest


@pytest.fixture(scope="module")
def data(tmp_path_factory, shared_ct) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    write_patient(folder / "p1", 1)
    shutil.copytree(write_patient(folder / "p2", 2), folder / "again" / "p2")
    shutil.copytree(shared_ct("cip_chest/ct64_dicom"), folder / "chest")
    with zipfile.ZipFile(folder / "p3.zip", "w") as archive:
        for file in sorted(write_patient(folder / "p3", 3).iterdir()):
            archive.write(file, f"inside/{file.name}")
    shutil.rmtree(folder / "p3")
    shutil.copy(write_nifti(folder / "one.nii.gz", 4), folder / "two.nii.gz")
    write_nifti(folder / "mask.nii.gz", 5, mask=True)
    few = sorted(write_patient(folder / "few", 6).iterdir())
    for file in few[2:]:
        file.unlink()
    (folder / "broken.dcm").write_bytes(b"no DICOM")
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed")
    assert run_here(data, output) == 0
    return output


def tables(output: Path) -> dict[str, bytes]:
    (folder,) = output.glob("*/tables")
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def rows(output: Path, name: str) -> list[dict]:
    (folder,) = output.glob("*/tables")
    return [row for file in sorted(folder.glob(name)) for row in pq.read_table(file).to_pylist()]


def test_every_series_is_in_exactly_one_table_with_its_reason_and_its_places(undisturbed):
    features, failures = rows(undisturbed, "features/*.parquet"), rows(undisturbed, "failures.parquet")
    keys = [(row["series_instance_uid"], row["part"]) for row in features + failures]
    assert len(features) == WRITTEN and len(set(keys)) == len(keys)
    assert sorted((row["status"], row["reason"]) for row in failures) == [
        ("rejected", "TOO_FEW_SLICES"),
        ("rejected", "UNREADABLE_FILE"),
        ("skipped", "LABEL_MAP"),
    ]
    places = {}
    for row in rows(undisturbed, "places.parquet"):
        places.setdefault((row["series_instance_uid"], row["part"]), []).append(row["place"])
    assert places.keys() == set(keys)
    assert ["again/p2", "p2"] in places.values() and ["one.nii.gz", "two.nii.gz"] in places.values()
    assert ["p3.zip/inside"] in places.values() and ["broken.dcm"] in places.values()


def test_killed_twice_and_resumed_by_two_workers_it_gives_the_same_bytes(data, undisturbed, tmp_path):
    context = multiprocessing.get_context("spawn")
    for units, entered in ((1, True), (2, False)):
        process = context.Process(target=run_and_die, args=(data, tmp_path, 2, units), kwargs={"entered": entered})
        process.start()
        process.join(PATIENCE_S)
        assert process.exitcode == -signal.SIGKILL
        assert all(map(ends, (tmp_path / "children").read_text().split()))
        assert not list(tmp_path.glob("*/tables"))
    assert run_here(data, tmp_path, workers=2) == 0
    assert tables(tmp_path) == tables(undisturbed)
    assert (tmp_path / INDEX / FILES).read_bytes() == (undisturbed / INDEX / FILES).read_bytes()


def ends(pid: str) -> bool:
    """Whether a process that is not ours ends."""
    try:
        handle = os.pidfd_open(int(pid))
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], PATIENCE_S)[0])
    finally:
        os.close(handle)


def test_a_finished_run_does_nothing(data, undisturbed, monkeypatch, capsys):
    def never(*_args, **_kwargs):
        raise AssertionError("there is nothing to do")

    monkeypatch.setattr(run.Team, "encode", never)
    before = {file: file.stat().st_mtime_ns for file in undisturbed.rglob("*") if file.is_file()}
    assert run_here(data, undisturbed) == 0
    assert {file: file.stat().st_mtime_ns for file in undisturbed.rglob("*") if file.is_file()} == before
    assert f"{WRITTEN} written, 2 rejected, 1 skipped, 0 failed" in capsys.readouterr().out


def test_the_features_are_those_of_encode(data, undisturbed):
    (record,) = encode(data / "chest", device="cpu")
    features = rows(undisturbed, "features/*.parquet")
    (row,) = [one for one in features if one["series_instance_uid"] == record.series_instance_uid]
    mu = record.taps["mu"].values.tolist()
    assert [row[f"mu_{k:03d}"] for k in range(len(mu))] == mu
    assert len({one["patient_key"] for one in features}) == WRITTEN


def test_a_changed_configuration_is_another_partition_and_new_files_are_all_that_is_encoded(data, tmp_path):
    source = tmp_path / "data"
    shutil.copytree(data / "p1", source / "p1")
    output = tmp_path / "out"
    assert run_here(source, output, files="json_and_sr") == 0
    (first,) = output.glob("*/tables")
    assert sorted(file.name for file in output.glob("*/results/*/*/*/*")) == ["features.json", "features.sr.dcm"]
    shutil.copytree(data / "p2", source / "p2")
    assert run_here(source, output) == 0
    assert len(list(output.glob("*/tables"))) == 2 and pq.read_table(first / "features").num_rows == 1
    shutil.rmtree(source / "p1")
    encoded = []
    entered = EndedStore.enter
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EndedStore, "enter", lambda *args: (encoded.append(args[1].name), entered(*args)))
        assert run_here(source, output) == 0
    assert encoded == []
    (second,) = (folder for folder in output.glob("*/tables") if folder != first)
    assert pq.read_table(second / "features").num_rows == 1


def test_a_full_disk_leaves_nothing_half_and_the_next_run_goes_on(data, tmp_path, monkeypatch):
    source, output = tmp_path / "data", tmp_path / "out"
    shutil.copytree(data / "p1", source)
    opened = EndedStore.__init__

    def on_a_full_disk(self, file):
        opened(self, file)
        pages = self._database.execute("PRAGMA page_count").fetchone()[0]
        self._database.execute(f"PRAGMA max_page_count = {pages}")

    with monkeypatch.context() as patch:
        patch.setattr(EndedStore, "__init__", on_a_full_disk)
        patch.setattr("app.cohort.ended.zlib.compress", lambda text, level: text * 4)
        with pytest.raises(RunFailed, match=r"OUTPUT_UNWRITABLE: .*disk is full.*; what was finished is kept"):
            run_here(source, output)
    assert not list(output.glob("*/tables"))
    assert run_here(source, output) == 0
    assert len(rows(output, "features/*.parquet")) == 1


def test_a_study_that_takes_too_much_memory_fails_and_is_tried_again(data, tmp_path, monkeypatch):
    source, output = tmp_path / "data", tmp_path / "out"
    shutil.copytree(data / "p1", source)
    with monkeypatch.context() as patch:
        patch.setattr(local, "serve", never_answer)
        patch.setattr(run.Team, "look", lambda self, chunks: look_here(chunks))
        assert run_cohort(source, output, None, SETTINGS, Options(Limits(1, memory_mb=1))) == 1
    assert [(row["status"], row["reason"]) for row in rows(output, "failures.parquet")] == [("failed", "WORKER_MEMORY")]
    assert run_here(source, output) == 0
    assert rows(output, "failures.parquet") == []


def test_a_file_that_its_reader_does_not_survive_costs_itself_and_is_tried_again(data, tmp_path, monkeypatch):
    """A process that reads a header with a budget of one megabyte is ended, whatever it reads."""
    source, output = tmp_path / "data", tmp_path / "out"
    shutil.copytree(data / "few", source)
    with monkeypatch.context() as patch:
        patch.setattr(local, "serve", never_answer)
        patch.setattr(local, "TICK_S", 0.01)
        assert run_cohort(source, output, None, SETTINGS, Options(Limits(1, memory_mb=1))) == 1
    failures = rows(output, "failures.parquet")
    assert {(row["status"], row["reason"]) for row in failures} == {("failed", "WORKER_MEMORY")}
    assert sorted(row["places"] for row in failures) == sorted(file.name for file in source.iterdir())
    assert run_here(source, output) == 2
    assert [row["reason"] for row in rows(output, "failures.parquet")] == ["TOO_FEW_SLICES"]


def test_the_table_reads_the_cohort(undisturbed, tmp_path):
    made = make_table([undisturbed], tmp_path / "t.parquet", TableSettings(with_paths=True), lambda *_: None)
    assert (made.rows, made.passed.others, made.passed.broken) == (WRITTEN, 0, [])
    read = pq.read_table(tmp_path / "t.parquet").to_pylist()
    assert {row["source_path"] for row in read} == {"p1", "again/p2", "p3.zip/inside", "chest", "one.nii.gz"}
    want = {row["series_instance_uid"]: row for row in rows(undisturbed, "features/*.parquet")}
    for row in read:
        del row["source_path"]
        assert row.items() <= want[row["series_instance_uid"]].items()


def test_the_page_needs_nothing_else_and_names_no_place(undisturbed):
    page = tables(undisturbed)["report.html"].decode()
    assert "http" not in page and "src=" not in page
    assert "TOO_FEW_SLICES" in page and "p3.zip" not in page and "broken.dcm" not in page


def test_a_second_run_into_one_folder_and_other_data_are_refused(data, undisturbed, tmp_path):
    (tmp_path / "other").mkdir()
    with pytest.raises(StartError, match="OTHER_COHORT"):
        run_here(tmp_path / "other", undisturbed)
    with run.output_lock(undisturbed), pytest.raises(StartError, match="OUTPUT_IN_USE"):
        run_here(data, undisturbed)
    assert (undisturbed / "index" / FILES).exists()
