"""Section `listener.page` of app.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from app.settings_file import FORBID_UNKNOWN_KEYS


@dataclass(frozen=True, slots=True)
class PageSettings:
    """Section `listener.page` of app.yaml.

    Attributes:
        port: of HTTP; None for no page.
        address: loopback unless told otherwise.
        hosts: further names under which it is called, by a proxy for example.
        stow_token_file: holds the token without which nobody can send by STOW-RS; None: STOW-RS is off.
        token_file: holds the token without which nothing can be changed; None: nothing can.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN_KEYS

    port: int | None = None
    address: str = "127.0.0.1"
    hosts: tuple[str, ...] = ()
    token_file: str | None = None
    stow_token_file: str | None = None
