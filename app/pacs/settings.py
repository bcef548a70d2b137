"""Section `listener` of app.yaml, each key of which the environment may replace → frozen settings.

`CTVAE_LISTENER_PORT=11113` replaces `listener.port`, `CTVAE_LISTENER_TLS_KEY` replaces `listener.tls.key`; lists and
mappings are written as YAML. With `_FILE` at its end a variable names the file that holds the value: so a secret, such
as a database URL with a password, stands neither in the settings nor in the environment.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, get_type_hints

import yaml

from app.pacs.destination import Destination
from app.pacs.log_settings import LogSettings
from app.pacs.page_settings import PageSettings
from app.pacs.places import Places
from app.pacs.watch_settings import WatchSettings
from app.pacs.worker_settings import WorkerSettings
from app.settings_file import FORBID_UNKNOWN_KEYS, SETTINGS_FILE, read_settings_file
from operators.errors import StartError
from operators.system_error import cannot_read

SECTION: Final = "listener"
PREFIX: Final = "CTVAE_LISTENER"
SLOW_BYTES_PER_S: Final = 1024
MEGABYTE: Final = 1_000_000
"""A MB in settings, figures and pages; what counts in powers of two is called MiB."""
"""A message that comes slower than this for `limits.slow_s` is given up, whichever way it comes."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Transport security (PS3.15 B.9: TLS 1.2 or newer).

    Attributes:
        certificate: PEM file of our certificate; None for plain TCP.
        key: PEM file of its private key.
        ca: PEM file of the authorities whose clients are let in; with it every peer must show a certificate.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN_KEYS

    certificate: str | None = None
    key: str | None = None
    ca: str | None = None

    def __post_init__(self) -> None:
        """Check that the two halves are there.

        Raises:
            ValueError: a key without certificate, or the other way round.
        """
        if (self.certificate is None) != (self.key is None) or (self.ca and not self.certificate):
            raise ValueError("expected both certificate and key, and ca only with them")


@dataclass(frozen=True, slots=True)
class Limits:
    """What peers may use up; a peer is an IP address.

    Attributes:
        connections: open TCP connections in all; further ones are closed at once.
        connections_per_peer: those of one peer.
        associations: accepted associations in all; further ones are rejected as transient (local limit exceeded).
        associations_per_peer: those of one peer.
        first_pdu_s: from the connection, TLS handshake included, to the whole A-ASSOCIATE-RQ.
        pdu_s: from the first byte of a later PDU to its last.
        idle_s: without any PDU, until an association is ended.
        slow_s: a message that came slower than 1 KiB/s for so long ends its association.
        max_pdu_bytes: longest PDU that a peer may send; it is told so when the association is accepted.
        max_object_mb: longest object that is stored; a longer one is refused as A700.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN_KEYS

    connections: int = 400
    connections_per_peer: int = 128
    associations: int = 48
    associations_per_peer: int = 16
    first_pdu_s: float = 5.0
    pdu_s: float = 15.0
    idle_s: float = 60.0
    slow_s: float = 60.0
    max_pdu_bytes: int = 131072
    max_object_mb: int = 4096


@dataclass(frozen=True, slots=True)
class Query:
    """The PACS that is asked how many instances a series has, and for those that did not arrive.

    Attributes:
        ae_title: its AE title; None where there is no PACS to ask.
        host: its name or address.
        port: its DICOM port.
        retrieve: how missing instances are fetched. `move` needs our AE title, address and port in the PACS's table.
        retry_s: first pause after a query or fetch that failed; it doubles up to half an hour.
        ca: PEM file of the authorities that its certificate is checked by; with it every association with it uses TLS.
        certificate: PEM file of our client certificate.
        key: PEM file of its private key.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN_KEYS

    ae_title: str | None = None
    host: str = "127.0.0.1"
    port: int = 104
    retrieve: Literal["get", "move", "none"] = "get"
    retry_s: float = 10.0
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        """Check that what TLS needs is there.

        Raises:
            ValueError: what is missing.
        """
        if (self.certificate is None) != (self.key is None):
            raise ValueError("query: expected both certificate and key")
        if self.certificate and not self.ca:
            raise ValueError("query: certificate without ca; without it nothing would be encrypted")


@dataclass(frozen=True, slots=True)
class ListenerSettings:
    """Section `listener` of app.yaml.

    Attributes:
        folder: spool, results and, unless `database` says otherwise, the queue.
        database: URL of the queue, `postgresql://…`; None for a SQLite file in the folder.
        ae_title: ours; an association that calls another one is rejected.
        calling_ae_titles: of the peers that are let in; empty for all.
        address: where we listen; loopback unless told otherwise.
        port: of DICOM.
        reserve_mb: space that the spool's file system must keep free; C-STORE is refused with A700 below it.
        quiet_s: a series is complete when no instance arrived for so long (and the PACS, where asked, agrees).
        give_up_h: after so long a series is worked with what is there, and a finding.
        destinations: where results go; none keeps them in the folder.
        worker: limits and attempts of the process that encodes.
        shadow: path of a second bundle that is run beside the first; its results stay in the folder.
        page: status page, health and metrics over HTTP.
        watch: a folder in which another program drops CT.
        log: form of the log, and where the audit trail goes.
        retention_days: instances may be purged from the spool so long after their result has arrived everywhere.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN_KEYS

    folder: str = "listener"
    database: str | None = None
    ae_title: str = "CTVAE"
    calling_ae_titles: tuple[str, ...] = ()
    address: str = "127.0.0.1"
    port: int = 11112
    reserve_mb: int = 1024
    quiet_s: float = 30.0
    give_up_h: float = 4.0
    tls: Tls = field(default_factory=Tls)
    limits: Limits = field(default_factory=Limits)
    query: Query = field(default_factory=Query)
    destinations: tuple[Destination, ...] = ()
    worker: WorkerSettings = field(default_factory=WorkerSettings)
    page: PageSettings = field(default_factory=PageSettings)
    watch: WatchSettings = field(default_factory=WatchSettings)
    log: LogSettings = field(default_factory=LogSettings)
    shadow: str | None = None
    retention_days: float = 7.0

    def __post_init__(self) -> None:
        """Check the AE titles and the names of the destinations.

        Raises:
            ValueError: a title that DICOM does not allow, or a name that two destinations have.
        """
        others = [title for one in self.destinations for title in (one.ae_title, one.calling_ae, *one.from_ae)]
        for title in (self.ae_title, *self.calling_ae_titles, *filter(None, [self.query.ae_title, *others])):
            check_ae_title(title)
        names = [one.name for one in self.destinations]
        if len(set(names)) < len(names):
            raise ValueError("two destinations have the same name; expected a name for each")

    @property
    def places(self) -> Places:
        """Where what is kept."""
        return Places(Path(self.folder))

    @property
    def database_url(self) -> str:
        """Of the database that is used."""
        return self.database or self.places.database_url


def check_ae_title(title: str) -> None:
    """Check an AE title (PS3.5 6.2, VR AE).

    Raises:
        ValueError: what was found and what was expected.
    """
    if not (1 <= len(title) <= 16 and title.isascii() and title.isprintable() and title.strip() == title):
        raise ValueError(f"found the AE title {title!r}; expected 1 to 16 ASCII characters, no space at an end")
    if "\\" in title:
        raise ValueError(f"found the AE title {title!r}; expected one without backslash")


def load_listener(path: Path | None = None, environment: Mapping[str, str] = os.environ) -> ListenerSettings:
    """Read the file `path`, else HOLOSCAN_CONFIG_PATH, else our app.yaml; environment variables replace single keys.

    Raises:
        StartError: SETTINGS_INVALID, with the key or variable that is wrong.
    """
    named = environment.get("HOLOSCAN_CONFIG_PATH")
    file = read_settings_file(path or (Path(named) if named else SETTINGS_FILE))
    section = file.sections.get(SECTION) or {}
    file.into(_File, {SECTION: section})  # what is wrong in the file is named by its line
    return _with_environment(section, environment)


@dataclass(frozen=True, slots=True)
class _File:
    listener: ListenerSettings


def _with_environment(section: dict[str, Any], environment: Mapping[str, str]) -> ListenerSettings:
    from pydantic import TypeAdapter, ValidationError

    merged: dict[str, Any] = json.loads(json.dumps(section))
    known = dict(_variables(ListenerSettings, PREFIX, ()))
    given = {name: value for name, value in environment.items() if name.startswith(f"{PREFIX}_")}
    for name, value in sorted(given.items()):
        variable = name if name in known else name.removesuffix("_FILE")
        if variable not in known:
            raise StartError("SETTINGS_INVALID", f"{name}: unknown variable; expected one of {', '.join(known)}")
        place, is_text = known[variable]
        text = value if variable == name else _content(name, value)
        _put(merged, place, (text or None) if is_text else _parsed(name, text))
    try:
        return TypeAdapter(ListenerSettings).validate_json(json.dumps(merged), strict=True)
    except ValidationError as error:
        found = error.errors()[0]
        variable = "_".join([PREFIX, *(part for part in found["loc"] if isinstance(part, str))]).upper()
        raise StartError("SETTINGS_INVALID", f"{variable}: {found['msg']}; see app.yaml") from error


def _variables(kind: type, name: str, place: tuple[str, ...]) -> Iterator[tuple[str, tuple[tuple[str, ...], bool]]]:
    """Yield each variable's name, with the keys that it replaces and whether its value is text as it stands."""
    hints = get_type_hints(kind)
    for one in fields(kind):
        hint, key, below = hints[one.name], f"{name}_{one.name.upper()}", (*place, one.name)
        if is_dataclass(hint) and isinstance(hint, type):
            yield from _variables(hint, key, below)
        else:
            yield key, (below, hint in (str, str | None))


def _content(name: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        text = cannot_read("the file that it names", error, "text in UTF-8")
        raise StartError("SETTINGS_INVALID", f"{name}: {text}") from error


def _parsed(name: str, text: str) -> Any:
    try:
        value = yaml.safe_load(text)
        json.dumps(value)
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise StartError("SETTINGS_INVALID", f"{name}: cannot be read; expected YAML, such as 5 or [a, b]") from error
    return value


def _put(merged: dict[str, Any], place: tuple[str, ...], value: Any) -> None:
    inner = merged
    for key in place[:-1]:
        inner[key] = dict(inner.get(key) or {})
        inner = inner[key]
    inner[place[-1]] = value
