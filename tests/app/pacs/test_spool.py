"""The spool: what is on the disk before an instance counts as kept."""

from __future__ import annotations

from app.pacs.spool import Spool
from tests.support.syncs import syncs

SERIES = "1.2.3"


def test_a_folder_that_another_thread_made_is_named_on_the_disk_before_an_instance_in_it_counts(tmp_path, monkeypatch):
    """Or one that was made by a process that was killed before it could sync the name."""
    spool = Spool(tmp_path / "spool", 0, 1000)
    instances = spool.root / "instances"
    (instances / SERIES).mkdir()
    synced = syncs(monkeypatch)
    for sop_uid in ("1.2.3.1", "1.2.3.2"):
        incoming = spool.open_incoming()
        incoming.write(sop_uid.encode())
        kept, new = spool.keep(incoming, SERIES, sop_uid, lambda one, other: False)
        assert new and (spool.root / kept.path).read_text() == sop_uid
        incoming.discard()
    assert synced.count(instances) == 1 and synced.count(instances / SERIES) == 2
