"""What verdicts are worth: slmbench's own judging on made-up loads, with a shift of the whole machine between runs.

    python benchmarks/verdicts_simulation.py [PART]... [--count 600] [--seed 0]

Loads differ by 2 % (standard deviation on the log scale), 10 a side where nothing else is said; ttft and tpot of every
case are judged at a gate of 5 %. Between runs the machine shifts by 0 to 3 %: all cases and metrics alike, or half of
that variance alike and half for each case by itself. The machine was calibrated with 6 runs of 10 loads. Arms share
the shift. Every figure is a share of made-up comparisons; the table is in docs/methodology.md.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from _shared_loads_drawn import in_shared_loads

from slmbench.analysis import noise, stats
from slmbench.analysis.exit_code import exit_code
from slmbench.analysis.gates import Gates
from slmbench.analysis.metrics import Evidence, ModelFacts, Side, SideCase
from slmbench.analysis.ratios import mean_ratio
from slmbench.analysis.verdict_rules import verdict_of
from slmbench.analysis.verdicts import Comparison, compare_sides
from slmbench.case import Case, Workload
from slmbench.errors import ExitCode
from slmbench.report.check_summary import Sampler, judge_until_conclusive

METRICS = ("ttft", "tpot")
BETWEEN = 0.02
LOADS = 10
CALIBRATION_RUNS = 6
GATE = 0.05
SHIFTS = (0.0, 0.01, 0.02, 0.03)
MACHINE = {
    "hardware": {"cpu_model": "simulated", "physical_cores": 2,
                 "logical_cores": 2, "memory_gib": 8, "os": "L", "arch": "x"}
}  # fmt: skip
MODEL = ModelFacts(family="decoder-only", parameter_count=1, digest="d", engine="openvino")
Logs = np.ndarray


@dataclass(frozen=True)
class World:
    """A machine and what is compared on it."""

    cases: int = 1
    loads: int = LOADS
    shift: float = 0.0
    #: Share of the shift's variance that each case has for itself.
    own: float = 0.0
    between: float = BETWEEN
    arms: bool = False

    def runs(self, count: int, rng: np.random.Generator, loads: int | None = None) -> Logs:
        """Draw the log levels of every load: ``[count, metrics, cases, loads]``."""
        shape = (count, len(METRICS), self.cases)
        shared = rng.normal(0, self.shift * math.sqrt(1 - self.own), (count, 1, 1))
        own = rng.normal(0, self.shift * math.sqrt(self.own), shape)
        return (shared + own)[..., None] + rng.normal(0, self.between, (*shape, loads or self.loads))


def case_of(number: int) -> Case:
    return Case(
        checkpoint=f"m{number}", backend="openvino", device="cpu", format="openvino", exporter="slmbench",
        weight_precision="fp32", compute_precision="fp32", workload=Workload(input_tokens=8, output_tokens=8),
    )  # fmt: skip


CASES = [case_of(number) for number in range(100)]
KEYS = [case.key for case in CASES]


def side_of(logs: Logs, name: str, run_id: str) -> Side:
    """Return a run's loads ``[metrics, cases, loads]`` as a side; equal loads of one run are neighbours in time."""
    cases = {}
    for number in range(logs.shape[1]):
        evidence = {}
        for metric, values in zip(METRICS, logs[:, number], strict=True):
            rounds = tuple((k, np.array([k]), np.exp(values[k : k + 1])) for k in range(values.size))
            evidence[metric] = Evidence(values, np.zeros(values.size), np.ones(values.size, dtype=np.int64), rounds)
        cases[KEYS[number]] = SideCase(CASES[number], MODEL, evidence)
    return Side(name=name, run_id=run_id, arm=None, cases=cases, machine=MACHINE)


def floor_of(logs: Logs) -> noise.Floor:
    """Return what a calibration makes of identical runs ``[runs, metrics, cases, loads]``."""
    runs, _, count, _ = logs.shape
    cases = {
        KEYS[number]: {metric: tuple(logs[:, at, number].mean(axis=1)) for at, metric in enumerate(METRICS)}
        for number in range(count)
    }
    variances = {
        KEYS[number]: {
            metric: float(logs[:, at, number].var(axis=1, ddof=1).mean() / logs.shape[-1])
            for at, metric in enumerate(METRICS)
        }
        for number in range(count)
    }
    calibration = noise.Calibration(machine="m", measured="", runs=runs, cases=cases, load_variances=variances)
    return noise.Floor(calibration)


@dataclass
class Drawn:
    """One comparison that was made up."""

    base: Logs
    new: Logs
    floor: noise.Floor | None
    arms: bool

    def judge(self, gate: float = GATE, *, slower: float = 0.0, look: float = 1.0) -> Comparison:
        """Judge it, the new side's first case slowed by that share."""
        new = self.new.copy()
        new[:, 0] += math.log1p(slower)
        names = ("run", "run") if self.arms else ("base", "new")
        sides = side_of(self.base, "base", names[0]), side_of(new, "new", names[1])
        return compare_sides(*sides, gates=Gates(default=gate), floor=self.floor, look=look)


def drawn(world: World, count: int, rng: np.random.Generator, *, calibrated: bool = True) -> Iterator[Drawn]:
    """Draw comparisons of identical software, each on a machine that was calibrated for itself."""
    for _ in range(count):
        floor = None
        if calibrated and not world.arms:
            floor = floor_of(world.runs(CALIBRATION_RUNS, rng, LOADS))
        base, new = world.runs(2, rng)
        if world.arms:
            # Both arms see the same shift.
            new = new - new.mean() + base.mean() if world.shift else new
        yield Drawn(base, new, floor, world.arms)


def share(values: Iterator[bool]) -> str:
    found = list(values)
    return f"{100 * sum(found) / len(found):.1f} %"


def called_different(found: Comparison) -> bool:
    return any(j.verdict in ("regressed", "improved") for j in found.judgements)


def verdict(found: Comparison, wanted: str) -> bool:
    return found.judgements[0].verdict == wanted


def table(part: str, count: int, seed: int) -> str:
    """Return one part's table as Markdown."""
    title, header, rows = PARTS[part]
    lines = [f"\n**{title}**\n", f"| {header} |", "|" + "---|" * (header.count("|") + 1)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows(count, np.random.default_rng(seed)))])


def designs(world: World = World()) -> Iterator[tuple[str, World]]:
    for shift in SHIFTS:
        yield f"separate runs, shift {shift:.0%}", replace(world, shift=shift)
    yield "arms, any shift", replace(world, arms=True)


def false_alarms(count: int, rng: np.random.Generator) -> Iterator[list[str]]:
    for cases, own in ((1, 0.0), (10, 0.0), (10, 0.5), (100, 0.5)):
        row = [f"{cases}, {'half the shift each by itself' if own else 'one shift for all'}"]
        for _, world in designs(World(cases=cases, own=own)):
            times = count if cases < 100 else max(20, count // 10)
            times = max(20, count // 100) if cases == 100 and world.arms else times
            row.append(share(called_different(one.judge()) for one in drawn(world, times, rng)))
        yield row


def one_case(count: int, rng: np.random.Generator) -> Iterator[list[str]]:
    for loads in (5, 10, 20):
        for name, world in designs(World(loads=loads)):
            # Arms are what checks in CI should use: their small rates are told more exactly.
            times = 4 * count if world.arms else count
            found = [
                (one.judge(slower=0.051), one.judge(slower=0.075), one.judge()) for one in drawn(world, times, rng)
            ]
            yield [
                str(loads), name,
                share(verdict(over, "unchanged") for over, _, _ in found),
                share(verdict(same, "unchanged") for _, _, same in found),
                share(verdict(slow, "regressed") for _, slow, _ in found),
                share(one.judge(slower=0.15).judgements[0].verdict == "regressed" for one in drawn(world, count, rng)),
            ]  # fmt: skip


def seen(count: int, rng: np.random.Generator) -> Iterator[list[str]]:
    for cases in (1, 10, 100):
        for loads in (3, 5, 10):
            row = [str(2 * cases), str(loads)]
            for arms in (False, True):
                world = World(cases=cases, loads=loads, shift=0.0 if arms else 0.01, arms=arms)
                times = count if cases < 100 else max(20, count // 2)
                hits: list[bool] = []
                for first, second in zip(drawn(world, times, rng), drawn(world, times, rng), strict=True):
                    # The same calibration judges the next comparison.
                    second.floor = first.floor
                    hits.extend(seen_in_the_next(first.judge(), second.judge()))
                row.append(share(iter(hits)))
            yield row


def seen_in_the_next(first: Comparison, second: Comparison) -> Iterator[bool]:
    """Return for some judgements of ``first`` whether what they give as visible is called slower in ``second``.

    One metric of one case is slower at a time: with several, Holm's procedure sees each of them a little more often.
    """
    p_values = [one.estimate.p_value() for one in second.judgements]
    for at in range(0, len(p_values), max(1, len(p_values) // 3)):
        then = second.judgements[at]
        value = then.estimate.value + math.log1p(first.judgements[at].detectable)
        slowed = replace(then.estimate, value=value)
        adjusted = stats.holm([*p_values[:at], slowed.p_value(), *p_values[at + 1 :]])[at]
        yield verdict_of(replace(then, estimate=slowed, p_value=adjusted))[0] == "regressed"


def mean_coverage(count: int, rng: np.random.Generator) -> Iterator[list[str]]:
    for cases in (4, 20):
        row = [str(cases)]
        for own in (0.0, 0.5):
            world = World(cases=cases, shift=0.01, own=own)
            means = [one.judge().means["ttft"].interval() for one in drawn(world, count, rng)]
            row.append(share(mean.low <= 1 <= mean.high for mean in means))
        yield row


def uncalibrated(count: int, rng: np.random.Generator) -> Iterator[list[str]]:
    for gate in (0.05, 0.10):
        for shift in (0.01, 0.03, 0.05):
            found = [one.judge(gate) for one in drawn(World(shift=shift), count, rng, calibrated=False)]
            slow = [one.judge(gate, slower=0.3) for one in drawn(World(shift=shift), count, rng, calibrated=False)]
            yield [
                f"{gate:.0%}", f"{shift:.0%}", share(called_different(one) for one in found),
                share(verdict(one, "unchanged") for one in found), share(verdict(one, "regressed") for one in slow),
            ]  # fmt: skip


def until_conclusive(count: int, rng: np.random.Generator) -> Iterator[list[str]]:
    for slower in (0.0, 0.04, 0.06, 0.075):
        ends: list[str] = []
        taken: list[int] = []
        for _ in range(count):
            end, loads = sampled_on(slower, rng)
            ends.append(end)
            taken.append(loads)
        yield [
            f"{slower:.1%}",
            *(share(end == name for end in ends) for name in ("regressed", "passes", "inconclusive")),
            f"{np.mean(taken):.0f}",
        ]  # fmt: skip


def sampled_on(slower: float, rng: np.random.Generator, most: int = 200) -> tuple[str, int]:
    """Judge arms with loads at 3 % until conclusive; a load takes a second, and ``most`` of them fit the budget."""
    world = World(loads=LOADS, between=0.03, arms=True)
    state = next(drawn(world, 1, rng))
    clock, said = [0.0], list[str]()

    def more(loads: int, _seconds: float) -> bool:
        clock[0] += loads
        extra = world.runs(2, rng, loads)
        state.base = np.concatenate([state.base, extra[0]], axis=-1)
        state.new = np.concatenate([state.new, extra[1]], axis=-1)
        return True

    found = judge_until_conclusive(
        lambda look: state.judge(slower=slower, look=look),
        Sampler(more, lambda: 1.0),
        most,
        say=said.append,
        clock=lambda: clock[0],
    )
    ends = {ExitCode.OK: "passes", ExitCode.REGRESSED: "regressed", ExitCode.INCONCLUSIVE: "inconclusive"}
    return ends[exit_code([found])], state.base.shape[-1]


def power_of_arms(count: int, rng: np.random.Generator) -> Iterator[list[str]]:
    for loads in (5, 10, 20):
        row = [str(loads)]
        for gate in (0.05, 0.03, 0.02):
            made = drawn(World(between=0.017, loads=loads, arms=True), count, rng)
            row.append(share(verdict(one.judge(gate, slower=1.5 * gate), "regressed") for one in made))
        yield row


def rules_of_others(count: int, rng: np.random.Generator) -> Iterator[list[str]]:
    """Arms on a quiet machine, ten loads of five samples, by slmbench and by two rules that are in use."""
    from scipy.stats import mannwhitneyu

    world = World(between=0.017, arms=True)
    for gate in (0.05, 0.03, 0.02):
        alarms, misses = np.zeros(3), np.zeros(3)
        for one in drawn(world, count, rng):
            loads = np.stack([one.base[0, 0], one.new[0, 0]])
            samples = np.exp(loads[..., None] + rng.normal(0, 0.008, (*loads.shape, 5)))
            for slower, found in ((0.0, alarms), (1.5 * gate, misses)):
                base, new = samples[0], samples[1] * (1 + slower)
                apart = mannwhitneyu(new.ravel(), base.ravel()).pvalue < 0.05 and np.median(new) > np.median(base)
                found += (
                    one.judge(gate, slower=slower).judgements[0].verdict == "regressed",
                    new[0].mean() > (1 + gate) * base[0].mean(),
                    apart,
                )
        for name, alarm, hit in zip(
            ("slmbench", "mean of five samples of one load", "Mann-Whitney on all samples"), alarms, misses, strict=True
        ):
            yield [f"{gate:.0%}", name, f"{100 * alarm / count:.1f} %", f"{100 - 100 * hit / count:.1f} %"]


def shared_loads(count: int, rng: np.random.Generator) -> Iterator[list[str]]:
    """The geometric mean over workloads that one load serves: its effect counted once, and as if independent."""
    for workloads in (2, 6, 30):
        for loads in (3, 5, 10):
            row = [str(workloads), str(loads)]
            for interleaved in (False, True):
                hits, naive = list[bool](), list[bool]()
                for _ in range(count):
                    sides = [in_shared_loads(workloads, loads, BETWEEN, name, rng) for name in ("base", "new")]
                    pairs = list(zip(*sides, strict=True))
                    apart = [(replace(old, shared_loads=None), replace(new, shared_loads=None)) for old, new in pairs]
                    for cases, found in ((pairs, hits), (apart, naive)):
                        mean = mean_ratio(cases, interleaved=interleaved).interval()
                        found.append(mean.low <= 1 <= mean.high)
                row += [share(iter(hits)), share(iter(naive))]
            yield row


PARTS: dict[str, tuple[str, str, Callable[[int, np.random.Generator], Iterator[list[str]]]]] = {
    "alarms": (
        "Identical software called different (of comparisons)",
        "cases | " + " | ".join(name for name, _ in designs()), false_alarms,
    ),
    "one": (
        "One case",
        "loads | design | 5.1 % slower passes | identical passes | 7.5 % slower fails | 15 % slower fails", one_case,
    ),
    "seen": (
        "A slowdown of the size given as visible is called one", "judgements | loads | separate runs | arms",
        seen,
    ),
    "mean": (
        "The geometric mean's interval holds 1, shift 1 %", "cases | one shift | half each by itself", mean_coverage,
    ),
    "uncalibrated": (
        "Separate runs without a calibration",
        "gate | shift | identical called different | identical passes | slower by 30 % fails", uncalibrated,
    ),
    "power": (
        "Arms, loads at 1.7 %: a slowdown of 1.5 times the gate fails", "loads a side | gate 5 % | gate 3 % | gate 2 %",
        power_of_arms,
    ),
    "others": (
        "Rules of others, arms, one case", "gate | rule | identical is slower | 1.5 times the gate is missed",
        rules_of_others,
    ),
    "conclusive": (
        "--until-conclusive, arms, loads at 3 %, at most 200 more",
        "slower by | the check fails | passes | is inconclusive | loads", until_conclusive,
    ),
    "shared": (
        "The geometric mean's interval over workloads of the same loads holds 1 (load effect 2 %, own 0.5 %)",
        "workloads | loads | separate runs | as if independent | arms | as if independent", shared_loads,
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS])
    parser.add_argument("--count", type=int, default=600, help="comparisons a figure; fewer with many cases")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    parts = list(options.parts or PARTS)
    with ProcessPoolExecutor(2) as pool:
        # "seen" takes longer than all others together: it begins first.
        tables = {
            part: pool.submit(table, part, options.count, options.seed)
            for part in sorted(parts, key=lambda part: part != "seen")
        }
        for part in parts:
            print(tables[part].result(), flush=True)
    used = os.times()
    print(
        f"\n{options.count} comparisons a figure (fewer with many cases), {time.monotonic() - began:.0f} s, "
        f"{used.children_user + used.children_system:.0f} s of processor time"
    )


if __name__ == "__main__":
    main()
