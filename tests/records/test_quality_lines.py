"""``quality.jsonl``: what is written is read back per case, and figures come with honest intervals."""

from __future__ import annotations

import json
import math
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from slmbench.analysis.divergence import divergence_of
from slmbench.errors import BadInputError
from slmbench.records.quality import (
    QUALITY_NAME,
    NoQualityRecord,
    QualityLine,
    WindowRecord,
    read_quality,
)

SCHEMA = Path(__file__).parents[2] / "docs" / "schema" / "quality.schema.json"


def window(number: int, kl: float | None = 0.01, **given: object) -> WindowRecord:
    """Return a made-up window of eight tokens."""
    known = {"artifact_loss": 16.8, "reference_loss": 16.0} if kl is not None else {}
    record = WindowRecord(
        cases=("a", "b"), reference="ref", reference_digest="r1", text_digest="t1", document=number // 4, window=number,
        tokens=8, kl=None if kl is None else (kl,) * 8, same_top1=7, read="steps", free_tokens=4,
        artifact_loss=known.get("artifact_loss"), reference_loss=known.get("reference_loss"),
    )  # fmt: skip
    return record.model_copy(update=given)


def write(folder: Path, *lines: QualityLine) -> None:
    """Write the lines as a run does."""
    (folder / QUALITY_NAME).write_text("".join(one.model_dump_json() + "\n" for one in lines), encoding="utf-8")


def test_cases_of_a_configuration_share_their_windows(tmp_path: Path) -> None:
    write(tmp_path, *(window(i, 0.01 + 0.001 * (i % 5)) for i in range(12)))
    found = read_quality(tmp_path)
    assert set(found) == {"a", "b"}
    assert found["a"].kl.size == 96
    figures = divergence_of(found["b"])
    assert (figures.documents, figures.windows, figures.tokens, figures.text_digest) == (3, 12, 96, "t1")
    assert figures.kl is not None
    assert figures.kl.low < figures.kl.mid < figures.kl.high
    assert figures.p99_kl is None, "96 tokens have no p99"
    assert figures.same_top1 is not None
    assert figures.same_top1.mid == pytest.approx(7 / 8)
    assert figures.log_perplexity_change is not None
    assert figures.log_perplexity_change.mid == pytest.approx(0.1)
    assert figures.perplexity_change is not None
    assert figures.perplexity_change.mid == pytest.approx(math.expm1(0.1))
    assert figures.free_same == 4


def test_below_ten_windows_there_is_a_figure_without_an_interval(tmp_path: Path) -> None:
    write(tmp_path, *map(window, range(9)))
    figures = divergence_of(read_quality(tmp_path)["a"])
    assert figures.kl is not None
    assert figures.kl.mid == pytest.approx(0.01)
    assert not figures.kl.known


def test_an_engine_that_gives_tokens_alone_has_top1_alone(tmp_path: Path) -> None:
    write(tmp_path, *(window(i, None) for i in range(12)))
    figures = divergence_of(read_quality(tmp_path)["a"])
    assert (figures.kl, figures.log_perplexity_change, figures.reference_perplexity) == (None, None, None)
    assert figures.same_top1 is not None


def test_a_window_measured_twice_counts_once_and_a_failure_says_why(tmp_path: Path) -> None:
    write(tmp_path, window(0), window(0, 0.5), NoQualityRecord(cases=("b",), message="it died"))
    found = read_quality(tmp_path)
    assert found["a"].kl_sum.tolist() == [4.0]
    assert divergence_of(found["b"]).reason == "it died"
    assert divergence_of(found["b"]).kl is None


def test_lines_of_two_texts_are_refused(tmp_path: Path) -> None:
    write(tmp_path, window(0), window(1, text_digest="t2"))
    with pytest.raises(BadInputError, match="two texts"):
        read_quality(tmp_path)


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    (tmp_path / QUALITY_NAME).write_text('{"type": "window"}\n')
    with pytest.raises(BadInputError, match=r"quality\.jsonl:1: "):
        read_quality(tmp_path)


def test_lines_fit_the_published_schema() -> None:
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    for line in (window(0), window(0, None), NoQualityRecord(cases=("a",), message="random weights")):
        validator.validate(json.loads(line.model_dump_json()))


def test_a_skewed_figure_has_an_interval_that_leans_to_the_larger_side(tmp_path: Path) -> None:
    drawn = np.random.default_rng(1).lognormal(-4, 1, 40)
    write(tmp_path, *(window(i, float(kl)) for i, kl in enumerate(drawn)))
    kl = divergence_of(read_quality(tmp_path)["a"]).kl
    assert kl is not None
    assert kl.high - kl.mid > kl.mid - kl.low > 0
