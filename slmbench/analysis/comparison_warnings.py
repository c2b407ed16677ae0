"""What a reader of a comparison has to know besides the verdicts: how the two sides were measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from slmbench.analysis.gates import Gates
from slmbench.analysis.judgement import Judgement
from slmbench.analysis.metrics import Side
from slmbench.analysis.not_judged import failure_notes


def comparison_warnings(base: Side, new: Side, keys: Sequence[str], gates: Gates) -> Iterable[str]:
    """Yield what was warned of on either side, and in what the sides differ that does not forbid a verdict."""
    yield from base.warnings
    yield from new.warnings
    yield from failure_notes(base, new, keys)
    yield from _ways_of_loading(base, new, keys)
    alike = all(base.cases[key].case == new.cases[key].case for key in keys)
    if alike and base.run_id == new.run_id and base.arm == new.arm and base.name != new.name:
        yield f"{base.name} and {new.name} are the same samples"
    for key in keys:
        if base.cases[key].model.digest != new.cases[key].model.digest:
            yield f"{key}: the checkpoints of that name differ (other config or weights)"
        paths = base.cases[key].model.attention_path, new.cases[key].model.attention_path
        if None not in paths and paths[0] != paths[1]:
            yield f"{key}: another attention path ran: {paths[0]} / {paths[1]}"
    for pattern in gates.idle_rules(list(keys)):
        yield f"the gates for '{pattern}' fit no case of this comparison"


def wider_gate(judgements: Iterable[Judgement], gates: Gates) -> Iterable[str]:
    """Yield that nobody asked for a gate, and that separate runs are judged at a wider one than interleaved ones."""
    for one in judgements:
        if one.shift and one.shift.assumed and one.gate != gates.gate(one.metric, one.key):
            yield (
                f"the gate is {one.gate:.0%}, not {gates.gate(one.metric, one.key):.0%}, as {one.shift.assumed}: "
                "`slmbench calibrate --like` the baseline, once, or `slmbench run --arm` lets smaller changes be judged"
            )


def _ways_of_loading(base: Side, new: Side, keys: Sequence[str]) -> Iterable[str]:
    """Yield that one side measured in shared loads and the other did not.

    That is no reason for doubt: a backend shares loads only where a benchmark showed that it measures the same.
    """
    for one, other in ((base, new), (new, base)):
        cases = sum(bool(one.cases[key].configuration) and not other.cases[key].configuration for key in keys)
        if cases:
            yield (
                f"{one.name} measured {cases} of these cases in loads that several workloads shared, {other.name} each "
                "in loads of its own; the engines that share loads measure the same in both (docs/methodology.md)"
            )
