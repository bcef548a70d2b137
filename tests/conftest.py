"""What the tests share: where real CT is, and what a skip means."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SHARED_CT = Path(__file__).parents[2] / "shared" / "ct"


def skip_or_fail(reason: str) -> None:
    """Skip, but fail under `CTVAE_NO_SKIP=1`: in CI everything that can be tested is."""
    if os.environ.get("CTVAE_NO_SKIP") == "1":
        pytest.fail(f"would be skipped: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def shared_ct() -> Callable[[str], Path]:
    """A folder or file of the real CT beside the checkout, by name."""

    def find(name: str) -> Path:
        found = SHARED_CT / name
        if not found.exists():
            skip_or_fail(f"no ../shared/ct/{name} beside this checkout")
        return found

    return find


@pytest.fixture(scope="session")
def phantom_ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small chest phantom as a CT series in a folder; not to be changed."""
    from models.phantom import PhantomFactors, make_phantom
    from operators.synthetic.write_ct import affine_for, write_ct_series

    shape, spacing_mm = (30, 96, 96), (5.0, 4.0, 4.0)
    folder = tmp_path_factory.mktemp("phantom_ct")
    hu = make_phantom(PhantomFactors(), shape=shape, spacing_mm=spacing_mm, seed=1)
    write_ct_series(hu, affine_for(shape, spacing_mm), folder)
    return folder


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """A command sets up the log of its process; the next test has the log that pytest set up."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for ours in ("ctvae", "app", "operators", "models"):
        logging.getLogger(ours).setLevel(logging.NOTSET)
