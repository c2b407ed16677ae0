"""When a warm-up ends."""

from __future__ import annotations

from slmbench.measure.warmup import warm_up


def test_ends_when_two_in_a_row_agree() -> None:
    times = [(100, 900), (60, 700), (59, 690), (1, 1)]
    warm = warm_up(lambda index: times[index], most=8)
    assert (warm.generations, warm.stationary, warm.last_ns) == (3, True, 690)


def test_both_the_first_token_and_the_whole_must_agree() -> None:
    times = [(100, 900), (50, 900), (51, 700), (51, 700)]
    assert warm_up(lambda index: times[index], most=8).generations == 4


def test_the_count_is_bounded() -> None:
    calls: list[int] = []

    def restless(index: int) -> tuple[int, int]:
        calls.append(index)
        return 2**index, 2**index

    warm = warm_up(restless, most=5)
    assert (warm.generations, warm.stationary, calls) == (5, False, [0, 1, 2, 3, 4])
