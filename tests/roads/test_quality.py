"""Quality as one types it: from the command to the file, the table and the exit code, on real engines."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rotation import in_turn, takes_turns

import slmbench

SECRET = "the heron waded through quicksilver"
#: Of the engines that are stepped token by token, one is in turn.
SHOWN = ("torch", *in_turn(("openvino", "onnxruntime", "ctranslate2"), 3), "llama_cpp")


def checkpoint(folder: Path, name: str) -> Path:
    """Save a catalog checkpoint as one of the user's, with a tokenizer of bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from slmbench.export.torch_model import load_model
    from slmbench.models.checkpoint import resolve

    load_model(resolve(name)).save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={text: place + 4 for place, text in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two checkpoints and a text of thirteen windows."""
    place = tmp_path_factory.mktemp("quality")
    checkpoint(place / "my-llama", "llama-tiny")
    checkpoint(place / "my-t5", "t5-tiny")
    (place / "text.txt").write_text(" ".join(f"{number} {SECRET}." for number in range(42)), encoding="utf-8")
    return place


def typed(place: Path, *words: str, code: int = 0) -> str:
    """Run a command and return what it said."""
    command = [sys.executable, "-P", "-m", "slmbench", *words]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


SHORT = ("--input-tokens", "8", "--output-tokens", "2", "--repeat", "2")


ASKED = ("run", "--model", "my-llama", *(word for engine in SHOWN for word in ("--backend", engine)), *SHORT)


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    """A run of the decoder-only model on every engine that is stepped."""
    said = " ".join(typed(place, *ASKED, "--quality-text", "text.txt", "--dry-run").split())
    assert re.search(
        rf"quality: {len(SHOWN)} configurations on 13 windows of text\.txt: about .* once for the reference \(", said
    )
    told = typed(place, *ASKED, "--quality-text", "text.txt", "--out", "run", "--verbose")
    said = " ".join(told.split())
    assert f"quality: {len(SHOWN)} configurations on 13 windows of text.txt: about" in said
    # Both say how far they are: the reference in its process, and each configuration.
    assert "running my-llama in torch in fp32, the reference for quality: 13 windows" in told.splitlines()
    assert re.search(r"^my-llama in torch in fp32, the reference for quality: 12 of 13 windows, about", told, re.M)
    assert re.search(r"^quality of my-llama on torch in fp32: 12 of 13 windows, about", told, re.M)
    return place / "run"


def rows_of(place: Path, run: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of a run's table by backend."""
    return {row["backend"]: row for row in json.loads(typed(place, "table", run.name, "--json"))}


@takes_turns(2, 4)
@pytest.mark.slow
def test_fp32_on_every_engine_is_the_reference(place: Path, run: Path) -> None:
    rows = rows_of(place, run)
    assert set(rows) == set(SHOWN)
    assert 0 <= rows["torch"]["kl"] < 1e-6
    for row in rows.values():
        assert row["kl"] < 1e-4
        assert row["kl_low"] <= row["kl"] <= row["kl_high"]
        assert row["same_top1"] > 0.99
        assert abs(row["perplexity_change"]) < 1e-4
        assert row["kl_p99"] < 1e-3
        assert row["quality_windows"] == 13
        assert row["free_same_tokens"] == 16


@pytest.mark.slow
def test_a_forecast_goes_by_what_earlier_runs_took(place: Path, run: Path) -> None:
    said = typed(place, *ASKED, "--quality-text", "text.txt", "--dry-run", "--json")
    found = json.loads(said)["evaluation"]
    assert (found["reference_s"], found["reference_bytes"]) == (0, 0), "the reference is in the cache"
    lines = [json.loads(line) for line in (run / "quality.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 13 * len(SHOWN)
    assert 0 < found["quality_s"] < 120
    typed(place, *ASKED, "--quality-text", "none.txt", "--dry-run", code=2)


@pytest.mark.slow
def test_every_format_of_the_table_has_the_columns(place: Path, run: Path) -> None:
    assert "KL nats [95 %]" in typed(place, "table", "run", "--markdown")
    assert "KL" in (run / "table.md").read_text(encoding="utf-8")
    with (run / "table.csv").open(encoding="utf-8", newline="") as file:
        assert all(float(row["kl"]) < 1e-4 for row in csv.DictReader(file))


@pytest.mark.slow
def test_the_text_stays_in_the_runs_folder(place: Path, run: Path, shared_cache: Path) -> None:
    typed(place, "baseline", "save", "run", "base.json")
    written = [*(run / name for name in ("run.json", "quality.jsonl", "samples.jsonl", "table.md", "report.html"))]
    for path in [*written, place / "base.json", *shared_cache.rglob("*.json")]:
        assert "quicksilver" not in path.read_text(encoding="utf-8"), path


@pytest.mark.slow
def test_a_run_that_was_stopped_continues_where_it_was(place: Path, run: Path) -> None:
    shutil.copytree(run, place / "cut")
    path = place / "cut" / "quality.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    # One failed behind its seventh window, another at once; then the run was cut in the middle of a line.
    crash = {"type": "none", "failure": "crashed", "message": "signal 11"}
    failed = [json.dumps({**crash, "cases": json.loads(lines[place])["cases"]}) + "\n" for place in (19, -1)]
    path.write_text("".join([*lines[:20], *failed]) + lines[20][:50], encoding="utf-8")
    before = rows_of(place, place / "cut")
    assert [row["quality_note"] for row in before.values()].count("no quality: signal 11") == 2
    finished = json.loads((place / "cut" / "run.json").read_text(encoding="utf-8"))["finished"]
    said = typed(place, "run", "--resume", "cut", "--dry-run")
    assert "quality: 2 configurations on 13 windows of" in " ".join(said.split())
    said = typed(place, "run", "--resume", "cut")
    # No case is measured again, so the samples ended when they did.
    assert "quality: 2 configurations on 13 windows of text.txt: about" in " ".join(said.split())
    assert "of loads" not in said
    assert json.loads((place / "cut" / "run.json").read_text(encoding="utf-8"))["finished"] == finished
    assert "nothing left to measure" in typed(place, "run", "--resume", "cut", "--dry-run")
    again = path.read_text(encoding="utf-8").splitlines(keepends=True)
    assert again[:22] == [*lines[:20], *failed]
    assert len(again) == len(lines) + 2
    assert all(row["quality_windows"] == 13 for row in rows_of(place, place / "cut").values())
    assert rows_of(place, place / "cut")["llama_cpp"]["kl"] == pytest.approx(
        rows_of(place, run)["llama_cpp"]["kl"], abs=1e-6
    )


@takes_turns(0, 3)
@pytest.mark.slow
def test_fewer_bits_are_worse_and_tokens_alone_give_top1_alone(place: Path) -> None:
    asked = ("--backend", "openvino", "--backend", "openvino_genai", "--precision", "int8", "--precision", "int4")
    said = typed(
        place, "run", "--model", "my-llama", *asked, *SHORT, "--quality-text", "text.txt", "--out", "bits", code=0
    )
    rows = {
        (row["backend"], row["weight_precision"]): row for row in json.loads(typed(place, "table", "bits", "--json"))
    }
    assert 1e-7 < rows["openvino", "int8"]["kl"] < rows["openvino", "int4"]["kl"]
    alone = rows["openvino_genai", "int8"]
    assert alone["kl"] is None
    assert 0.5 < alone["same_top1"] <= 1
    assert "tokens alone" in alone["quality_note"], said


@takes_turns(1, 3)
@pytest.mark.slow
def test_an_encoder_decoder_is_judged_on_the_references_answers(place: Path) -> None:
    asked = ("--backend", "onnxruntime,openvino,ctranslate2", *SHORT, "--quality-text", "text.txt")
    typed(place, "run", "--model", "my-t5", *asked, "--out", "t5")
    for row in rows_of(place, place / "t5").values():
        assert row["kl"] < 1e-4
        assert row["quality_tokens"] >= 13


@pytest.mark.slow
def test_in_python(place: Path) -> None:
    found = slmbench.quality(str(place / "my-llama"), text=place / "text.txt", backend="torch")
    assert found.kl is not None
    assert found.kl.mid < 1e-6
    assert found.windows == 13


@takes_turns(2, 3)
@pytest.mark.slow
def test_what_cannot_be_judged_is_refused_at_once(place: Path) -> None:
    (place / "short.txt").write_text("too short", encoding="utf-8")
    (place / "latin.txt").write_bytes("caf\xe9 ".encode("latin-1") * 50)
    asked = ("run", "--backend", "torch", *SHORT)
    for words, expected in (
        (
            ("--model", "my-llama", "--quality-text", "short.txt"),
            r"short.txt: 9 tokens of my-llama in 1 document; ",
        ),
        (("--model", "my-llama", "--quality-text", "latin.txt"), r"latin.txt: not UTF-8 text \(byte 3\)"),
        (("--model", "my-llama", "--quality-text", "none.txt"), r"none.txt: No such file"),
        (("--model", "llama-tiny", "--quality"), "llama-tiny has random weights: it has a speed and no quality"),
        (
            ("--model", "my-llama", "--quality", "--fleet", "local"),
            "--quality is for one machine; a fleet sends no texts.*without --fleet and copy its run's folder back",
        ),
    ):
        said = typed(place, *asked, *words, "--out", "refused", code=2)
        assert re.search(expected, said), said
        assert len([line for line in said.splitlines() if line.strip()]) == 1, said
        assert not (place / "refused").exists()


@pytest.mark.slow
def test_a_tokenizer_that_does_not_fit_is_refused(place: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(place / "my-llama", tmp_path / "strange")
    path = folder / "tokenizer.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    found["model"]["vocab"] = {text: number + 10**6 for text, number in found["model"]["vocab"].items()}
    path.write_text(json.dumps(found), encoding="utf-8")
    (place / "tasks.jsonl").write_text('{"prompt": "Is it?", "answer": "yes"}\n', encoding="utf-8")
    asked = ("run", "--model", str(folder), "--backend", "torch", *SHORT[2:], "--out", "no")
    for words in (
        ("--quality-text", "text.txt", "--input-tokens", "8"),
        ("--prompts", "text.txt"),
        ("--tasks", "tasks.jsonl", "--input-tokens", "8"),
    ):
        said = typed(place, *asked, *words, code=2)
        assert re.search(r"strange: its tokenizer gives token 1000\d\d\d", said), said
        assert "it is the tokenizer of another model" in said
        assert not (place / "no").exists()


@pytest.mark.slow
def test_what_was_read_is_said_and_what_was_not(place: Path) -> None:
    lines = [{"text": f"{number} {SECRET}. " * 4} for number in range(3)]
    said_lines = "".join(json.dumps(line) + "\n" for line in [*lines, "too short"])
    (place / "lines.jsonl").write_text(said_lines, encoding="utf-8")
    asked = ("run", "--model", "my-llama", "--model", "llama-tiny", "--backend", "torch", *SHORT, "--out", "counted")
    said = " ".join(typed(place, *asked, "--quality-text", "text.txt", "--quality-text", "lines.jsonl").split())
    assert (
        "quality of my-llama reads 4 of 5 documents: a window takes at least 32 tokens, and the rest is shorter" in said
    )
    (row, _) = json.loads(typed(place, "table", "counted", "--json"))
    counts = [int(row[f"quality_{name}"]) for name in ("documents", "windows", "tokens")]
    windows = (place / "counted" / "quality.jsonl").read_text(encoding="utf-8").splitlines()
    assert counts[:2] == [4, sum('"window"' in line for line in windows)]
    assert f"quality of my-llama on torch: {counts[1]} windows of 4 documents, {counts[2]:,} tokens, text" in said
    assert "no quality of llama-tiny on torch: llama-tiny has random weights" in said
