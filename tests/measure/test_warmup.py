"""When a warm-up ends."""

from __future__ import annotations

from slmbench.case import Workload
from slmbench.measure.warmup import beginning, warm_up


def test_ends_when_it_is_no_longer_faster() -> None:
    times = [(100, 900), (60, 700), (59, 690), (1, 1)]
    warm = warm_up(lambda index: times[index], most=8)
    assert (warm.generations, warm.stationary, warm.last_ns) == (3, True, 690)


def test_on_a_restless_machine_it_does_not_wait_for_two_alike() -> None:
    times = [(100, 900), (130, 1200), (90, 800), (120, 1000)]
    warm = warm_up(lambda index: times[index], most=8)
    assert (warm.generations, warm.stationary) == (2, True)


def test_one_is_enough_where_it_is_no_faster_than_the_first_inference() -> None:
    assert warm_up(lambda index: (61, 710), most=8, before=(60, 700)).generations == 1
    times = [(60, 700), (61, 690)]
    warm = warm_up(lambda index: times[index], most=8, before=(100, 900))
    assert (warm.generations, warm.stationary, warm.last_ns) == (2, True, 690)
    assert not warm_up(lambda index: (60, 700), most=1, before=(100, 900)).stationary


def test_a_warm_up_reads_the_whole_prompt_and_takes_few_steps() -> None:
    work = Workload(input_tokens=512, output_tokens=64)
    assert beginning(work) == Workload(input_tokens=512, output_tokens=8)
    assert beginning(Workload(input_tokens=512, output_tokens=1)) == Workload(input_tokens=512, output_tokens=1)
    assert beginning(work.model_copy(update={"turns": 3, "added_tokens": 8})) is None
    assert beginning(work.model_copy(update={"cache": "off"})) is None


def test_neither_the_first_token_nor_the_whole_may_be_faster() -> None:
    times = [(100, 900), (50, 900), (51, 700), (51, 700)]
    assert warm_up(lambda index: times[index], most=8).generations == 4


def test_the_count_is_bounded() -> None:
    calls: list[int] = []

    def ever_faster(index: int) -> tuple[int, int]:
        calls.append(index)
        return 1000 // 2**index, 1000 // 2**index

    warm = warm_up(ever_faster, most=5)
    assert (warm.generations, warm.stationary, calls) == (5, False, [0, 1, 2, 3, 4])
