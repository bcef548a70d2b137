"""Run inside a namespace with a new Orthanc: what our sender does, as JSON on stdout.

python -m tests.support.deliver_to_orthanc FOLDER
"""

from __future__ import annotations

import json
import logging
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path

from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel
from sqlalchemy import select, update

from app.pacs.backoff import Backoff
from app.pacs.commitment import report_handler
from app.pacs.database.engine import open_database
from app.pacs.database.tables import commitment, delivery, now
from app.pacs.deliver import Deliverer
from app.pacs.destination import Destination
from app.pacs.places import Places
from tests.support.orthanc import AE_TITLE, DICOM_PORT, DICOMWEB_URL, URL
from tests.support.queued import make_results
from tests.support.waiting import PATIENCE_S, until

TO = Destination(
    "PACS",
    ae_title=AE_TITLE,
    port=DICOM_PORT,
    commitment=True,
    commitment_wait_s=1.0,
    timeout_s=PATIENCE_S,
    backoff=Backoff(first_s=0.05, longest_s=0.1),
)
OUR_PORT = 11112
MODALITIES = {"ctvae": {"AET": "CTVAE", "Host": "127.0.0.1", "Port": OUR_PORT, "AllowStorageCommitment": True}}


def main(folder: Path) -> None:
    logging.disable(logging.CRITICAL)
    places = Places(folder)
    places.make()
    database = open_database(places.database_url)

    def row(table: object, *names: str) -> list[object]:
        with database.read() as connection:
            columns = [table.c[name] for name in names]  # type: ignore[attr-defined]
            found = connection.execute(select(*columns).order_by(table.c.id.desc()).limit(1)).first()  # type: ignore[attr-defined]
            return list(found) if found else []

    def make_due() -> None:
        with database.begin() as connection:
            connection.execute(update(delivery).where(delivery.c.state == "sent").values(not_before=now()))

    def state() -> list[object]:
        return row(delivery, "state", "status", "reason")

    told: dict[str, object] = {}
    listener = AE(ae_title="CTVAE")
    listener.acse_timeout = listener.dimse_timeout = listener.network_timeout = PATIENCE_S
    listener.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
    handlers = [(evt.EVT_N_EVENT_REPORT, report_handler(database))]
    server = listener.start_server(("127.0.0.1", OUR_PORT), block=False, evt_handlers=handlers)
    sender = Deliverer(database, places, TO, "CTVAE")

    make_results(database, places, "1.1", ["PACS"], "2.25.11")
    sender.deliver_one()
    told["stored"] = state()
    sender.deliver_one()
    until(lambda: state()[0] == "confirmed")
    told["reported"] = [*state(), *row(commitment, "state")]

    make_results(database, places, "1.2", ["PACS"], "2.25.12")
    sender.deliver_one()
    (one,) = _get(f"{URL}/tools/find", {"Level": "Instance", "Query": {"SOPInstanceUID": "2.25.120"}})
    urllib.request.urlopen(urllib.request.Request(f"{URL}/instances/{one}", method="DELETE")).close()
    sender.deliver_one()
    until(lambda: state()[0] == "waiting")
    told["deleted there"] = state()
    with database.begin() as connection:
        connection.execute(update(delivery).where(delivery.c.state == "waiting").values(not_before=now()))
    sender.deliver_one()
    sender.deliver_one()
    until(lambda: state()[0] == "confirmed")
    told["sent again"] = state()

    server.shutdown()  # the report is lost, as it would be where the listener was down
    make_results(database, places, "1.3", ["PACS"], "2.25.13")
    sender.deliver_one()
    sender.deliver_one()
    told["no report"] = [*state(), *row(commitment, "state")]
    make_due()
    sender.deliver_one()
    told["asked by query"] = [*state(), *row(commitment, "state")]

    web = replace(TO, name="WEB", kind="stow", url=DICOMWEB_URL, commitment=False)
    by_web = Deliverer(database, places, web, "CTVAE")
    make_results(database, places, "1.4", ["WEB"], "2.25.14")
    by_web.deliver_one()
    told["stow"] = state()
    make_results(database, places, "1.5", ["WEB"], "2.25.15")
    Deliverer(database, places, replace(web, url=f"{URL}/nothing-there"), "CTVAE").deliver_one()
    told["stow to nobody"] = state()
    find = {"Level": "Instance", "Query": {}, "Expand": True}
    told["held"] = sorted(one["MainDicomTags"]["SOPInstanceUID"] for one in _get(f"{URL}/tools/find", find))
    json.dump(told, sys.stdout)


def _get(url: str, body: object) -> list[dict[str, dict[str, str]]]:
    request = urllib.request.Request(url, data=json.dumps(body).encode())
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)  # type: ignore[no-any-return]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
