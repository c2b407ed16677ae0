"""Where the sooner family changes: the length, its interval, and what is said of it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import PAIR as SPEEDS
from synthetic import make_run

from slmbench.analysis.crossover import crossings
from slmbench.analysis.stats import Interval
from slmbench.records.sample_arrays import read_columns
from slmbench.report.sentences import run_sentences

PAIR = tuple(speed.model for speed in SPEEDS)


def band(mid: float, width: float = 0.1) -> Interval:
    return Interval(mid * math.exp(-width), mid, mid * math.exp(width))


def test_a_power_law_is_crossed_where_it_is_one() -> None:
    # speed-up = (length / 200) ** 0.5 with a band of 10 %: one at 200, not excluded within a factor of e^0.2.
    speedups = {x: band((x / 200) ** 0.5) for x in (50, 100, 400, 800)}
    (found,) = crossings(speedups)
    assert found.mid == pytest.approx(200)
    assert found.low == pytest.approx(200 * math.exp(-0.2))
    assert found.high == pytest.approx(200 * math.exp(0.2))


def test_a_side_on_which_one_is_never_excluded_is_open() -> None:
    (found,) = crossings({100: band(0.95), 400: band(2.0)})
    assert math.isnan(found.low)
    assert 100 < found.mid < found.high < 400


def test_without_bounds_there_is_a_length_and_no_interval() -> None:
    (found,) = crossings({100: Interval(math.nan, 0.5, math.nan), 400: Interval(math.nan, 2.0, math.nan)})
    assert found.mid == pytest.approx(200)
    assert not found.known


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=6), st.floats(0.0, 1.0))
def test_every_interval_holds_its_length(mids: list[float], width: float) -> None:
    speedups = {2**n: band(mid, width) for n, mid in enumerate(mids)}
    for found in crossings(speedups):
        assert 1 <= found.mid <= 2 ** (len(mids) - 1)
        assert not found.low > found.mid
        assert not found.high < found.mid


def sentences(
    tmp_path: Path,
    times: dict[int, tuple[float, float]],
    between: float = 0.015,
    output_tokens: tuple[int, ...] = (32,),
) -> list[str]:
    speeds = [
        replace(speed, input_tokens=length, output_tokens=asked, ttft_ms=ms, tpot_ms=1, between=between)
        for length, both in times.items()
        for asked in output_tokens
        for speed, ms in zip(SPEEDS, both, strict=True)
    ]
    return run_sentences(read_columns(make_run(speeds).write(tmp_path / "run")))


def test_the_crossover_is_said(tmp_path: Path) -> None:
    said = sentences(tmp_path, {32: (7, 5), 128: (17, 20), 512: (55, 80)})
    (line,) = [s for s in said if "reach their first token equally soon at" in s]
    assert line.endswith(f"below, {PAIR[1]} is sooner, above, {PAIR[0]}")
    assert "(openvino fp32/fp32; equal parameters)" in line


def test_a_first_token_is_told_once_whatever_the_length_of_the_answers(tmp_path: Path) -> None:
    said = sentences(tmp_path, {32: (7, 5), 128: (17, 20), 512: (55, 80)}, output_tokens=(8, 32))
    assert len([s for s in said if "reach their first token equally soon at" in s]) == 1
    assert {"8 out on", "32 out on"} <= {part for s in said for part in ("8 out on", "32 out on") if f"({part}" in s}


def test_no_crossover_is_said_as_well(tmp_path: Path) -> None:
    said = sentences(tmp_path, {32: (4, 5), 128: (17, 20), 512: (55, 80)})
    (line,) = [s for s in said if "do not cross between 32 and 512" in s and "reaches its first" in s]
    assert line.endswith(f"{PAIR[0]} reaches its first token sooner throughout")


def test_what_the_intervals_do_not_exclude_is_not_denied(tmp_path: Path) -> None:
    said = sentences(tmp_path, {32: (3, 9), 128: (17, 50), 512: (55, 160)}, between=1.5)
    assert not [s for s in said if "sooner throughout" in s]


def test_medians_that_cross_within_their_intervals_are_no_crossover(tmp_path: Path) -> None:
    said = sentences(tmp_path, {32: (7, 5), 128: (17, 20), 512: (55, 160)}, between=0.3)
    assert not [s for s in said if "reach their first token equally soon" in s]
    (line,) = [s for s in said if "none is excluded: which reaches its first token" in s]
    assert "no crossover was seen between 32 and 512 tokens in" in line


def test_two_lengths_are_no_crossover(tmp_path: Path) -> None:
    assert not [s for s in sentences(tmp_path, {32: (7, 5), 128: (17, 20)}) if "equally" in s or "cross" in s]
