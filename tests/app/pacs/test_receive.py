"""C-STORE by DCMTK's storescu: what is kept, what is answered, and what the disk and the database hold afterwards."""

from __future__ import annotations

import stat

import pytest
from pydicom import dcmread
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    MRImageStorage,
)
from pynetdicom.presentation import build_context

from app.pacs.arrivals import identify, reconcile
from app.pacs.database.tables import instance, series
from app.pacs.settings import ListenerSettings
from operators.dicom.pixel_format import COMPRESSED_SYNTAXES, NATIVE_SYNTAXES
from tests.support.listeners import (
    PATIENT,
    accepted,
    associate,
    data_set_of,
    listener,
    pdu,
    rejection,
    send,
    status_in,
    store_rq,
    stored,
)
from tests.support.tiny_ct import SERIES, compress, put, stored_values, write_tiny_ct
from tests.support.waiting import until

# pydicom warns of values that break the rules; the listener must take them as they come.
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR UI")


def test_what_arrived_is_kept_byte_for_byte_and_its_owner_alone_can_read_it(here, slices):
    assert send(here.port, *slices).returncode == 0
    assert here.files() == [f"instances/{SERIES}/{SERIES}.{d}.dcm" for d in (1, 2, 3)]
    for path in slices:
        sent, kept = dcmread(path), here.spool.root / "instances" / SERIES / f"{dcmread(path).SOPInstanceUID}.dcm"
        assert kept.read_bytes()[-200:] == path.read_bytes()[-200:]
        assert dcmread(kept) == sent
    modes = {
        (path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in (here.spool.root, *here.spool.root.rglob("*"))
    }
    assert modes == {(True, 0o700), (False, 0o600)}
    assert here.half_arrived() == []


def test_each_instance_has_a_row_and_the_series_is_arriving(here, slices):
    send(here.port, *slices)
    rows = here.rows(instance)
    told = [(row.state, row.calling_ae, row.sender, row.copy) for row in rows]
    assert told == [("kept", "SENDER", "127.0.0.1", 0)] * 3
    (row,) = here.rows(series)
    assert (row.series_uid, row.state, row.source_ae, row.revision) == (SERIES, "arriving", "SENDER", 0)


def test_the_same_instance_again_changes_nothing(here, slices):
    send(here.port, *slices)
    before = here.rows(instance), here.rows(series)
    assert send(here.port, *slices).returncode == 0
    assert (here.rows(instance), here.rows(series)) == before


@pytest.mark.parametrize("option", ["-xi", "-xb", "-xe"])
def test_the_same_instance_in_another_encoding_changes_nothing(here, slices, option):
    send(here.port, *slices)
    before = here.files(), here.rows(instance), here.rows(series)
    assert send(here.port, option, *slices).returncode == 0
    assert (here.files(), here.rows(instance), here.rows(series)) == before


def test_other_content_under_one_uid_is_kept_apart_with_a_finding(here, tmp_path, slices):
    send(here.port, *slices)
    first = (here.spool.root / here.files()[0]).read_bytes()
    others = write_tiny_ct(tmp_path / "others", stored_values(1, seed=5))
    for _ in range(2):
        assert send(here.port, *others).returncode == 0
    assert f"instances/{SERIES}/{SERIES}.1.copy1.dcm" in here.files() and len(here.files()) == 4
    assert (here.spool.root / f"instances/{SERIES}/{SERIES}.1.dcm").read_bytes() == first
    assert [(row.copy, row.state, row.reason) for row in here.rows(instance)][3:] == [(1, "aside", "OTHER_CONTENT")]
    assert here.rows(series)[0].findings.count("OTHER_CONTENT") == 1


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5"])
def test_a_compressed_copy_of_a_known_instance_is_the_same_instance(here, tmp_path, slices, syntax):
    send(here.port, *slices)
    packed = write_tiny_ct(tmp_path / "packed", stored_values(3), change=compress(syntax))
    assert stored(here.port, *packed, syntax=syntax) == [0, 0, 0]
    assert len(here.files()) == 3


def test_every_transfer_syntax_that_the_reader_knows_is_accepted_for_each_class(here):
    syntaxes = [*NATIVE_SYNTAXES, *COMPRESSED_SYNTAXES]
    for uid in (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage):
        assoc = associate(here.port, *(build_context(uid, syntax) for syntax in syntaxes))
        assert [context.transfer_syntax for context in assoc.accepted_contexts] == [[syntax] for syntax in syntaxes]
        assoc.release()


def test_another_class_is_not_accepted_with_result_3(here):
    assoc = associate(here.port, build_context(MRImageStorage), build_context(CTImageStorage))
    assert [context.result for context in assoc.rejected_contexts] == [3]
    assoc.release()


def test_what_has_no_uid_to_file_it_by_is_refused(here, tmp_path):
    def broken(dataset, d):
        if d == 0:
            put(dataset, SeriesInstanceUID="../../x")
        elif d == 1:
            del dataset.StudyInstanceUID
        else:
            put(dataset, SOPInstanceUID="..")

    paths = write_tiny_ct(tmp_path / "broken", stored_values(3), change=broken)
    assert stored(here.port, *paths) == [0xC000] * 3
    assert (here.files(), here.rows(instance), here.half_arrived()) == ([], [], [])
    assert not list(tmp_path.rglob("x*"))


def test_a_request_that_names_another_instance_than_its_data_set_is_refused(here, slices):
    peer = accepted(here.port)
    peer.sendall(store_rq("../../x", data_set_of(slices[0])))
    assert status_in(peer.recv(4096)) == 0xC000
    peer.close()
    assert (here.files(), here.half_arrived()) == ([], [])


def test_below_the_reserve_the_answer_is_a700_and_when_there_is_room_all_goes_on(here, slices):
    here.spool.reserve_bytes = 1 << 60
    assert stored(here.port, *slices) == [0xA700] * 3
    assert here.files() == [] and here.half_arrived() == []
    here.spool.reserve_bytes = 0
    assert send(here.port, *slices).returncode == 0
    assert len(here.files()) == 3


def test_an_object_that_is_too_long_is_refused_and_the_association_goes_on(here, slices):
    here.spool.max_object_bytes = slices[0].stat().st_size - 40
    assert stored(here.port, slices[0]) == [0xA700]
    assert here.files() == [] and here.half_arrived() == []


def test_an_association_that_is_aborted_in_the_middle_leaves_nothing(here, slices):
    peer = accepted(here.port)
    peer.sendall(store_rq("1.2.3", data_set_of(slices[0])[:100], last=False))
    until(lambda: len(here.half_arrived()) == 1)
    peer.sendall(pdu(7, b"\0\0\0\0"))
    peer.close()
    until(lambda: here.half_arrived() == [])
    assert here.files() == []


def test_a_file_without_a_row_gets_one_at_the_next_start(here, slices):
    send(here.port, *slices)
    with here.database.begin() as connection:
        connection.execute(instance.delete().where(instance.c.id > 1))
    assert reconcile(here.database, here.spool) == 2
    assert reconcile(here.database, here.spool) == 0
    assert [row.calling_ae for row in here.rows(instance)] == ["SENDER", "", ""]
    send(here.port, *slices)
    assert [row.calling_ae for row in here.rows(instance)] == ["SENDER"] * 3


def test_a_file_that_breaks_its_reader_keeps_no_other_from_its_row(here, slices, monkeypatch, caplog):
    send(here.port, *slices)
    with here.database.begin() as connection:
        connection.execute(instance.delete())

    def broken(path):
        if path.name == here.files()[0].rpartition("/")[2]:
            raise KeyError
        return identify(path)

    monkeypatch.setattr("app.pacs.arrivals.identify", broken)
    assert reconcile(here.database, here.spool) == 2
    assert f"{here.files()[0]} in the spool gets no row (KeyError)" in caplog.text


def test_a_purged_instance_that_comes_again_is_acknowledged_and_not_kept(here, slices):
    send(here.port, *slices)
    with here.database.begin() as connection:
        connection.execute(instance.update().values(state="purged"))
    for name in here.files():
        (here.spool.root / name).unlink()
    before = here.rows(series)
    assert send(here.port, *slices).returncode == 0
    assert here.files() == [] and here.rows(series) == before


def test_only_the_titles_on_the_list_are_let_in(tmp_path):
    settings = ListenerSettings(calling_ae_titles=("CT1",), limits=PATIENT)
    with listener(tmp_path, settings) as here:
        let_in = associate(here.port, calling="CT1")
        assert let_in.is_established
        assert rejection(here.port, calling="CT2") == (1, 1, 3)
        let_in.release()
