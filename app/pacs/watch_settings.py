"""Section `listener.watch` of app.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from app.settings_file import FORBID_UNKNOWN_KEYS


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """Section `listener.watch` of app.yaml.

    Attributes:
        folder: in which another program drops CT; None for none.
        url: of a DICOMweb server that is asked for CT; None for none.
        query: what it is asked for, as in a URL of QIDO-RS.
        token_file: holds the bearer token for it.
        ca: PEM file of the authorities that its certificate is checked by; None for the public ones.
        certificate: PEM file of our client certificate.
        key: PEM file of its private key.
        ask_s: how often it is asked.
        poll_s: how often it is looked into.
        settle_s: a file is taken when it did not change for so long.
        cut_off_s: one that ends before its pixels do, or before its header does, is waited for so long.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN_KEYS

    folder: str | None = None
    url: str | None = None
    query: str = "Modality=CT"
    token_file: str | None = None
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    ask_s: float = 30.0
    poll_s: float = 2.0
    settle_s: float = 5.0
    cut_off_s: float = 300.0

    def __post_init__(self) -> None:
        """Check that what TLS needs is there.

        Raises:
            ValueError: what is missing, or a URL over which none of it is used.
        """
        if (self.certificate is None) != (self.key is None) or (self.certificate and not self.ca):
            raise ValueError("watch: expected both certificate and key, and ca with them")
        if self.ca and self.url and not self.url.startswith("https:"):
            raise ValueError("watch: ca needs a url that begins with https:")
