"""`ctvae table` reads the SRs of a DICOMweb server: a real Orthanc, in a network of its own."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest

from app.cli import main
from app.table import server
from operators.errors import StartError
from operators.results.write_json import features_json
from operators.sr.predecessor import read_predecessor
from operators.sr.write import sr_bytes
from tests.support.orthanc import DICOMWEB_URL, loopback, need_orthanc, orthanc
from tests.support.sr_records import ct_header, made_record


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """The table of three results by their JSON, the same by the SRs in Orthanc, and what the second run said.

    One of the SRs there took the place of an earlier one; another object there is no SR of ours.
    """
    need_orthanc()
    folder = tmp_path_factory.mktemp("server")
    files = []
    for number in range(3):
        uid = f"1.2.826.0.1.3680043.10.1.7.{number + 1}"
        headers = [ct_header(k, SeriesInstanceUID=uid) for k in (1, 2, 3)]
        record = made_record(
            headers, series_instance_uid=uid, quantities={"mean_hu": -0.1 * number, "fat_fraction": 0.3}
        )
        record = replace(
            record, identity=replace(record.identity, series_instance_uid=uid), job_key=f"{number}{number}" * 32
        )
        earlier = folder / f"{number}.earlier.dcm"
        earlier.write_bytes(sr_bytes(replace(record, job_key="ff" * 32)))
        replaced = read_predecessor(earlier) if number == 0 else None
        files += [earlier] if number == 0 else []
        files.append(folder / f"{number}.dcm")
        files[-1].write_bytes(sr_bytes(record, predecessor=replaced))
        (folder / "json" / uid).mkdir(parents=True)
        (folder / "json" / uid / "features.json").write_bytes(features_json(record))
    assert main(["table", str(folder / "json"), "-o", str(folder / "json.parquet")]) == 0
    with loopback() as network, orthanc(folder, network=network):
        network.send(*files)
        command = ["table", DICOMWEB_URL, "-o", folder / "server.parquet"]
        run = network.run([sys.executable, "-c", "import sys; from app.cli import main; sys.exit(main())", *command])
    assert run.returncode == 0, run.stderr
    return *(pd.read_parquet(folder / f"{name}.parquet") for name in ("json", "server")), run.stdout


def test_the_numbers_are_those_of_the_json_bit_for_bit(tables):
    by_json, by_server = (table.sort_values("series_instance_uid", ignore_index=True) for table in tables[:2])
    described = {"sex", "age_years", "manufacturer", "manufacturer_model", "image_type", "kernel", "kvp", "mas"}
    same = [name for name in by_json if name not in described]
    assert len(by_json) == 3 and len(same) > 70
    pd.testing.assert_frame_equal(by_json[same], by_server[same], check_exact=True)


def test_the_report_whose_place_another_took_is_counted_and_left_out(tables):
    assert tables[2].startswith("3 rows")
    assert "1 replaced by a later SR" in tables[2]


def test_an_instance_without_a_valid_uid_names_no_file_and_is_not_quoted(tmp_path, monkeypatch, recwarn):
    series = {"0020000D": {"Value": ["1.2.3"]}, "0020000E": {"Value": ["1.2.4"]}}
    answers = SimpleNamespace(
        search_for_series=lambda offset, **asked: [] if offset else [series],
        search_for_instances=lambda *asked, **fields: [{"00080018": {"Value": ["../DOE^JOHN"]}}],
    )
    monkeypatch.setattr(server, "open_client", lambda url, token: answers)
    with pytest.raises(StartError, match="SERVER_FAILED") as said:
        server.fetch_reports("http://pacs.example/dicom-web", None, tmp_path, lambda: None)
    assert "DOE" not in "".join(map(str, [said.value, *(one.message for one in recwarn)]))
    assert not list(tmp_path.iterdir())


def test_a_server_that_answers_in_pieces_is_asked_for_all_of_them(tmp_path, monkeypatch):
    series, reports = (
        {"0020000D": {"Value": ["1.2.3"]}, "0020000E": {"Value": ["1.2.4"]}},
        [f"1.2.5.{k}" for k in range(5)],
    )
    kept = []
    answers = SimpleNamespace(
        search_for_series=lambda offset, **asked: [] if offset else [series],
        search_for_instances=lambda *asked, offset=0, **how: [
            {"00080018": {"Value": [uid]}} for uid in reports[offset : offset + 2]
        ],
        retrieve_instance=lambda *uids: SimpleNamespace(save_as=lambda file: kept.append(file.name)),
    )
    monkeypatch.setattr(server, "open_client", lambda url, token: answers)
    server.fetch_reports("http://pacs.example/dicom-web", None, tmp_path, lambda: None)
    assert kept == [f"{uid}.dcm" for uid in reports]
