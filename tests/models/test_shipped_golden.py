"""The golden records that come with slmbench are what torch makes, and stand for the catalog's weights of today."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
from scripts_by_path import load_script

from slmbench.models import catalog
from slmbench.models.checkpoint import resolve
from slmbench.models.shipped_golden import FILE, needs_torch, shipped_record

ROOT = Path(__file__).parents[2]
STORED = json.loads((ROOT / "slmbench" / "models" / FILE).read_text(encoding="utf-8"))


def maker() -> ModuleType:
    return load_script("docs/golden_records.py")


@pytest.mark.parametrize("name", ["mu-tiny", "dec-tiny", pytest.param("mu-small", marks=pytest.mark.slow)])
def test_torch_makes_the_same_record_again(name: str) -> None:
    pytest.importorskip("torch", reason="needs slmbench[export]")
    again, stored = maker().made(name), STORED[name]
    assert again["digest"] == stored["digest"]
    for one, other in zip(again["record"]["prompts"], stored["record"]["prompts"], strict=True):
        assert (one["input_ids"], one["tokens"]) == (other["input_ids"], other["tokens"])
        assert one["margins"] == pytest.approx(other["margins"], abs=1e-3)


def test_records_are_of_the_weights_of_today() -> None:
    for name in STORED:
        assert catalog.get(name).digest() == STORED[name]["digest"], f"python docs/golden_records.py {name}"


def test_no_pair_of_ours_needs_torch_up_to_330m() -> None:
    for name in ("mu-tiny", "dec-tiny", "mu-small", "dec-small", "mu-330m", "dec-330m"):
        assert not needs_torch(resolve(name)), name


def test_a_record_of_other_weights_or_of_other_ends_is_not_used() -> None:
    checkpoint = resolve("dec-tiny")
    assert shipped_record(checkpoint) is not None
    assert shipped_record(checkpoint.model_copy(update={"digest": "0" * 64})) is None
    assert shipped_record(checkpoint.model_copy(update={"source": "folder"})) is None
    assert needs_torch(resolve("t5-tiny"))
