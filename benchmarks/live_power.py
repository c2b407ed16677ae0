"""Power, live: a model with 6 % more layers than its twin must be caught at a gate of 3 % within three minutes.

    python benchmarks/live_power.py [--backend openvino] [--budget 150]

Two llamas of dec-tiny's sizes, of 16 and of 17 layers, run interleaved as two arms of one case; then 16 against 16,
which must not regress.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from _case import planned_case

from slmbench.analysis.gates import Gates
from slmbench.analysis.metrics import side_of
from slmbench.analysis.verdicts import Comparison, compare_sides
from slmbench.machine.fingerprint import collect
from slmbench.models.catalog import get
from slmbench.records.sample_arrays import read_columns
from slmbench.records.schema import CaseInfo, RunRecord, write_run
from slmbench.running.scheduler import measure
from slmbench.running.settings import MeasureSettings, PlannedCase


def make_twin(folder: Path, layers: int) -> Path:
    """Write dec-tiny with another number of layers, random weights, in Hugging Face layout."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = {k: v for k, v in get("dec-tiny").config.items() if k != "model_type"}
    model = LlamaForCausalLM(LlamaConfig(**{**config, "num_hidden_layers": layers}))
    path = folder / f"twin-{layers}"
    model.save_pretrained(path)
    return path


def compare(base: Path, new: Path, options: argparse.Namespace, out: Path) -> tuple[Comparison, float]:
    """Measure two checkpoints as arms of one case; return the judgement and the seconds it took."""
    plan = []
    for arm, model in (("base", base), ("new", new)):
        planned = planned_case(str(model), options.backend, input_tokens=64, output_tokens=32, arm=arm)
        plan.append(replace(planned, case=planned.case.model_copy(update={"checkpoint": "twin"})))
    out.mkdir()
    write_run(out, _record(plan))
    target = options.gate / 4
    settings = MeasureSettings(ttft_target=1.0 - 1e-9, tpot_target=target, budget_s=options.budget)
    begin = time.monotonic()
    measure(plan, out, settings)
    took = time.monotonic() - begin
    run = read_columns(out)
    sides = [side_of(run, arm, arm) for arm in ("base", "new")]
    return compare_sides(*sides, gates=Gates(default=options.gate), metrics=["tpot"]), took


def _record(plan: list[PlannedCase]) -> RunRecord:
    machine = collect().model_dump(mode="json")
    return RunRecord(
        run_id="twins",
        slmbench_version="0",
        created="now",
        seed=0,
        plan_digest="",
        cases=tuple(CaseInfo(case=p.case, checkpoint=p.checkpoint, engine=p.case.backend) for p in plan),
        machines={"base": machine, "new": machine},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--gate", type=float, default=0.03)
    parser.add_argument("--budget", type=float, default=150.0)
    options = parser.parse_args()
    print("| base, new | tpot new / base [95 %] | p | verdict | would be seen | seconds |")
    print("| --- | ---: | ---: | --- | ---: | ---: |")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        twins = {layers: make_twin(folder, layers) for layers in (16, 17)}
        for layers in (17, 16):
            comparison, took = compare(twins[16], twins[layers], options, folder / f"run-{layers}")
            (found,) = comparison.judgements
            ratio = found.ratio
            print(
                f"| 16, {layers} layers | {ratio.mid:.3f} [{ratio.low:.3f}, {ratio.high:.3f}] | {found.p_value:.2g} "
                f"| {found.verdict} | {found.detectable:.1%} | {took:.0f} |"
            )


if __name__ == "__main__":
    main()
