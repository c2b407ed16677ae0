"""How far a machine is, as `fleet status` and the dashboard say it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from slmbench._version import __version__
from slmbench.cli import fleet as command
from slmbench.cli import run_main
from slmbench.fleet.job_progress import TallyWriter, read_tallies
from slmbench.fleet.messages import About
from slmbench.machine.fingerprint import collect
from slmbench.records.schema import FailureRecord
from slmbench.running import events as e


def test_cases_and_samples_are_counted_over_all_parts_and_over_a_kill(tmp_path: Path) -> None:
    assert read_tallies(tmp_path) == (0, 0, 0)
    first = TallyWriter(tmp_path / "run")
    first(e.Begun(("a", "b", "c"), None))
    first(e.Judged("a", 1, 4))
    assert read_tallies(tmp_path) == (0, 3, 4)
    first(e.Judged("a", 2, 8, done=True))
    first(e.CaseFailed(FailureRecord(case="b", load=0, reason="error", message="m")))
    assert read_tallies(tmp_path) == (2, 3, 8)
    again = TallyWriter(tmp_path / "run")
    again(e.Begun(("a", "b", "c"), None))
    assert read_tallies(tmp_path) == (2, 3, 8)
    again(e.Ended())
    assert read_tallies(tmp_path) == (3, 3, 8)
    (tmp_path / "part").mkdir()
    TallyWriter(tmp_path / "part" / "run")(e.Begun(("d",), None))
    assert read_tallies(tmp_path) == (3, 4, 8)
    (tmp_path / "run.tally.json").write_text("half a f", encoding="utf-8")
    assert read_tallies(tmp_path) == (0, 1, 0)


@pytest.mark.parametrize(
    ("state", "line"),
    [
        ({}, "free"),
        ({"busy": "the export of dec-tiny to onnx fp32"}, "busy with the export of dec-tiny to onnx fp32"),
        ({"busy": "569a356f452a", "progress": (1, 4, 16)}, "1 of 4 cases done, 16 samples: run 569a356f"),
        (
            {"busy": "569a356f452a", "progress": (1, 4, 16), "waiting": 25},
            "1 of 4 cases done, 16 samples, 25 more waiting: run 569a356f",
        ),
    ],
)
def test_what_a_machine_does_is_one_line(state: dict[str, Any], line: str) -> None:
    about = About(slmbench_version=__version__, name="one", fingerprint=collect(), devices=(), **state)
    assert about.doing() == line


@pytest.mark.parametrize(
    ("address", "bokeh", "code", "said"),
    [
        ("8787", True, 2, "--dashboard 8787: not HOST:PORT"),
        ("127.0.0.1:99999", True, 2, "not HOST:PORT"),
        ("127.0.0.1:8787", False, 5, "--dashboard: bokeh is not installed: pip install bokeh"),
    ],
)
def test_a_dashboard_that_could_not_be_served_is_refused(
    address: str,
    bokeh: bool,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("distributed", reason="the extra slmbench[fleet] is not installed")
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "bokeh" and not bokeh else name)
    assert run_main(["fleet", "scheduler", "--port", "0", "--dashboard", address]) == code
    assert said in capsys.readouterr().err


def test_the_dashboard_is_told_what_a_worker_does() -> None:
    pytest.importorskip("distributed", reason="the extra slmbench[fleet] is not installed")
    from slmbench.fleet import dask_nodes as nodes

    async def run() -> object:
        async with (
            nodes._scheduler("127.0.0.1", 0, None, None) as scheduler,
            nodes.worker(scheduler.address, "one", None),
        ):
            (state,) = scheduler.workers.values()
            return state.metrics["slmbench"]

    assert asyncio.run(run()) == "free"
