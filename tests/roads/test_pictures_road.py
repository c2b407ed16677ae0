"""Pictures from the typed command to file, screen, report and exit code, on real engines and tiny checkpoints."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from rotation import takes_turns

from slmbench.analysis.sides import read_side
from slmbench.cli import run_main
from slmbench.records.sample_arrays import read_columns
from slmbench.records.schema import read_run
from slmbench.report.html import run_charts

pytest.importorskip("torch", reason="exporting needs slmbench[export]")
pytest.importorskip("PIL", reason="needs slmbench[pictures]")

SUITE = """\
name: seen
pairs: [[mu-vision-tiny, dec-vision-tiny]]
backends: [{engine}]
workloads:
  - {{input_tokens: 12, output_tokens: [2, 4], images: [1, 2], image_size: 80x60}}
  - {{input_tokens: 12, output_tokens: 3, turns: 2, added_tokens: 5, images: 1, image_size: 80x60}}
repeat: 3
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine",
    [pytest.param(name, marks=takes_turns(place, 2)) for place, name in enumerate(("openvino", "onnxruntime"))],
)
def test_a_picture_is_a_phase_from_the_command_to_every_output(
    engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(engine, reason="needs slmbench[cpu]")
    file, out = tmp_path / "seen.yaml", tmp_path / "run"
    file.write_text(SUITE.format(engine=engine))
    assert run_main(["run", "--suite", str(file), "--out", str(out)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    run = read_run(out)
    assert all(load.agreement == 1.0 for load in run.loads)
    assert all("resized to 64x64" in load.settings["picture processor"] for load in run.loads)
    for sample in run.samples:
        count = 2 if "-img2x" in sample.case else 1
        assert sample.image_tokens == 8 * count
        assert sample.input_tokens == 12 + 8 * count
        parts = sample.phases_ns
        of_family = {"encode", "first_step"} if sample.case.startswith("mu-") else {"prefill"}
        assert {"preprocess", "vision", *of_family} <= set(parts)
        inside = sum(parts[name] for name in ("vision", *of_family))
        assert 0.5 * sample.token_ns[0] < inside <= sample.token_ns[0]
        # The second turn does not run the vision part.
        assert parts.get("later_vision") == (0 if sample.turn_tokens else None)
    assert "With 1 picture of 80x60 before 12 tokens of text the first token takes" in shown
    assert "reading the picture" in shown
    assert "Later turns of mu-vision-tiny do not pay for the picture" in shown
    _check_files(out)
    _check_verdicts(out, tmp_path, capsys)


def _check_files(out: Path) -> None:
    rows = list(csv.DictReader((out / "table.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 10
    for row in rows:
        share, whole = float(row["vision_share"]), float(row["vision_s"]) / float(row["ttft_s"])
        assert share == pytest.approx(whole, rel=0.3)
        assert float(row["preprocess_s"]) > 0
    markdown = (out / "table.md").read_text(encoding="utf-8")
    assert "vision ms" in markdown
    assert "image tokens" in markdown
    chart = run_charts(read_columns(out))["What the first token takes"]
    drawn = chart["datasets"]["phases"]
    assert {"pictures", "encoder", "first decoder step", "prefill"} <= {row["phase"] for row in drawn}
    side = read_side(str(out))
    assert {found.model.image_tokens for found in side.cases.values()} == {8, 16}
    assert all(found.model.first_token_flops for found in side.cases.values())


def _check_verdicts(out: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(["compare", str(out), str(out), "--metric", "ttft,vision,preprocess"]) == 0
    assert "vision" in capsys.readouterr().out
    baseline = folder / "baseline.json"
    assert run_main(["baseline", "save", str(out), str(baseline)]) == 0
    assert run_main(["check", "--baseline", str(baseline), str(out), "--metric", "vision"]) in (0, 4)
    assert "vision" in capsys.readouterr().out


@takes_turns(1, 2)
@pytest.mark.slow
def test_the_users_texts_with_pictures_are_read_by_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from picture_folders import make
    from PIL import Image
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    from slmbench.measure.pictures import drawn
    from slmbench.models.checkpoint import resolve

    make("llava", tmp_path / "seer")
    vision = resolve(str(tmp_path / "seer")).vision
    assert vision is not None
    words = {f"w{index}": index for index in range(vision.image_token_id)} | {"<pic>": vision.image_token_id}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w7"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]  # as its documentation has it
    tokenizer.add_special_tokens([AddedToken("<pic>", special=True)])
    tokenizer.save(str(tmp_path / "seer" / "tokenizer.json"))
    for seed in (1, 2):
        Image.fromarray(drawn(seed, 80, 60)).save(tmp_path / f"{seed}.png")
    lines = [{"prompt": "w11 <image> w12 w13", "image": "1.png"}, {"prompt": "<image> w14", "image": "2.png"}]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    asked = ["--model", str(tmp_path / "seer"), "--backend", "torch", "--image", str(tmp_path / "q.jsonl")]
    out = tmp_path / "run"
    assert run_main(["run", *asked, "--output-tokens", "3", "--repeat", "4", "--out", str(out)]) == 0
    run = read_run(out)
    assert {sample.input_tokens - sample.image_tokens for sample in run.samples} == {3, 1}
    assert {"preprocess", "tokenise", "vision"} <= set(run.samples[0].phases_ns)
    assert "CLIPImageProcessor" in run.loads[0].settings["picture processor"]
    assert "files " in capsys.readouterr().out
    # The same command finds the pictures again; with another picture it is another run.
    assert run_main(["run", "--resume", str(out), "--quiet"]) == 0
    Image.fromarray(drawn(3, 80, 60)).save(tmp_path / "2.png")
    assert run_main(["run", "--resume", str(out), "--quiet"]) == 2
    assert "what it measures has changed" in capsys.readouterr().err
