"""Which cases of two sides are the same question: by key, by what was asked, or by hand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice

from slmbench.analysis.metrics import Side
from slmbench.case import Case
from slmbench.errors import BadInputError, nearest


def with_matched_cases(base: Side, new: Side, by_hand: Sequence[str] = ()) -> tuple[Side, Side]:
    """Return both sides, the new one's cases under the keys that the base has for them.

    Equal keys are the same case. Then cases that only one side has are paired where both sides were asked the same and
    each has one such case: an exporter, a recipe or a precision that was chosen for the user is a cause to be named,
    not another question. ``by_hand`` are texts ``A=B``: a case of the base with A in its key is paired with the case of
    the new side whose key has B in that place; the namesake that either of them had before is then left out.

    Raises:
        BadInputError: ``A=B`` fits no pair of cases, or a case would be in two pairs.
    """
    names: dict[str, str] = {}
    for text in by_hand:
        for ours, theirs in _named(base, new, text):
            if names.get(theirs, ours) != ours or (ours in names.values() and theirs not in names):
                raise BadInputError(f"--match {text}: {theirs} would be paired with two cases")
            names[theirs] = ours
    taken = set(names.values())
    for key in new.cases:
        if key not in names and key in base.cases and key not in taken:
            names[key] = key
    taken = set(names.values())
    ours_left = _by_what_was_asked(base, (key for key in base.cases if key not in taken))
    theirs_left = _by_what_was_asked(new, (key for key in new.cases if key not in names))
    for asked, theirs_alike in theirs_left.items():
        ours_alike = ours_left.get(asked, [])
        if len(ours_alike) == len(theirs_alike) == 1:
            names[theirs_alike[0]] = ours_alike[0]
    return _without_displaced(base, new, names), _renamed(base, new, names)


def _without_displaced(base: Side, new: Side, names: dict[str, str]) -> Side:
    paired = set(names.values())
    return replace(base, cases={key: one for key, one in base.cases.items() if key in paired or key not in new.cases})


def _renamed(base: Side, new: Side, names: dict[str, str]) -> Side:
    cases = {
        names.get(key, key): replace(found, derived_from=names.get(found.derived_from or "", found.derived_from))
        for key, found in new.cases.items()
        if key in names or key not in base.cases
    }
    return replace(new, cases=cases)


def asked_of(case: Case) -> str:
    """Return what a user asks for with a case: not what slmbench, a library or the artifact itself decides."""
    # A user's artifact says itself what its weights are.
    weights = "" if case.exporter == "given" else case.weight_precision
    parts = [case.checkpoint, case.backend, case.device, weights, case.workload.label(), case.attention or ""]
    return "|".join([*parts, str(case.threads or ""), str(case.simulate), case.settings])


def how_nearest_differ(base: Side, new: Side) -> str:
    """Return in what the two most alike cases of sides without a common case differ: a sentence, or nothing to say."""
    alike = min(
        (
            _differences(ours.case, theirs.case)
            for ours in islice(base.cases.values(), _LOOKED_AT)
            for theirs in islice(new.cases.values(), _LOOKED_AT)
        ),
        key=len,
        default={},
    )
    if not alike:
        return ""
    said = (f"{name} ({ours} in {base.name}, {theirs} in {new.name})" for name, (ours, theirs) in alike.items())
    return f". The two most alike differ in {', '.join(said)}"


#: Cases of each side that are held against each other for the sake of a message.
_LOOKED_AT = 50


def _differences(ours: Case, theirs: Case) -> dict[str, tuple[str, str]]:
    before, after = _fields_of(ours), _fields_of(theirs)
    return {name: (before[name], after[name]) for name in before if before[name] != after[name]}


def _fields_of(case: Case) -> dict[str, str]:
    raw = case.model_dump(mode="json", exclude={"arm", "checkpoint", "options"})
    options = " ".join(map("=".join, case.options))
    fields = {"model": case.checkpoint, **raw.pop("workload"), **raw, "options": options or None}
    return {name.replace("_", " "): "not set" if value is None else str(value) for name, value in fields.items()}


def _by_what_was_asked(side: Side, keys: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        found[asked_of(side.cases[key].case)].append(key)
    return found


def _without_exporter(key: str, case: Case) -> str:
    return key.replace(f"|{case.format}-{case.layout}-{case.exporter}|", f"|{case.format}-{case.layout}|")


def _named(base: Side, new: Side, text: str) -> list[tuple[str, str]]:
    """Return the pairs of keys that ``A=B`` names; keys have ``=`` in them, so every one may be the one between."""
    if "=" not in text.strip("="):
        raise BadInputError(f"--match {text}: A=B is expected: A of a key of the base, B in its place in the new")
    loosely: dict[str, list[str]] = defaultdict(list)
    for key, found in new.cases.items():
        loosely[_without_exporter(key, found.case)].append(key)
    for place in (index for index, letter in enumerate(text) if letter == "="):
        ours, theirs = text[:place], text[place + 1 :]
        if not ours or not theirs:
            continue
        pairs: list[tuple[str, str]] = []
        for key in (key for key in base.cases if ours in key):
            named = key.replace(ours, theirs)
            # Which exporter makes an artifact is often chosen for the user, so it may be another one there.
            alike = loosely.get(_without_exporter(key, base.cases[key].case).replace(ours, theirs), [])
            if named in new.cases or len(alike) == 1:
                pairs.append((key, named if named in new.cases else alike[0]))
        if pairs:
            return pairs
    ours, _, theirs = text.partition("=")
    if not any(ours in key for key in base.cases):
        raise BadInputError(f"--match {text}: {base.name} has no case with '{ours}'.{nearest(ours, list(base.cases))}")
    tried = next(key.replace(ours, theirs) for key in base.cases if ours in key)
    raise BadInputError(f"--match {text}: {new.name} has no case {tried}.{nearest(tried, list(new.cases))}")
