"""Every clause that an archive shows, in the order in which it is reported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from app.packaging.check import (
    app_manifest,
    calling,
    conventions,
    hardening,
    package_manifest,
    reproducible,
    running,
    sbom,
    start,
)
from app.packaging.check.clause import Clause, judged
from app.packaging.check.container import Container
from app.packaging.check.image import Image
from models.bundle.check import Verdict

CLAUSES: Final[Mapping[str, Clause[Image]]] = {
    **reproducible.CLAUSES,
    **app_manifest.CLAUSES,
    **package_manifest.CLAUSES,
    **start.CLAUSES,
    **hardening.CLAUSES,
    **sbom.CLAUSES,
    **conventions.CLAUSES,
}


def check_archive(image: Image) -> Iterator[Verdict]:
    """Judge what an archive shows, a verdict per clause."""
    yield from judged(CLAUSES, image)


def check_container(container: Container, *, runs: bool, calls: Sequence[str]) -> Iterator[Verdict]:
    """Judge what runs of an image show.

    Args:
        container: of the image.
        runs: whether to run the clauses of `running`.
        calls: codes of the conventions to call it by.
    """
    if runs:
        yield from judged(running.CLAUSES, container)
    yield from judged({code: calling.CLAUSES[code] for code in calls}, container)
