"""models, explain, export and cache, as a person calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slmbench.cli import run_main
from slmbench.models.catalog import names


def test_models_lists_the_catalog(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_main(["models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == names()
    by_name = {row["name"]: row for row in rows}
    assert by_name["mu-330m"]["pair"] == "dec-330m"
    assert by_name["mu-tiny"]["fits_export"]
    assert (by_name["mu-tiny"]["vision_parameter_count"], by_name["smolvlm-256m"]["pair"]) == (0, None)
    monkeypatch.setenv("COLUMNS", "160")
    assert run_main(["models"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in names())
    assert "163.0M 93.5M" in " ".join(out.split())
    # A narrow screen has whole cells too: columns are left out, and named.
    monkeypatch.setenv("COLUMNS", "80")
    assert run_main(["models"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in names())
    assert "…" not in out
    assert len(out.splitlines()) < len(names()) + 6
    assert "Left out at 80 characters: shape of, pair; --json shows them." in out


def test_models_says_what_does_not_fit(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    memory = psutil.virtual_memory()._replace(available=4 * 10**9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    assert run_main(["models", "--json"]) == 0
    fits = {row["name"]: (row["fits_run"], row["fits_export"]) for row in json.loads(capsys.readouterr().out)}
    assert fits["smollm2-135m"] == (True, True)
    assert fits["qwen3-0.6b"] == (True, False)
    assert fits["mistral-7b"] == (False, False)


def test_models_says_whose_export_needs_a_torch_that_is_not_here(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_main(["models", "--json"]) == 0
    needs = {row["name"]: row["export_needs_torch"] for row in json.loads(capsys.readouterr().out)}
    # What the first run measures needs none; another architecture's network is torch's.
    assert (needs["mu-small"], needs["dec-small"], needs["marian-en-de"]) == (False, False, True)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr("slmbench.system.extras.installed_version", lambda _: None)
    assert run_main(["models"]) == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert rows["marian-en-de"].split()[-1] == "yes*"
    assert rows["mu-small"].split()[-1] == "yes"
    assert "* its export needs torch: torch is not installed: " in " ".join(out.split())
    monkeypatch.setenv("COLUMNS", "80")
    assert run_main(["models"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in names())


def test_explain_prints_every_phase(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--input-tokens", "512", "--output-tokens", "64"]
    assert run_main(["explain", "mu-330m", *sizes, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["phase"] for row in found["phases"]] == ["encode", "cross_kv", "first_step", "decode_step", "total"]
    assert found["workload"]["input_tokens"] == 512
    assert run_main(["explain", "mu-330m", *sizes]) == 0
    assert "decode_step" in capsys.readouterr().out
    assert run_main(["explain", "bart-base", "--input-tokens", "2000"]) == 2
    assert "bart-base takes 1024 input tokens, 2000 were asked" in capsys.readouterr().err


def test_explain_counts_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--input-tokens", "32", "--tiles", "2"]
    assert run_main(["explain", "dec-vision-small", *sizes, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["tiles"], found["image_tokens"]) == (2, 64)
    assert [row["phase"] for row in found["phases"]] == ["vision", "prefill", "decode_step", "total"]
    assert run_main(["explain", "dec-vision-small", *sizes]) == 0
    assert "57.4M + vision 25.4M" in capsys.readouterr().out
    assert run_main(["explain", "dec-small", *sizes]) == 2
    assert "dec-small: it takes no pictures" in capsys.readouterr().err


def test_export_and_cache(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path))
    command = ["export", "llama-tiny", "--format", "torch"]
    assert run_main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    folder = Path(found["folder"])
    assert folder.parent == tmp_path / "artifacts"
    assert (folder / "manifest.json").is_file()
    assert found["spec"]["exporter"] == "none"
    assert run_main(command) == 0
    first, second, third = capsys.readouterr().out.splitlines()
    assert Path(first) == folder
    assert second.startswith("llama-tiny: torch fp32 (none), 1.7 MB")
    assert third.startswith(f"id {folder.name}")

    assert run_main(["cache", "list", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["id"], row["checkpoint"], row["problem"]) == (folder.name, "llama-tiny", None)
    assert run_main(["cache", "verify"]) == 0
    (folder / "config.json").write_text("{}")
    assert run_main(["cache", "verify"]) == 5
    assert "1 of 1 damaged" in capsys.readouterr().err
    assert run_main(["cache", "clean", "--damaged", "--dry-run"]) == 0
    assert folder.exists()
    assert run_main(["cache", "clean", "--damaged"]) == 0
    assert "removed 1 artifact, 1.7 MB" in capsys.readouterr().out
    assert not folder.exists()
    assert run_main(["cache", "list"]) == 0
    assert "0 artifacts" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["export", "llama-tinny"], "Did you mean llama-tiny"),
        (["export", "llama-tiny", "--exporter", "magic"], "unknown exporter 'magic'"),
        (["export", "llama-tiny", "--layout", "static"], "needs its bounds"),
        (["export", "llama-tiny", "--precision", "fp8"], "fp8"),
        (["cache", "clean"], "say what to remove"),
        (["cache", "clean", "nothing"], "fits 0 artifacts"),
    ],
)
def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], part: str) -> None:
    assert run_main(arguments) == 2
    error = capsys.readouterr().err
    assert part in error
    assert len(error.splitlines()) == 1
