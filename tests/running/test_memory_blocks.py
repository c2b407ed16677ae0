"""Blocks are made from what workers took."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from slmbench.records.schema import MemoryRecord
from slmbench.running.memory_blocks import MOST_LIVE, footprint_bytes, make_blocks


def case(name: str, rss: int, uss: int | None = None) -> MemoryRecord:
    return MemoryRecord(case=name, peak_rss_bytes=rss, peak_uss_bytes=uss)


def test_all_in_one_where_they_fit() -> None:
    assert make_blocks([case("a", 4, 3), case("b", 4, 3)], 7) == [["a", "b"]]


def test_the_room_to_open_one_more_is_kept() -> None:
    # 3 + 3 are kept, and opening either takes 1 more.
    assert make_blocks([case("a", 4, 3), case("b", 4, 3)], 6.9) == [["a"], ["b"]]


def test_a_case_too_large_for_the_room_runs_alone() -> None:
    assert make_blocks([case("a", 1), case("b", 100), case("c", 1)], 10) == [["a"], ["b"], ["c"]]


def test_nothing_to_do() -> None:
    assert make_blocks([], 10) == []


def test_what_is_judged_together_is_live_together() -> None:
    records = [case(name, 3) for name in "axby"]
    assert make_blocks(records, 6) == [["a", "x"], ["b", "y"]]
    assert make_blocks(records, 6, [["a", "b"], ["x", "y"]]) == [["a", "b"], ["x", "y"]]
    # A group that one block cannot hold is split, and nothing else with it.
    assert make_blocks(records, 6, [["a", "b", "x"]]) == [["a", "x"], ["b", "y"]]
    assert make_blocks([case("c", 3), *records], 6, [["a", "b"], ["x", "y"]]) == [["c"], ["a", "b"], ["x", "y"]]


def test_workers_that_live_at_once_are_bounded_whatever_the_memory() -> None:
    blocks = make_blocks(
        [case(str(n), 1) for n in range(2 * MOST_LIVE + 2)], 1e12, [[str(MOST_LIVE - 1), str(MOST_LIVE)]]
    )
    assert [len(block) for block in blocks] == [MOST_LIVE - 1, MOST_LIVE, 3]


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 20)), max_size=20), st.integers(1, 200))
def test_every_case_once_in_order_and_no_block_too_large(sizes: list[tuple[int, int]], room: int) -> None:
    records = [case(str(n), uss + more, uss) for n, (uss, more) in enumerate(sizes)]
    blocks = make_blocks(records, room)
    assert [key for block in blocks for key in block] == [r.case for r in records]
    by_key = {r.case: r for r in records}
    for block in blocks:
        inside = [by_key[key] for key in block]
        need = sum(map(footprint_bytes, inside)) + max(r.peak_rss_bytes - footprint_bytes(r) for r in inside)
        assert len(block) == 1 or need <= room
