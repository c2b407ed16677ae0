"""A case whose proof failed leaves no figure anywhere: not in tables, sentences, verdicts or other tools' formats."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from synthetic import Made, Speed, make_run

from slmbench.records.schema import Claim, FailureReason, FailureRecord

pytestmark = pytest.mark.usefixtures("calibrated")

#: Times of the case that fails, without noise, so that any figure made of them can be recognised.
TTFT_MS, TPOT_MS, LOAD_NS, MEMORY_BYTES = 54321.0, 8765.4, 31_337_000_000, 777_123_456
#: The digits of its times, their ratio to the partner's (100 ms and 10 ms), rates, load time and memory.
FIGURES = re.compile(
    r"(?<![\d.])(5432[01]|54[.,]32|543\.|8765|8\.765|876\.|0\.1140|0\.114\b|31\.3|31337|7771234|741(\.\d)? MiB)"
)
SENTENCE = re.compile(r"(sooner|later|faster|slower)\b.*than dec-small|reaches its first token|holds for|changes place")
CLAIM = Claim(says="47 % lower first-token latency", metric="ttft", speedup=1.89, source="a paper")

PARTNERS = tuple(Speed(input_tokens=tokens, between=0.0, within=0.0) for tokens in (128, 512))


def failing(reasons: Sequence[FailureReason]) -> dict[str, FailureReason]:
    """Return the keys of the failing cases, a model for each reason at two lengths, with their reason."""
    return {speed.case.key: reason for reason in reasons for speed in _speeds(reason)}


def _speeds(reason: FailureReason) -> list[Speed]:
    return [
        Speed(
            model=f"mu-{reason.name.lower().replace('_', '-')}",
            family="encoder-decoder",
            input_tokens=tokens,
            ttft_ms=TTFT_MS,
            tpot_ms=TPOT_MS,
            between=0.0,
            within=0.0,
        )
        for tokens in (128, 512)
    ]


def measured(seed: int, reasons: Sequence[FailureReason], *, failed: bool) -> Made:
    speeds = [speed for reason in reasons for speed in _speeds(reason)]
    made = make_run((*speeds, *PARTNERS), seed=seed, run_id=f"run-{seed}")
    made.record = made.record.model_copy(update={"claims": (CLAIM,)})
    keys = failing(reasons)
    for number, line in enumerate(made.lines):
        if line.case in keys and line.type == "load":
            made.lines[number] = line.model_copy(update={"load_ns": LOAD_NS, "first_inference_ns": LOAD_NS})
        if line.case in keys and line.type == "memory":
            made.lines[number] = line.model_copy(
                update={"peak_rss_bytes": MEMORY_BYTES, "peak_uss_bytes": MEMORY_BYTES}
            )
    if failed:
        # In a later load, after all samples: the proof that failed last voids what was measured before it.
        made.lines += [FailureRecord(case=key, load=5, reason=why, message="seen") for key, why in keys.items()]
    return made


def without_libraries(text: str) -> str:
    """Return a page without the scripts of its chart library: they hold digits of all kinds."""
    return re.sub(
        r"<script[^>]*>.*?</script>", lambda found: "" if len(found[0]) > 100_000 else found[0], text, flags=re.S
    )


def outputs(folder: Path, reasons: Sequence[FailureReason]) -> Iterator[tuple[str, str]]:
    """Run every command that shows figures; yield its name and all that it printed or wrote."""
    good = measured(1, reasons, failed=False).write(folder / "good")
    bad = measured(2, reasons, failed=True).write(folder / "bad")
    baseline = folder / "baseline.json"

    def printed(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "slmbench", *command],
            capture_output=True,
            text=True,
            encoding="utf-8",
            env={**os.environ, "COLUMNS": "400", "PYTHONUTF8": "1"},
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout

    yield "table", printed("table", str(bad), "--write")
    for name in ("table.md", "table.csv", "report.html"):
        yield name, without_libraries((bad / name).read_text(encoding="utf-8"))
    yield "table --json", printed("table", str(bad), "--json")
    for other in ("bencher", "github-smaller", "github-bigger"):
        yield other, printed("table", str(bad), "--format", other)
    printed("baseline", "save", str(bad), "--out", str(baseline))
    if baseline.exists():
        yield "baseline", baseline.read_text(encoding="utf-8")
    # The failing run on both sides: the good run's figures would be its own.
    for form in ("terminal", "markdown", "csv", "json", "html"):
        yield f"compare {form}", without_libraries(printed("compare", str(bad), str(bad), "--format", form))
    files = [folder / "junit.xml", folder / "summary.md"]
    yield (
        "check",
        printed(
            "check",
            "--baseline",
            str(bad),
            str(bad),
            "--annotations",
            "--junit",
            str(files[0]),
            "--summary",
            str(files[1]),
        ),
    )
    for file in files:
        if file.exists():
            yield file.name, file.read_text(encoding="utf-8")
    yield "check --json", printed("check", "--baseline", str(bad), str(bad), "--json")
    yield "history", printed("history", str(bad), str(bad), "--metric", "ttft")
    assert FIGURES.search(printed("table", str(good), "--json")), "the figures of the good run are not recognised"


@pytest.mark.slow
def test_a_failed_proof_leaves_no_figure(tmp_path: Path) -> None:
    for name, text in outputs(tmp_path, [reason for reason in FailureReason if reason.voids_figures]):
        found = FIGURES.search(text)
        assert not found, f"{name}: ...{text[max(0, found.start() - 200) : found.end() + 50]}"
        said = SENTENCE.search(text)
        assert not said, f"{name}: {said.group()}"


@pytest.mark.slow
def test_what_was_measured_before_a_crash_stands(tmp_path: Path) -> None:
    shown = dict(outputs(tmp_path, [FailureReason.CRASHED]))
    for name in ("table", "table.md", "table.csv", "table --json", "bencher", "compare json"):
        assert FIGURES.search(shown[name]), name
    assert SENTENCE.search(shown["table"])


def test_every_reason_says_whether_figures_stand() -> None:
    assert {reason for reason in FailureReason if not reason.voids_figures} == {
        FailureReason.CRASHED,
        FailureReason.KILLED,
        FailureReason.TIMEOUT,
        FailureReason.ERROR,
    }
