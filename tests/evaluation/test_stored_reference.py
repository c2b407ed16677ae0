"""Log-probabilities in two bytes each: what that costs, and that a KL is what it is defined to be."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from slmbench.errors import BadInputError
from slmbench.evaluation.stored_reference import (
    META_NAME,
    ROWS_NAME,
    JudgedWindow,
    ReferenceMeta,
    StoredReference,
    log_probabilities,
    remove_abandoned,
    row_type,
    store_row,
    unfinished_folder,
)
from slmbench.evaluation.token_divergence import divergence

VOCABULARY, ENDS = 5000, (2, 7)


def stored(folder: Path, logits: list[np.ndarray]) -> StoredReference:
    """Write rows and open them."""
    rows = np.zeros(len(logits), row_type(VOCABULARY))
    for row, one in zip(rows, logits, strict=True):
        store_row(row, one, 11, ENDS)
    (folder / ROWS_NAME).write_bytes(rows.tobytes())
    window = JudgedWindow(target=(11,) * len(logits), free=(), first_row=0)
    meta = ReferenceMeta(vocabulary=VOCABULARY, ends=ENDS, windows=(window,), versions={})
    (folder / META_NAME).write_text(meta.model_dump_json())
    return StoredReference(folder)


@pytest.mark.parametrize("spread", [0.5, 3.0, 20.0])
def test_rounding_adds_less_than_a_millionth_to_a_kl(tmp_path: Path, spread: float) -> None:
    rng = np.random.default_rng(3)
    logits = [rng.normal(0, spread, VOCABULARY).astype(np.float32) for _ in range(8)]
    kept = stored(tmp_path, logits)
    for number, one in enumerate(logits):
        own = np.maximum(log_probabilities(one, ENDS), -100)
        row = kept.row(number)
        assert 0 <= divergence(row, own) < 1e-7
        assert row.top1 == int(own.argmax())
        assert row.loss == pytest.approx(-own[11])


def test_a_kl_is_the_sum_it_is_defined_as(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    one, other = (rng.normal(0, 2, VOCABULARY) for _ in range(2))
    open_ = [place for place in range(VOCABULARY) if place not in ENDS]
    p, q = (np.exp(values[open_]) / np.exp(values[open_]).sum() for values in (one, other))
    expected = float((p * np.log(p / q)).sum())
    found = divergence(stored(tmp_path, [one]).row(0), log_probabilities(other, ENDS))
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_token_that_an_engine_rules_out_is_costly_and_finite(tmp_path: Path) -> None:
    logits = np.zeros(VOCABULARY)
    ruled_out = logits.copy()
    ruled_out[100:200] = -np.inf
    found = divergence(stored(tmp_path, [logits]).row(0), np.maximum(log_probabilities(ruled_out, ENDS), -100))
    assert 1 < found < 10


def test_half_a_reference_is_refused(tmp_path: Path) -> None:
    stored(tmp_path, [np.zeros(VOCABULARY)] * 2)
    (tmp_path / ROWS_NAME).write_bytes((tmp_path / ROWS_NAME).read_bytes()[:-100])
    with pytest.raises(BadInputError, match="not a whole reference"):
        StoredReference(tmp_path)


def test_what_a_killed_process_left_is_removed_and_what_is_being_written_stays(tmp_path: Path) -> None:
    """Predictions reveal the text and take 100 kB a token: they must not stay where nobody finds them."""
    killed = tmp_path / ".unfinished-0123456789abcdef"
    killed.mkdir()
    (killed / ROWS_NAME).write_bytes(b"rows")
    finished = tmp_path / "0123"
    finished.mkdir()
    with unfinished_folder(tmp_path) as folder:
        (folder / ROWS_NAME).write_bytes(b"rows")
        assert folder.stat().st_mode & 0o077 == 0 or os.name == "nt"
        remove_abandoned(tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted([folder, finished])
        folder.rename(tmp_path / "4567")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["0123", "4567"]
    with pytest.raises(RuntimeError), unfinished_folder(tmp_path):
        raise RuntimeError("no room")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["0123", "4567"]
