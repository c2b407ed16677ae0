"""Progress: a live table on a terminal, lines elsewhere."""

from __future__ import annotations

import io
import re

import pytest

from slmbench.records.schema import FailureRecord, LoadRecord, SampleRecord
from slmbench.running import events as e
from slmbench.running.progress import duration, figure, roughly, show_progress


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
    e.Begun(("good", "bad"), 200.0, {"good": "mu-tiny openvino 8/2"}),
    e.Opening("good", 0, survey=True),
    e.Ready("good", load("good", 0)),
    e.Opening("bad", 0, survey=True),
    e.CaseFailed(FailureRecord(case="bad", load=0, reason="crashed", message="the worker died of SIGSEGV")),
    e.Blocked((("good",),)),
    e.Opening("good", 1, survey=False),
    e.Ready("good", load("good", 2)),
    e.SampleTaken(SAMPLE),
    e.Judged("good", 1, 5, {"ttft": (12.345e6, 6.967), "tpot": (1.5e6, 0.0123)}, converged=False),
    e.TimeLeft(30.0, 100.0),
    e.Judged("good", 2, 10, {"ttft": (12.345e6, 0.2), "tpot": (1.5e6, 0.0123)}, converged=False),
    e.Ended(),
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO, *, verbose: bool = False, quiet: bool = False) -> str:
    with show_progress(stream, verbose=verbose, quiet=quiet) as observe:
        for event in EVENTS:
            observe(event)
    return stream.getvalue()


FAILED = "bad: failed: crashed: the worker died of SIGSEGV"


def test_a_line_a_case_where_there_is_no_terminal() -> None:
    assert shown(io.StringIO()).splitlines() == [
        "measuring 2 cases",
        FAILED,
        "mu-tiny openvino 8/2: ttft 12.3 ms ± 20.0 %, tpot 1.50 ms ± 1.2 % (2 loads, 10 samples); not converged",
    ]


def test_a_case_that_is_done_has_its_line_at_once_and_no_other() -> None:
    stream = io.StringIO()
    with show_progress(stream) as observe:
        observe(e.Judged("good", 3, 15, {"ttft": (12.345e6, 0.02)}, done=True))
        assert stream.getvalue() == "good: ttft 12.3 ms ± 2.0 % (3 loads, 15 samples)\n"
        observe(e.Ended())
    assert len(stream.getvalue().splitlines()) == 1


def test_each_step_is_a_line_if_asked_also_on_a_terminal() -> None:
    lines = [
        "measuring 2 cases",
        "mu-tiny openvino 8/2: proven, loads in 2.0 s",
        FAILED,
        "mu-tiny openvino 8/2: ttft 12.3 ms, tpot 1.50 ms ± 1.2 % (1 load, 5 samples); not done yet",
        "30 s of 2 min 10 s measured",
        "mu-tiny openvino 8/2: ttft 12.3 ms ± 20.0 %, tpot 1.50 ms ± 1.2 % (2 loads, 10 samples); not done yet",
    ]
    assert shown(io.StringIO(), verbose=True).splitlines() == lines
    assert shown(Terminal(), verbose=True).splitlines() == lines


def test_only_failures_if_asked() -> None:
    assert shown(io.StringIO(), quiet=True).splitlines() == [FAILED]


@pytest.mark.parametrize("width", [80, 120])
def test_a_table_on_a_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    text = shown(Terminal())
    assert "\x1b[" in text
    for part in ("proving", "failed: crashed", "12.3 ms", "1.50 ms ± 1.2 %", "round 3", "30 s of 2 min 10 s measured"):
        assert part in text
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    assert ("samples" in plain) == (width == 120)
    assert all(len(line) <= width for line in plain.replace("\r", "\n").splitlines())
    assert "696" not in text


def test_no_colour_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    colours = re.findall(r"\x1b\[(3[0-7]|9[0-7]|38|48)[;m]", shown(Terminal()))
    assert not colours


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
    assert figure(2_000_000, 0.05) == "2.00 ms ± 5.0 %"
    assert [duration(s) for s in (0.4, 59.4, 60, 3599, 3900)] == [
        "0 s",
        "59 s",
        "1 min 0 s",
        "59 min 59 s",
        "1 h 5 min",
    ]
    assert [roughly(s) for s in (0, 0.01, 0.99, 1, 61)] == ["0 s", "under 1 s", "under 1 s", "1 s", "1 min 1 s"]


#: Windows of two texts, one a half minute.
PARTS: list[e.Event] = [e.PartDone(f"quality of {model}", done, 4) for model in ("a", "b") for done in range(5)]


def test_what_comes_after_the_samples_says_once_a_minute_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("slmbench.running.progress.time.monotonic", lambda: now[0])
    stream, silent = io.StringIO(), io.StringIO()
    with show_progress(stream) as observe, show_progress(silent, quiet=True) as quiet:
        for event in PARTS:
            observe(event)
            quiet(event)
            now[0] += 30.0
    assert stream.getvalue().splitlines() == [
        "quality of a: 2 of 4 windows, about 1 min 0 s left",
        "quality of b: 2 of 4 windows, about 1 min 0 s left",
    ]
    assert silent.getvalue() == ""


def test_a_terminal_shows_how_many_windows_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("slmbench.running.progress.REDRAW_INTERVAL_S", 0.0)
    stream = Terminal()
    with show_progress(stream) as observe:
        for event in [*EVENTS, *PARTS[:3]]:
            observe(event)
    text = stream.getvalue()
    places = [text.index(one) for one in ("round 3", "quality of a: 0 of 4 windows", "quality of a: 2 of 4 windows")]
    assert places == sorted(places)
