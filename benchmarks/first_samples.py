"""Whether a load's first sample is like its later ones: whether the warm-up was enough.

    python benchmarks/first_samples.py [--engine openvino onnxruntime] [--precision fp32] [--loads 30] [--samples 6]
                                       [--input-tokens 512] [--output-tokens 16] --out FOLDER
    python benchmarks/first_samples.py --table FOLDER...

The small pair is measured by the real scheduler, with so many loads of each case and so many samples in each. Within
a load the first sample is divided by the median of the others, for the first token and for a later token, and the
second one likewise: it shows what no warm-up can change. The table gives the geometric mean over loads with a 95 % t
interval, apart for loads that were warmed up by one generation after the first inference and by more. A load counts
where other processes disturbed neither of its first two samples. 1 within ±2 % is wanted: else a mean over loads with
few samples each is wrong by as much.

`--table` reads any folders of runs that have at least three samples in a load. Started again, the benchmark goes on in
its folder.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from _case import planned_case

from slmbench.analysis import stats
from slmbench.measure.stop_rule import JUDGED, brief
from slmbench.records.schema import SAMPLES_NAME, LoadRecord, SampleRecord, read_samples
from slmbench.running.scheduler import measure
from slmbench.running.settings import MeasureSettings

LEAST_SAMPLES = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", nargs="+", default=["openvino", "onnxruntime"])
    parser.add_argument(
        "--precision", default="fp32", help="of the weights; computed in fp32, as not every engine does"
    )
    parser.add_argument("--loads", type=int, default=30)
    parser.add_argument("--samples", type=int, default=6)
    parser.add_argument("--input-tokens", type=int, default=512)
    parser.add_argument("--output-tokens", type=int, default=16)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", nargs="+", type=Path)
    given = parser.parse_args()
    if given.table is None:
        if given.out is None:
            parser.error("--out FOLDER or --table FOLDER...")
        take(given)
    print_table(given.table or [given.out])


def take(given: argparse.Namespace) -> None:
    """Measure into the folder."""
    plan = [
        planned_case(
            model,
            engine,
            precision=given.precision,
            input_tokens=given.input_tokens,
            output_tokens=given.output_tokens,
        )
        for engine in given.engine
        for model in ("mu-small", "dec-small")
    ]
    given.out.mkdir(parents=True, exist_ok=True)
    settings = MeasureSettings(
        min_loads=given.loads,
        max_loads=given.loads,
        rounds=given.samples,
        budget_s=24 * 3600.0,
        # No interval is that narrow: the number of loads decides.
        ttft_target=1e-9,
        tpot_target=1e-9,
    )
    measure(plan, given.out, settings)


def print_table(folders: Sequence[Path]) -> None:
    """Print the ratios of the runs in the folders, together."""
    ratios: dict[tuple[str, str, str], list[tuple[float, float]]] = defaultdict(list)
    for folder in folders:
        for engine, warm_ups, metric, first, second in over_others(folder):
            for group in (engine, "all"):
                for kind in (warm_ups, "any"):
                    ratios[group, kind, metric].append((first, second))
    columns = ("engine", "warm-ups", "metric", "loads", "first / others [95 %]", "second / others [95 %]")
    print("{:<20} {:<9} {:<6} {:>5}  {:<24} {}".format(*columns))
    for (engine, warm_ups, metric), found in sorted(ratios.items()):
        if len(found) > 1:
            firsts, seconds = (_mean(one) for one in zip(*found, strict=True))
            print(f"{engine:<20} {warm_ups:<9} {metric:<6} {len(found):5}  {firsts:<24} {seconds}")


def _mean(ratios: Sequence[float]) -> str:
    mean = stats.level([[one] for one in ratios]).interval()
    return f"{mean.mid:.3f} [{mean.low:.3f}, {mean.high:.3f}]"


def over_others(folder: Path) -> Iterator[tuple[str, str, str, float, float]]:
    """Yield engine, "one" or "more" warm-ups, metric, and the ratios of the first and second sample of each load."""
    loads: dict[tuple[str, int], LoadRecord] = {}
    samples: dict[tuple[str, int], list[SampleRecord]] = defaultdict(list)
    for record in read_samples(folder / SAMPLES_NAME, []):
        if isinstance(record, LoadRecord):
            loads[record.case, record.load] = record
        elif isinstance(record, SampleRecord) and record.derived_from is None:
            samples[record.case, record.load].append(record)
    for key, taken in samples.items():
        if len(taken) < LEAST_SAMPLES or taken[0].flags or taken[1].flags:
            continue
        warm_ups = "one" if loads[key].warmups == 1 else "more"
        for metric, time_of in JUDGED.items():
            times = [ns for one in taken if (ns := time_of(brief(one))) is not None]
            # One token out has no time per token.
            if times:
                first, second = (times[at] / statistics.median(times[:at] + times[at + 1 :]) for at in (0, 1))
                yield key[0].split("|")[1], warm_ups, metric, first, second


if __name__ == "__main__":
    main()
