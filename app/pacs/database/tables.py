"""The tables: what arrived, what is to be done about it, what came of it and where it went.

The files of the spool are the truth of what was acknowledged; a row follows each file before the acknowledgement. No
identity of a patient is kept here: UIDs, digests and AE titles only.

Times are seconds since 1970, of the database's own clock (`now`): several machines work on one database.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

metadata: Final = MetaData()

INSTANCE_STATES: Final = ("kept", "aside", "purged")
SERIES_STATES: Final = ("arriving", "queued", "ended")
JOB_STATES: Final = ("waiting", "leased", "done", "refused", "failed", "superseded")
DELIVERY_STATES: Final = ("waiting", "sending", "sent", "confirmed", "failed")
CHAIN: Final = ("series_uid", "kind", "weights_sha256", "config_digest")
"""Columns of `job` that are equal where the result of one can take the place of the other's."""

COMMITMENT_STATES: Final = ("asked", "confirmed", "refused", "unanswered")


class now(FunctionElement[float]):  # noqa: N801 — a function of SQL, called as one
    """The database's clock: seconds since 1970, at the moment of the statement.

    A ColumnElement of ours would keep SQLAlchemy from compiling each statement but once.
    """

    inherit_cache = True
    type = Double()


@compiles(now, "sqlite")
def _sqlite_now(element: now, compiler: Any, **about: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _postgresql_now(element: now, compiler: Any, **about: Any) -> str:
    return "(extract(epoch from clock_timestamp())::float8)"


def _id() -> Column[int]:
    # SQLite numbers rows by itself only where the type is exactly INTEGER.
    return Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)


def _reference(name: str, to: str, *, nullable: bool = False) -> Column[Any]:
    kind = BigInteger().with_variant(Integer, "sqlite")
    return Column(name, kind, ForeignKey(f"{to}.id", ondelete="CASCADE"), nullable=nullable)


def _state(states: tuple[str, ...]) -> tuple[Column[Any], CheckConstraint]:
    listed = ", ".join(f"'{state}'" for state in states)
    return Column("state", String, nullable=False, default=states[0]), CheckConstraint(f"state IN ({listed})")


def _uid(name: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, String, nullable=nullable)


def _time(name: str, *, nullable: bool = True) -> Column[Any]:
    return Column(name, Double, nullable=nullable)


schema_version: Final = Table("schema_version", metadata, Column("version", Integer, nullable=False))

instance: Final = Table(
    "instance",
    metadata,
    _id(),
    _uid("study_uid"),
    _uid("series_uid"),
    _uid("sop_uid"),
    _uid("sop_class_uid"),
    # 0 for what came first under this UID; 1, 2, … for other content under the same UID, which is kept apart
    Column("copy", Integer, nullable=False, default=0),
    Column("bytes_digest", String, nullable=False),  # SHA-256 of the file
    # SHA-256 of header and pixels, whatever the transfer syntax; taken before the file is purged, None until then
    Column("content_digest", String),
    Column("path", String, nullable=False, unique=True),  # relative to the spool
    Column("size_bytes", BigInteger, nullable=False),
    _time("received_at", nullable=False),
    Column("calling_ae", String, nullable=False),
    Column("sender", String, nullable=False),  # address
    *_state(INSTANCE_STATES),
    # why no job works on it; set where it is `aside`
    Column("reason", String),
    UniqueConstraint("series_uid", "sop_uid", "copy"),
    Index("instance_by_arrival", "received_at"),
)

series: Final = Table(
    "series",
    metadata,
    _id(),
    _uid("series_uid"),
    _uid("study_uid"),
    _time("first_at", nullable=False),
    _time("last_at", nullable=False),
    Column("expected", Integer),  # instances that the query AE counts; None where nobody was asked
    Column("source_ae", String, nullable=False),  # calling AE title of the last arrival; rules go by it
    Column("sender", String, nullable=False),
    Column("revision", Integer, nullable=False, default=0),  # how many times it was given to the queue
    Column("findings", String, nullable=False, default="[]"),  # JSON: [{code, detail}]
    *_state(SERIES_STATES),
    Column("attempts", Integer, nullable=False, default=0),  # of asking and fetching
    _time("not_before"),  # of the next one
    Column("reason", String),  # of the last one that failed
    UniqueConstraint("series_uid"),
    Index("series_by_state", "state", "last_at"),
)

job: Final = Table(
    "job",
    metadata,
    _id(),
    # series, instances, model, configuration, ctvae version; and bytes where one UID came with several
    Column("key", String, nullable=False, unique=True),
    _uid("series_uid"),
    _uid("study_uid"),
    Column("source_ae", String, nullable=False),
    Column("kind", String, nullable=False, default="main"),  # main, or shadow: results stay local
    Column("weights_sha256", String, nullable=False),
    Column("config_digest", String, nullable=False),
    Column("models", String),  # path of the bundle; None for the one in the settings
    Column("version", String, nullable=False),  # of ctvae
    Column("revision", Integer, nullable=False),  # from 1, in its chain
    Column("findings", String, nullable=False, default="[]"),  # of the series, as it was handed over
    Column("priority", Integer, nullable=False, default=0),  # the highest first
    *_state(JOB_STATES),
    Column("attempts", Integer, nullable=False, default=0),  # that failed
    Column("token", Integer, nullable=False, default=0),  # leases so far; the last one fences off the others
    Column("worker", String),
    _time("lease_until"),
    _time("not_before", nullable=False),
    _time("created_at", nullable=False),
    _time("started_at"),
    _time("ended_at"),
    Column("reason", String),
    Column("message", String),
    CheckConstraint("kind IN ('main', 'shadow')"),
    Index("job_by_state", "state", "priority", "not_before"),
    Index("job_by_series", "series_uid", "kind", "weights_sha256", "config_digest"),
)

# The frozen list of what a job works on, and what became of each.
job_instance: Final = Table(
    "job_instance",
    metadata,
    _reference("job_id", "job"),
    _reference("instance_id", "instance"),
    Column("part", Integer),
    Column("status", String),  # written, rejected, skipped or failed, as of the series or part that it is in
    Column("reason", String),
    UniqueConstraint("job_id", "instance_id"),
    Index("job_of_instance", "instance_id"),
)

result: Final = Table(
    "result",
    metadata,
    _id(),
    _reference("job_id", "job"),
    Column("part", Integer),
    Column("job_key", String, nullable=False),  # of the contract, as in features.json
    Column("sr_class", String, nullable=False),  # comprehensive_3d or comprehensive
    Column("rank", Integer, nullable=False),  # 0 is sent first; 1 where a destination does not take that
    _uid("sop_class_uid"),
    _uid("sop_uid"),
    _uid("predecessor", nullable=True),  # SOP Instance UID of the result whose place it takes
    Column("path", String, nullable=False),  # of the SR, relative to the results
    _time("created_at", nullable=False),
    UniqueConstraint("job_id", "sop_uid"),
    Index("result_by_uid", "sop_uid"),
    Index("result_by_predecessor", "predecessor"),
)

delivery: Final = Table(
    "delivery",
    metadata,
    _id(),
    _reference("job_id", "job"),
    _reference("result_id", "result"),  # that is sent; the next rank after a fallback
    Column("part", Integer),
    Column("destination", String, nullable=False),
    *_state(DELIVERY_STATES),
    Column("attempts", Integer, nullable=False, default=0),
    Column("token", Integer, nullable=False, default=0),
    _time("lease_until"),
    _time("not_before", nullable=False),
    Column("status", String),  # of the last answer: a DIMSE status as 0xA700, an HTTP status as HTTP 503
    Column("reason", String),
    _time("created_at", nullable=False),
    _time("sent_at"),  # when the peer said so
    _time("confirmed_at"),  # when the peer took over the responsibility for it
    Index("delivery_by_state", "destination", "state", "not_before"),
    Index("delivery_by_time", "sent_at"),
    Index("delivery_of_job", "job_id"),
    Index("delivery_of_result", "result_id"),
)

# Files of a watched folder that are done with. Their names may hold a patient's, and are not kept.
watched: Final = Table(
    "watched",
    metadata,
    Column("name_digest", String, primary_key=True),  # SHA-256 of the path
    Column("size_bytes", BigInteger, nullable=False),
    Column("changed_ns", BigInteger, nullable=False),
)

commitment: Final = Table(
    "commitment",
    metadata,
    _id(),
    _reference("delivery_id", "delivery"),
    _uid("transaction_uid"),
    *_state(COMMITMENT_STATES),
    Column("reason", String),
    _time("asked_at", nullable=False),
    _time("answered_at"),
    UniqueConstraint("transaction_uid"),
    Index("commitment_of_delivery", "delivery_id"),
)
