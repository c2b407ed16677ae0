"""Turns of slow sweeps: together they run everything, each part of it once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import rotation

Turn = Callable[[str], None]


@pytest.fixture
def turn(monkeypatch: pytest.MonkeyPatch) -> Iterator[Turn]:
    """Return a function that sets whose turn it is."""

    def choose(number: str) -> None:
        monkeypatch.setenv("SLMBENCH_TURN", number)
        rotation.turn.cache_clear()

    monkeypatch.delenv("SLMBENCH_ALL", raising=False)
    yield choose
    rotation.turn.cache_clear()


@pytest.mark.parametrize("shares", [2, 3])
def test_all_turns_together_run_everything_once(turn: Turn, shares: int) -> None:
    ran, marked = [], []
    for number in range(6, 6 + shares):
        turn(str(number))
        ran += rotation.in_turn(range(7), shares)
        marked += [place for place in range(shares) if not rotation.takes_turns(place, shares).args[0]]
    assert sorted(ran) == list(range(7))
    assert sorted(marked) == list(range(shares))


def test_every_tiny_model_has_its_turn(turn: Turn) -> None:
    found = []
    for number in "012":
        turn(number)
        found.append(rotation.tiny_models({"t5-tiny"}))
        assert "t5-tiny" in found[-1]
    alone = {name for names in found for name in names}
    assert len(alone) == sum(map(len, found)) - 2


def test_each_slow_test_is_in_turn_three_times_in_eleven(turn: Turn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLMBENCH_ENVIRONMENT", raising=False)
    ran = dict.fromkeys(["tests/a.py::test_one", "tests/b.py::test_two[x]"], 0)
    for number in range(11):
        turn(str(number))
        ran = {name: count + rotation.is_in_turn(name) for name, count in ran.items()}
    assert set(ran.values()) == {3}


def test_everything_runs_where_that_is_asked_for(turn: Turn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLMBENCH_ALL", "1")
    turn("1")
    assert rotation.in_turn(range(7), 3) == list(range(7))
    assert not rotation.takes_turns(0, 3).args[0]
