"""What shares a load: a configuration is a case without its lengths and turns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from slmbench.case import Case, Workload


def configuration_key(case: Case, attention: str | None) -> str:
    """Return the key of the case's configuration: every case that has it can be served by one opened model.

    ``attention`` is the path that its session is opened with: a backend may choose one by the workload.
    """
    work = case.workload
    rows = f"b{work.batch}" + (f"-s{work.answers}" if work.answers > 1 else "") + ("-img" if work.images else "")
    path = f"|{attention}" if attention and not case.attention else ""
    return case.key_with(f"any-{rows}") + path


def shared_configurations(cases: Iterable[tuple[Case, str | None]]) -> dict[str, str]:
    """Return the configuration of each case that shares its loads with another one, by the case's key.

    ``cases`` are those of backends that can share loads, each with the attention path that it is opened with. Graphs
    of fixed shapes hold one workload, and steps without a K/V cache are another loop: these stay alone.
    """
    found = {
        case.key: configuration_key(case, attention)
        for case, attention in cases
        if case.layout == "dynamic" and case.workload.cache == "on"
    }
    members = Counter(found.values())
    return {key: configuration for key, configuration in found.items() if members[configuration] > 1}


def lane_of(work: Workload) -> str:
    """Return the name of the lane in which a load measures the workload: all rounds of one lane come in a row.

    Engines work shapes out again when the length changes, so lengths are not mixed. Outputs of one prompt share a
    lane: the longest is generated, and the others are its beginning.
    """
    if work.has_prefixes or work.cache == "off":
        return f"{work.source}-b{work.batch}-s{work.answers}"
    return work.label()


def merged(groups: Iterable[Collection[str]], configurations: Mapping[str, str]) -> list[list[str]]:
    """Return the groups of case keys, joined where they have cases of one configuration; each keeps its first place.

    ``configurations`` names the configuration of those cases that share one.
    """
    found: list[dict[str, None]] = []
    place: dict[str, int] = {}
    for group in groups:
        names = {configurations.get(key, key) for key in group}
        known = sorted({place[name] for name in names if name in place})
        into = known[0] if known else len(found)
        if not known:
            found.append({})
        found[into].update(dict.fromkeys(group))
        for other in known[1:]:
            found[into].update(found[other])
            found[other] = {}
        for key in found[into]:
            place[configurations.get(key, key)] = into
    return [list(group) for group in found if group]
