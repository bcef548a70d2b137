"""The fixtures that all tests share."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.checkout import SHARED_CT, SHARED_FAULTS, skip_or_fail

# A busy machine is no fault, and CI refuses nothing for an example that nobody else is shown. Others are looked for
# with `--hypothesis-profile search`.
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("any machine", settings.get_profile("search"), derandomize=True)
settings.load_profile("any machine")


# A shell ignores Ctrl-C for what it starts in the background, and all that such a program starts does so too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
def shared_fault() -> Callable[[str], Path]:
    """A folder or file of the inputs that once went wrong, by name."""

    def find(name: str) -> Path:
        found = SHARED_FAULTS / name
        if not found.exists():
            skip_or_fail(f"no ../shared/faults/{name} beside this checkout")
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


@pytest.fixture(scope="session", autouse=True)
def _shared_exports(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The folder where all workers of this run keep what `tests.support.quick_export` exported."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    (folder / "exports").mkdir(exist_ok=True)
    os.environ["CTVAE_TEST_EXPORTS"] = str(folder / "exports")


@pytest.fixture
def quick_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bundles that a test writes do not wait for torch's exporter; see `tests.support.quick_export`."""
    from tests.support.quick_export import export_quickly

    export_quickly(monkeypatch)


_LEVEL = logging.getLogger().level


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """A command sets up the log of its process; each test has the log that pytest set up.

    A fixture of a whole module may have called a command, too, and the SDK's own set-up disables every logger there is.
    """
    root = logging.getLogger()
    handlers = root.handlers[:]
    _reset_levels()
    yield
    root.handlers[:] = handlers
    _reset_levels()


def _reset_levels() -> None:
    logging.disable(logging.NOTSET)
    logging.getLogger().setLevel(_LEVEL)
    for known in list(logging.Logger.manager.loggerDict.values()):
        if isinstance(known, logging.Logger):
            known.disabled = False
    for ours in ("ctvae", "app", "operators", "models"):
        logging.getLogger(ours).setLevel(logging.NOTSET)
