"""Which samples are far off the others of their case? They are named, and nothing is dropped."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slmbench.records.sample_columns import Floats, SampleColumns

#: A sample is far off where it differs from its case's median by more than this factor...
MINIMUM_FACTOR = 2.0
#: ... and by more than so many times the spread of the samples, which is measured by their median deviation.
MINIMUM_SPREADS = 10.0
#: Of fewer samples none can be called the odd one.
MINIMUM_SAMPLES = 5


def far_off(values: Floats) -> NDArray[np.bool_]:
    """Return which values are far off the others; NaN and what is not positive never are."""
    found = np.zeros(len(values), dtype=np.bool_)
    usable = np.isfinite(values) & (values > 0)
    if np.count_nonzero(usable) < MINIMUM_SAMPLES:
        return found
    logs = np.log(values[usable])
    if np.ptp(logs) <= np.log(MINIMUM_FACTOR):
        return found
    away = np.abs(logs - np.median(logs))
    # 1.4826: the median deviation of normal values is that much smaller than their standard deviation.
    spread = 1.4826 * float(np.median(away))
    found[usable] = away > max(np.log(MINIMUM_FACTOR), MINIMUM_SPREADS * spread)
    return found


def outlier_flags(samples: SampleColumns) -> list[str]:
    """Return a flag for each metric that has samples far off: how many, and which is the farthest."""
    flags = []
    counted = samples.counted()
    for name, values in (("ttft", np.asarray(samples.first_ns, dtype=np.float64)), ("tpot", samples.tpot_ns())):
        values = np.where(counted, values, np.nan)
        odd = far_off(values)
        if not odd.any():
            continue
        factors = values / np.nanmedian(values)
        worst = int(np.argmax(np.where(odd, np.abs(np.log(np.where(odd, factors, 1.0))), -1.0)))
        count = f"{np.count_nonzero(odd)} sample{'s' if np.count_nonzero(odd) > 1 else ''}"
        where = f"load {samples.load[worst]}, round {samples.round[worst]}"
        flags.append(f"{name} of {count} far off ({factors[worst]:.3g}x in {where})")
    return flags
