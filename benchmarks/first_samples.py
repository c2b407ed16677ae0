"""Whether a load's first sample is like its later ones: whether the warm-up was enough.

    python benchmarks/first_samples.py RUN...

Reads folders of `slmbench run`, best of one with many samples in each load:

    slmbench run --model mu-small,dec-small --backend openvino,onnxruntime --input-tokens 512 --output-tokens 32
                 --repeat 50 --out RUN

Within each load of a case the first sample is divided by the median of the others, for the first token and for a later
token; the table gives the geometric mean over loads with a 95 % t interval, apart for loads that were warmed up by one
generation after the first inference and by more. A load counts where it has at least four samples of the case, none
of the first two disturbed by other processes. 1 within ±2 % is wanted: else a mean of few samples a load is too slow.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from slmbench.analysis import stats
from slmbench.records.schema import LoadRecord, SampleRecord, read_samples

LEAST_SAMPLES = 4
METRICS = ("ttft", "tpot")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    ratios: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for folder in parser.parse_args().runs:
        for engine, warm_ups, metric, ratio in first_over_others(folder):
            for group in (engine, "all"):
                ratios[group, warm_ups, metric].append(ratio)
    print(f"{'engine':<20} {'warm-ups':<9} {'metric':<6} {'loads':>5}  first / others")
    for (engine, warm_ups, metric), found in sorted(ratios.items()):
        if len(found) > 1:
            found_here = stats.level([[one] for one in found]).interval()
            print(
                f"{engine:<20} {warm_ups:<9} {metric:<6} {len(found):5}  "
                f"{found_here.mid:.3f} [{found_here.low:.3f}, {found_here.high:.3f}]"
            )


def first_over_others(folder: Path) -> Iterator[tuple[str, str, str, float]]:
    """Yield engine, "one" or "more" warm-ups, metric and ratio for each load of each case."""
    loads: dict[tuple[str, int], LoadRecord] = {}
    samples: dict[tuple[str, int], list[SampleRecord]] = defaultdict(list)
    for record in read_samples(folder / "samples.jsonl", []):
        if isinstance(record, LoadRecord):
            loads[record.case, record.load] = record
        elif isinstance(record, SampleRecord) and record.derived_from is None:
            samples[record.case, record.load].append(record)
    for key, taken in samples.items():
        if len(taken) < LEAST_SAMPLES or taken[0].flags or taken[1].flags:
            continue
        warm_ups = "one" if loads[key].warmups == 1 else "more"
        for metric in METRICS[: min(2, len(taken[0].token_ns))]:
            first, *others = (time_of(one, metric) for one in taken)
            yield key[0].split("|")[1], warm_ups, metric, first / statistics.median(others)


def time_of(sample: SampleRecord, metric: str) -> float:
    """Return the time to the first token, or of a later token, in ns."""
    first, last = sample.token_ns[0], sample.token_ns[-1]
    return first if metric == "ttft" else (last - first) / (len(sample.token_ns) - 1)


if __name__ == "__main__":
    main()
