"""Section `listener.destinations` of app.yaml: where results go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from app.pacs.backoff import Backoff
from app.settings_file import FORBID_UNKNOWN_KEYS


@dataclass(frozen=True, slots=True)
class Destination:
    """A PACS, an archive or a folder that results go to.

    Attributes:
        name: ours for it; in the queue, so that it must not change while something waits for it.
        kind: `store` by C-STORE; `stow` by STOW-RS; `folder` for a copy of all files of a result.
        ae_title: of a `store`.
        host: of a `store`.
        port: of a `store`.
        url: of a `stow`, without `/studies`.
        path: of a `folder`.
        token_file: holds the bearer token of a `stow`.
        from_ae: calling AE titles whose series it gets the results of; empty for all.
        calling_ae: our AE title for it; None for the listener's.
        ca: PEM file of the authorities that its certificate is checked by; with it a `store` uses TLS. Without it a
            `stow` trusts those of the system.
        certificate: PEM file of our client certificate.
        key: PEM file of its private key.
        commitment: ask it to take over the responsibility (Storage Commitment Push Model, PS3.4 J).
        commitment_wait_s: for its report; then it is asked by C-FIND whether it has the instance.
        timeout_s: for each of its answers.
        give_up_h: what could not be sent for so long ends as failed.
        backoff: pauses between attempts.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN_KEYS

    name: str
    kind: Literal["store", "stow", "folder"] = "store"
    ae_title: str | None = None
    host: str = "127.0.0.1"
    port: int = 104
    url: str | None = None
    path: str | None = None
    token_file: str | None = None
    from_ae: tuple[str, ...] = ()
    calling_ae: str | None = None
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    commitment: bool = False
    commitment_wait_s: float = 60.0
    timeout_s: float = 30.0
    give_up_h: float = 168.0
    backoff: Backoff = field(default_factory=Backoff)

    def __post_init__(self) -> None:
        """Check that what its kind needs is there.

        Raises:
            ValueError: what is missing or too much.
        """
        if self.kind == "store" and not self.ae_title:
            raise ValueError(f"destination {self.name}: no ae_title; a destination by C-STORE needs one")
        if self.kind == "stow" and not self.url:
            raise ValueError(f"destination {self.name}: no url; a destination by STOW-RS needs one")
        if self.kind == "folder" and not self.path:
            raise ValueError(f"destination {self.name}: no path; a destination of kind folder needs one")
        if (self.certificate is None) != (self.key is None):
            raise ValueError(f"destination {self.name}: expected both certificate and key")
        if self.kind == "store" and self.certificate and not self.ca:
            raise ValueError(f"destination {self.name}: certificate without ca; without it nothing would be encrypted")
        if self.kind == "stow" and (self.ca or self.certificate) and not (self.url or "").startswith("https:"):
            raise ValueError(f"destination {self.name}: ca and certificate need a url that begins with https:")
        if self.kind != "store" and self.commitment:
            raise ValueError(f"destination {self.name}: commitment goes with kind: store alone")


def routes(destinations: Sequence[Destination]) -> Callable[[str], list[str]]:
    """Return the rule: calling AE title of a series → names of the destinations of its results."""

    def names_of(source_ae: str) -> list[str]:
        return [one.name for one in destinations if not one.from_ae or source_ae in one.from_ae]

    return names_of
