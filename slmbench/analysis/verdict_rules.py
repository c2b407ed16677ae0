"""Which verdict a figure of speed gets, and what stands in the way of one where it is inconclusive."""

from __future__ import annotations

import math
from dataclasses import replace

from slmbench.analysis import stats
from slmbench.analysis.judgement import EQUIVALENCE_ALPHA, Judgement, Verdict
from slmbench.analysis.noise import DEFAULT_CHANGE, DEFAULT_FLOOR, Shift

#: What stands between a disturbance and what else keeps a verdict away.
BETWEEN_REASONS = "; "


def verdict_of(found: Judgement) -> tuple[Verdict, str]:
    """Return the verdict on a judgement whose p-value is adjusted, and for ``inconclusive`` why.

    A change needs a p-value of at most ``alpha`` and an effect above the gate; between separate runs without a
    calibration one beyond :data:`DEFAULT_CHANGE`; and between separate runs both sides undisturbed. No change is a
    statement of its own: the 95 % interval lies within the gate, which without a calibration is at least
    :data:`DEFAULT_FLOOR`. The shift between runs is part of the error in both. Everything else is inconclusive.
    """
    if not math.isfinite(found.estimate.error):
        return "inconclusive", _one_load(found)
    if found.is_significant_change:
        if not found.disturbed_sides:
            return ("regressed" if found.estimate.value > 0 else "improved"), ""
        return "inconclusive", _disturbance(found)
    within = found.estimate.interval(1 - EQUIVALENCE_ALPHA * found.look)
    if not _waits_for_calibration(found) and stats.is_equivalent(within, found.gate):
        return "unchanged", ""
    found = replace(found, verdict="inconclusive")
    # What rules a change out whatever its size comes first.
    reasons = [_disturbance(found)] if found.disturbed_sides else []
    return "inconclusive", BETWEEN_REASONS.join([*reasons, _uncertainty(found)])


def _one_load(found: Judgement) -> str:
    """Return which side was loaded once, and what would help."""
    names = [name for name, side in (("base", found.base), ("new side", found.new)) if not side.known]
    whose = f"the {names[0]}" if len(names) == 1 else "a side"
    again = "measure the base again, with more loads" if found.shift and "base" in names else _more_loads(found)
    return f"one load of {whose}: nothing is known of how loads differ; {again}"


def _looks(found: Judgement) -> str:
    """Return what the figure looks like beyond its gate, as the beginning of a sentence that says why not; or none."""
    if abs(found.estimate.value) <= math.log1p(found.gate):
        return ""
    return f"it looks {'slower' if found.estimate.value > 0 else 'faster'}, but "


def _disturbance(found: Judgement) -> str:
    """Return that other processes rule a change out, whatever its size. Figures of a case that look alike share it."""
    shares = [f"{share:.0%}" for share in found.disturbed_sides.values()]
    names = list(found.disturbed_sides)
    again = f"the {names[0]}" if len(names) == 1 else "both"
    if len(set(shares)) == 1:
        whose = f"{shares[0]} of {'both sides' if len(names) == 2 else f'the {names[0]}'}'{'s' * (len(names) == 1)}"
    else:
        whose = " and ".join(f"{share} of the {name}'s" for share, name in zip(shares, names, strict=True))
    return (
        f"{_looks(found)}other processes disturbed {whose} samples, and then no change between separate runs counts, "
        f"however large: use arms (both in one run), or measure {again} again on a quiet machine"
    )


def _uncertainty(found: Judgement) -> str:
    """Return why the figures do not give a verdict themselves, and what would help."""
    # After a disturbance the sentence has begun, and has said what helps.
    first = not found.disturbed_sides
    looks, remedy = (_looks(found), _remedy(found)) if first else ("", "")
    assumed = found.shift.assumed if found.shift else ""
    if _waits_for_calibration(found):
        return (
            f"{looks}{assumed}, and separate runs are not judged below {DEFAULT_FLOOR:.0%} without one: "
            "use arms, or calibrate this machine for these cases"
        )
    if found.shift and found.blind and not assumed:
        return f"{looks}{_blindness(found.shift, found.gate)}"
    if found.ratio.low > 1:
        return _slower(found, "it looks " if first else "", remedy)
    if found.excludes_slowdown:
        return f"{_not_slower(found)}{remedy}"
    return f"{looks}{_too_wide(found)}{remedy}"


def _waits_for_calibration(found: Judgement) -> bool:
    """Return whether loads alone would give a verdict at a gate below what is judged without a calibration."""
    if not found.shift or not found.shift.assumed or found.gate >= DEFAULT_FLOOR:
        return False
    within = found.within
    return stats.is_equivalent(within.interval(1 - EQUIVALENCE_ALPHA * found.look), found.gate) or (
        within.p_value() <= found.alpha / found.step and abs(within.value) > math.log1p(found.gate)
    )


def _blindness(shift: Shift, gate: float) -> str:
    return (
        f"separate runs on this machine cannot see {gate * 100:.3g} %: identical ones lie up to {shift.floor:.1%} "
        f"apart (seen in {shift.runs} runs), and no number of loads changes that; use arms"
    )


def _slower(found: Judgement, looks: str, remedy: str) -> str:
    """Return why a figure whose interval is all above 1 has not regressed."""
    ratio = found.ratio
    beyond = ratio.mid - 1 > found.gate
    size = f"{looks if beyond else ''}slower by {ratio.low - 1:.1%} to {ratio.high - 1:.1%}"
    if found.shift and found.shift.assumed and found.p_value <= found.alpha:
        return f"{size}: {found.shift.assumed}, and without that a change counts from {DEFAULT_CHANGE:.0%} on"
    if beyond:
        return f"{size}, but that may be chance ({_p_text(found, 'fails')}){remedy}"
    return f"{size}: less than the gate by its estimate, and more is not excluded{remedy}"


def _not_slower(found: Judgement) -> str:
    """Return why a figure that excludes a slowdown of the gate's size is neither unchanged nor improved."""
    open_question = _p_text(found, "counts")
    if found.p_value <= found.alpha:
        assumed = f"{found.shift.assumed}, and " if found.shift and found.shift.assumed else ""
        open_question = f"{assumed}a change counts from {math.expm1(found.least_change):.0%} on"
    return (
        f"not slower by more than the gate, but neither unchanged (it may be up to {1 - found.ratio.low:.1%} faster) "
        f"nor improved ({open_question})"
    )


def _p_text(found: Judgement, verb: str) -> str:
    adjusted = f", adjusted for the {found.figures:,} figures judged" if found.figures > 1 else ""
    return f"p {found.p_value:.2g}{adjusted}; it {verb} at {found.alpha:.2g} or below"


def _too_wide(found: Judgement) -> str:
    """Return whose interval is too wide for the gate, with its size."""
    names = ["base", "new side"]
    if found.shift is None:
        names = [case.case.arm or name for case, name in zip((found.base_case, found.new_case), names, strict=True)]
    widths = [stats.half_width_text(side) for side in (found.base, found.new)]
    wide = [name for name, side in zip(names, (found.base, found.new), strict=True) if _is_wide(side, found.gate)]
    each = ", ".join(f"{name} {width}" for name, width in zip(names, widths, strict=True))
    if found.shift is None or not wide:
        own = stats.half_width_text(found.ratio)
        return f"the interval of new / base is {own}, too wide for the gate (by themselves: {each})"
    whose = "both sides' own intervals are" if len(wide) == 2 else f"the {wide[0]}'s own interval is"
    return f"{whose} wider than the gate ({each})"


def _is_wide(side: stats.Interval, gate: float) -> bool:
    return stats.relative_half_width(side) > gate


def _remedy(found: Judgement) -> str:
    """Return what would help, as the end of a sentence."""
    ways = []
    if found.base_too_wide:
        which = "both sides" if _is_wide(found.new, found.gate) else "the base"
        ways.append(f"measure {which} again, with more loads")
    elif found.loads_would_tell:
        ways.append(_more_loads(found))
    if found.shift and found.hidden_by_shift:
        # At this ratio; another measurement may have another.
        why = found.shift.assumed or f"identical runs lie up to {found.shift.floor:.1%} apart here"
        ways.append(f"loads alone may not tell, as {why}: use arms{', or calibrate it' * bool(found.shift.assumed)}")
    return "".join(f"; {way}" for way in ways)


def _more_loads(found: Judgement) -> str:
    """Return what helps where the new side's loads decide: what can be done with this side, at this look."""
    if not found.new_takes_more_loads:
        return "measure the new side again, with more loads"
    if found.look < 1:
        # The check takes loads itself already; where it stops, it says why.
        return "more loads may tell"
    return "more loads may tell (`slmbench check --baseline ... --until-conclusive` takes them)"
