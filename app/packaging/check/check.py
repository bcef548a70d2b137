"""Every clause that an archive shows, in the order in which it is reported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from app.packaging.check import app_manifest, conventions, hardening, package_manifest, reproducible, sbom, start
from app.packaging.check.clause import Clause, judged
from app.packaging.check.image import Image
from models.bundle.check import Verdict

CLAUSES: Final[Mapping[str, Clause]] = {
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
