"""The loop of a background thread outlives whatever its step raises, and ends when it is told to."""

from __future__ import annotations

import threading

from sqlalchemy.exc import IntegrityError, OperationalError

from app.pacs.service import Service, Stopped
from tests.support.waiting import PATIENCE_S


def test_whatever_a_step_raises_is_said_and_the_next_one_is_done(monkeypatch, caplog):
    monkeypatch.setattr("app.pacs.service.PAUSE_S", 0.0)
    raised = [KeyError("x"), IntegrityError("INSERT", {}, OSError()), OperationalError("SELECT", {}, OSError())]
    service, waiting = Service("tester", 0.0), iter(raised)

    def step() -> bool:
        for error in waiting:
            raise error
        service.stop()
        return True

    service.run(step)
    said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    codes = [line.split(" in the tester")[0] for line in said]
    expected = ["INTERNAL_ERROR: KeyError", "INTERNAL_ERROR: IntegrityError", "DATABASE_AWAY: OperationalError"]
    assert codes == expected


def test_an_idle_service_is_woken_and_a_long_step_is_left():
    service, steps, idle = Service("tester", 100 * PATIENCE_S), list[int](), threading.Event()

    def step() -> bool:
        steps.append(1)
        if len(steps) == 1:
            idle.set()
            return False
        service.stop()
        service.check_stop()
        raise AssertionError

    thread = threading.Thread(target=service.run, args=(step,))
    thread.start()
    assert idle.wait(PATIENCE_S)
    service.wake.set()
    thread.join(PATIENCE_S)
    assert not thread.is_alive() and len(steps) == 2
    try:
        service.check_stop()
    except Stopped:
        return
    raise AssertionError
