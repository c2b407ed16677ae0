"""What people give stays in their run's folder: nothing that is passed on has a word of a text, a task or an answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_quality import checkpoint, typed

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.slow

#: A word for each thing that is given. The answers' are those of the model, which are looked up.
TEXT, TASK, ANSWER, PROMPT = "quicksilver", "hollyhock", "periwinkle", "marzipan"
#: What may hold them, all in the run's folder.
KEPT = {"answers.jsonl", "report.html", "tasks.jsonl", "prompts.txt"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a text, tasks and prompts of the user's, and its baseline."""
    place = tmp_path_factory.mktemp("privacy")
    checkpoint(place / "my-llama", "llama-tiny")
    (place / "text.txt").write_text(" ".join(f"{number} the {TEXT} ran." for number in range(60)), encoding="utf-8")
    lines = [{"prompt": f"{TASK} {number}", "metric": "exact", "answer": ANSWER} for number in range(12)]
    (place / "asked.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (place / "prompts.txt").write_text("".join(f"{number} of {PROMPT} and more\n" for number in range(8)))
    given = ("--quality-text", "text.txt", "--tasks", "asked.jsonl", "--prompts", "prompts.txt")
    asked = ("--model", "my-llama", "--backend", "onnxruntime", "--max-new-tokens", "4", "--repeat", "3")
    typed(place, "run", *asked, "--input-tokens", "8", "--output-tokens", "4", *given, "--out", "run")
    typed(place, "baseline", "save", "run", "base.json")
    return place


def tells(text: str) -> list[str]:
    """Return which of the words a text has."""
    return [word for word in (TEXT, TASK, ANSWER, PROMPT) if word in text]


def test_only_the_runs_own_folder_holds_what_was_given(place: Path, shared_cache: Path) -> None:
    found = {}
    for path in (one for one in (place / "run").rglob("*") if one.is_file()):
        if words := tells(path.read_text(encoding="utf-8", errors="replace")):
            found[path.name] = words
    assert {name for name in found if not name.startswith("quality-windows-")} <= KEPT, found
    assert TASK in found["tasks.jsonl"], "nothing would be found otherwise"
    cached = [one for one in shared_cache.rglob("*") if one.suffix in {".json", ".jsonl", ".txt", ".log"}]
    assert not [path for path in (*cached, place / "base.json") if tells(path.read_text(errors="replace"))]


@pytest.mark.parametrize(
    "words",
    [
        ["check", "--baseline", "base.json", "run", "--junit", "j.xml", "--summary", "s.md", "--annotations"],
        ["check", "--baseline", "base.json", "run", "--json"],
        ["compare", "run", "run"],
        ["table", "run", "--json"],
        ["table", "run", "--markdown"],
        *(["table", "run", "--format", name] for name in ("bencher", "github-smaller", "github-bigger")),
        ["history", "run", "run", "--json"],
    ],
    ids=lambda words: " ".join(words[:3:2] + words[-1:]),
)
def test_what_is_passed_on_has_figures_only(place: Path, words: list[str]) -> None:
    said = typed(place, *words, code=0)
    assert len(said) > 20
    written = [place / name for name in words if name.endswith((".xml", ".md"))]
    for text in (said, *(path.read_text(encoding="utf-8") for path in written)):
        assert not tells(text), text
