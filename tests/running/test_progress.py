"""Progress: a live table on a terminal, lines elsewhere."""

from __future__ import annotations

import io
import math

import pytest

from slmbench.records.schema import FailureRecord, LoadRecord, SampleRecord
from slmbench.running import events as e
from slmbench.running.progress import duration, figure, show_progress


def load(case: str, warmups: int) -> LoadRecord:
    return LoadRecord(
        case=case,
        load=0,
        pid=1,
        load_ns=1_500_000_000,
        compile_ns=500_000_000,
        first_inference_ns=3,
        warmups=warmups,
        stationary=True,
        agreement=1.0,
        agreement_tokens=20,
        requested_device="cpu",
        executed_on="cpu",
        compute_precision="fp32",
        threads=2,
        attention_path="SDPA",
        artifact_id="a",
        started="",
    )


SAMPLE = SampleRecord(
    case="good", load=1, round=3, started="", batch=1, input_tokens=8, output_tokens=2, token_ns=(5, 9)
)
EVENTS: list[e.Event] = [
    e.Begun(("good", "bad"), 200.0),
    e.Opening("good", 0, survey=True),
    e.Ready("good", load("good", 0)),
    e.Opening("bad", 0, survey=True),
    e.CaseFailed(FailureRecord(case="bad", load=0, reason="crashed", message="the worker died of SIGSEGV")),
    e.Blocked((("good",),)),
    e.Opening("good", 1, survey=False),
    e.Ready("good", load("good", 2)),
    e.SampleTaken(SAMPLE),
    e.Judged("good", 1, 5, {"ttft": (12.345e6, math.inf), "tpot": (1.5e6, 0.0123)}),
    e.TimeLeft(30.0, 100.0),
    e.Ended(),
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO) -> str:
    with show_progress(stream) as observe:
        for event in EVENTS:
            observe(event)
    return stream.getvalue()


def test_lines_where_there_is_no_terminal() -> None:
    assert shown(io.StringIO()).splitlines() == [
        "measuring 2 cases, at most 3 min 20 s",
        "good: proven, loads in 2.0 s",
        "bad: failed: crashed: the worker died of SIGSEGV",
        "good: load 1, 5 samples, ttft 12.35 ms ± ?, tpot 1.5 ms ± 1.2 %; not done yet",
        "30 s measured, 1 min 40 s left at most",
    ]


def test_a_table_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    text = shown(Terminal())
    assert "\x1b[" in text
    for part in ("proving", "failed: crashed", "12.35 ms ± ?", "1.5 ms ± 1.2 %", "round 3", "1 min 40 s left at most"):
        assert part in text


def test_a_name_cannot_steer_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    name = "[red]x[/red]\x1b]0;title\x07"
    for stream in (io.StringIO(), Terminal()):
        with show_progress(stream) as observe:
            observe(e.Begun((name,), None))
            observe(e.CaseFailed(FailureRecord(case=name, reason="error", message="m\x1b[2J")))
            observe(e.Ended())
        assert "\x1b]0" not in stream.getvalue()
        assert "[red]x[/red]" in stream.getvalue()


def test_figures_and_durations() -> None:
    assert figure(2_000_000, 0.05) == "2 ms ± 5.0 %"
    assert [duration(s) for s in (0.4, 59.4, 60, 3599, 3900)] == [
        "0 s",
        "59 s",
        "1 min 0 s",
        "59 min 59 s",
        "1 h 5 min",
    ]
