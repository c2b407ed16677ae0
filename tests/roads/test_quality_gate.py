"""The gate on quality as one types it: artifacts that were made worse on purpose, on a real engine."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from test_quality import SECRET, checkpoint, typed

GATES = "metrics:\n  kl: 0.00001\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint whose steps are slower the more its weights take, and a text of thirteen windows."""
    place = tmp_path_factory.mktemp("gate")
    checkpoint(place / "my-dec", "dec-small")
    (place / "text.txt").write_text(" ".join(f"{number} {SECRET}." for number in range(42)), encoding="utf-8")
    (place / "gates.yaml").write_text(GATES, encoding="utf-8")
    asked = ("--backend", "llama_cpp", "--precision", "fp32,int8,int4", "--input-tokens", "8", "--output-tokens", "24")
    typed(place, "run", "--model", "my-dec", *asked, "--budget", "40", "--quality-text", "text.txt", "--out", "run")
    return place


def cases_of(run: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((run / "run.json").read_text(encoding="utf-8"))["cases"]
    return found


@pytest.mark.slow
def test_a_faster_artifact_with_fewer_bits_is_faster_because_worse(place: Path) -> None:
    """Both were sampled in one run, so that their speeds are compared on any machine."""
    cases = [info["case"] for info in cases_of(place / "run")]
    precisions = {one["weight_precision"]: f"{one['weight_precision']}-{one['compute_precision']}" for one in cases}
    asked = (
        "--match",
        f"{precisions['fp32']}={precisions['int4']}",
        "--gates",
        "gates.yaml",
        "--junit",
        "junit.xml",
        "--annotations",
    )
    said = typed(place, "check", "--baseline", "run", "run", *asked, code=1)
    assert "FASTER BECAUSE WORSE" in said
    assert re.search(
        r"::error title=slmbench%3A faster because worse::my-dec\|.*bits per weight [45]\.\d+ instead of 32", said
    )
    failures = [one.get("type") for one in ElementTree.parse(place / "junit.xml").iter("failure")]
    assert "faster because worse" in failures
    assert "worse" in failures


@pytest.mark.slow
def test_a_file_that_was_replaced_under_its_name_is_the_same_case(place: Path, shared_cache: Path) -> None:
    """The file says itself what its weights are: that is the cause, not another case."""
    ids = {info["case"]["weight_precision"]: info["artifact_id"] for info in cases_of(place / "run")}
    asked = ("--model", "mine.gguf", "--reference", "my-dec", "--input-tokens", "8", "--output-tokens", "4")
    for precision, out in (("int8", "before"), ("int4", "after")):
        (file,) = shared_cache.rglob(f"{ids[precision]}/*.gguf")
        shutil.copy(file, place / "mine.gguf")
        typed(place, "run", *asked, "--repeat", "2", "--quality-text", "text.txt", "--out", out)
    typed(place, "baseline", "save", "before", "before.json")
    text = (place / "before.json").read_text(encoding="utf-8")
    assert "kl" in json.loads(text)["quality"][0]
    assert "quicksilver" not in text
    said = typed(place, "check", "--baseline", "before.json", "after", "--gates", "gates.yaml", "--json", code=1)
    (found,) = json.loads(said)
    assert (found["only_base"], found["only_new"]) == ([], [])
    assert next(row for row in found["judgements"] if row["metric"] == "kl")["verdict"] == "worse"
    (changed,) = found["changed"].values()
    assert {"weights", "bits per weight"} <= {one["what"] for one in changed}
    # On another text the two are not comparable, and speed alone still is.
    (place / "other.txt").write_text(" ".join(f"{number} {SECRET}!" for number in range(42)), encoding="utf-8")
    typed(place, "run", *asked, "--repeat", "2", "--quality-text", "other.txt", "--out", "elsewhere")
    assert "another text" in typed(place, "check", "--baseline", "before.json", "elsewhere", code=3)
