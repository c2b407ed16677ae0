"""Who leads on what, by how much, and whether the intervals separate them: sentences for runs without pairs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from slmbench.analysis.best import Best, BestPath, Rival
from slmbench.analysis.leaders import Leader, Leaders
from slmbench.models.catalog import PAIR_TOLERANCE
from slmbench.report.case_labels import full_names
from slmbench.report.text_table import bounds, bracketed, number, parameters

_TITLES = {"ttft": "First token soonest", "tpot": "Decodes fastest"}


def leader_sentences(leaders: Iterable[Leaders]) -> list[str]:
    """Return a sentence for each arm and metric: who leads at each workload; and how large those models are."""
    groups = list(leaders)
    return [*map(_sentence, groups), *_sizes(groups)]


def _sizes(groups: Iterable[Leaders]) -> list[str]:
    """Return what tells models apart that are not of one size: nobody should read a lead of a smaller one as more."""
    named = [one.found for group in groups for leader in group.first for one in _entries(leader.best)]
    sizes = {found.case.checkpoint: found.model.parameter_count for found in named}
    if not sizes or max(sizes.values()) <= min(sizes.values()) * (1 + PAIR_TOLERANCE):
        return []
    listed = ", ".join(f"{name} {parameters(sizes[name])}" for name in sorted(sizes, key=lambda one: sizes[one]))
    return [f"These models are not of one size: {listed} parameters"]


def _entries(best: Best) -> list[BestPath]:
    """Return whom a sentence may name: the leader, who is not separated from it, and who is behind."""
    return [best.leader, *(rival.entry for rival in (*best.ties[:1], *([best.runner_up] if best.runner_up else [])))]


def _sentence(leaders: Leaders) -> str:
    said = [f"{_where(leader, leaders.first)}: {_lead(leader)}" for leader in leaders.first]
    more = [f"{leaders.more} more lengths are in the table"] if leaders.more else []
    arm = f"{leaders.side.arm}: " if leaders.side.arm else ""
    return f"{arm}{_TITLES[leaders.metric]} {'; '.join([*said, *more])}"


def _where(leader: Leader, leaders: Sequence[Leader]) -> str:
    work = leader.workload
    several = len({other.device for other in leaders}) > 1 or leader.device != "cpu"
    parts = [f"{work.input_tokens} in / {work.output_tokens} out", work.more(), leader.device if several else ""]
    return f"at {', '.join(filter(None, parts))}"


def _lead(leader: Leader) -> str:
    """Return who leads, and which of those named did more before the first token."""
    best = leader.best
    entries = [best.leader, *(rival.entry for rival in (*best.ties, *([best.runner_up] if best.runner_up else [])))]
    cases = {one.found.case.backend: "preprocess" in one.found.evidence for one in entries}
    inside = [name for name, apart in cases.items() if not apart]
    if not leader.workload.images or best.leader.metric != "ttft" or len(inside) == len(cases) or not inside:
        return _ahead(leader)
    return f"{_ahead(leader)}; the time of {' and '.join(inside)} holds the preparation of the picture"


def _ahead(leader: Leader) -> str:
    best = leader.best
    rivals = [*best.ties, *([best.runner_up] if best.runner_up else [])]
    entries = [best.leader, *(rival.entry for rival in rivals)]
    paths = {entry.found.case.key: entry.found.model.attention_path or "" for entry in entries}
    names = full_names([entry.found.case for entry in entries], paths)

    def named(entry: BestPath) -> str:
        return names[entry.found.case.key]

    ahead = f"{named(best.leader)}, {_figure(best.leader)}"
    if best.alone:
        assert best.runner_up is not None
        return f"{ahead}, {_times(best.runner_up)} ahead of {named(best.runner_up.entry)}"
    first, *others = best.ties
    more = f" and {len(others)} more" if others else ""
    if best.leader.interval is None or not best.leader.interval.known:
        return f"{ahead}, {_times(first)} ahead of {named(first.entry)}{more}; one load, so it may be chance"
    tied = f"{ahead}, but the intervals do not separate it from {named(first.entry)} ({_times(first)}){more}"
    if best.runner_up is None:
        return tied
    return f"{tied}; it is {_times(best.runner_up)} ahead of {named(best.runner_up.entry)}"


def _figure(entry: BestPath) -> str:
    """Return ``12.3 ms [12.1, 12.5]``, or tokens per second where the metric is the time of one."""
    assert entry.interval is not None
    if entry.metric == "tpot":
        shown, unit = entry.interval.inverse().scaled(entry.found.case.workload.rows), "tok/s"
    else:
        shown, unit = entry.interval.scaled(1e3), "ms"
    return f"{number(shown.mid)} {unit}{bracketed(shown)}"


def _times(rival: Rival) -> str:
    return f"{rival.ratio.mid:.2f}x{bounds(rival.ratio, 2, '')}"
