"""What Dask logs comes as one line, once."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from slmbench.errors import CannotRunError
from slmbench.fleet import dask_nodes
from slmbench.fleet.dask_nodes import OneLine


def record(text: str, *values: object, error: BaseException | None = None) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error else None
    return logging.LogRecord("distributed.core", logging.ERROR, __file__, 1, text, values, info)


def test_a_traceback_becomes_the_end_of_its_line() -> None:
    try:
        raise OSError("timed out\nafter 10 s")
    except OSError as error:
        one = record("while handling op %s", "broadcast", error=error)
    assert OneLine().filter(one)
    assert logging.Formatter("%(message)s").format(one) == "while handling op broadcast: timed out after 10 s"


def test_the_same_is_said_once_a_minute_whatever_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = OneLine()
    assert shown.filter(record("handshake failed with %s", "tls://10.0.0.1:4000"))
    assert not shown.filter(record("handshake failed with %s", "tls://10.0.0.1:4001"))
    assert shown.filter(record("handshake failed with %s", "tls://10.0.0.2:4001"))
    monkeypatch.setattr(dask_nodes, "AGAIN_S", -1.0)
    assert shown.filter(record("handshake failed with %s", "tls://10.0.0.1:4002"))


def test_a_task_that_nobody_waits_for_is_no_news_where_a_machine_went() -> None:
    shown = OneLine()
    went, wrong = (record("Task exception was never retrieved", error=one) for one in (OSError("gone"), KeyError("x")))
    went.name = wrong.name = "asyncio"
    assert not shown.filter(went)
    assert shown.filter(wrong)
    assert wrong.getMessage() == "Task exception was never retrieved: 'x'"


def test_handlers_are_filtered_once() -> None:
    pytest.importorskip("distributed", reason="the extra slmbench[fleet] is not installed")
    dask_nodes.quiet()
    dask_nodes.quiet()
    handlers = logging.getLogger("distributed").handlers
    assert all(sum(isinstance(one, OneLine) for one in handler.filters) == 1 for handler in handlers)


def test_a_scheduler_and_a_worker_sleep_where_nobody_asks_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="the extra slmbench[fleet] is not installed")
    from tornado.ioloop import PeriodicCallback

    from slmbench.fleet.dask_nodes import local_fleet

    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path))
    began: list[str] = []
    run = PeriodicCallback._run

    def counted(self: PeriodicCallback) -> object:
        began.append(f"{self.callback}")
        return run(self)

    async def wait() -> None:
        async with local_fleet():
            monkeypatch.setattr(PeriodicCallback, "_run", counted)
            await asyncio.sleep(3)

    asyncio.run(wait())
    # Dask's own pace would be over 30.
    assert len(began) <= 5, began


def test_a_name_that_is_taken_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("distributed", reason="the extra slmbench[fleet] is not installed")
    from slmbench.fleet.dask_nodes import _scheduler, worker
    from slmbench.fleet.machine_server import Machine
    from slmbench.machine.fingerprint import collect

    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path))
    found = collect()

    def machine(name: str | None) -> Machine:
        return Machine(name, devices=(), fingerprint=found)

    async def run() -> None:
        async with (
            _scheduler("127.0.0.1", 0, None, None) as scheduler,
            worker(scheduler.address, "one", None, machine),
            worker(scheduler.address, "one", None, machine),
        ):
            raise AssertionError

    with pytest.raises(CannotRunError, match="the fleet already has a machine named one; choose another --name"):
        asyncio.run(run())
