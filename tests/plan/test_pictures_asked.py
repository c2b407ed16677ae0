"""Asking for pictures: what becomes of the options, and what is refused in one line before anything is exported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slmbench.backend import load_backend, specs_of
from slmbench.case import Workload
from slmbench.cli import run_main
from slmbench.errors import BadInputError
from slmbench.models.checkpoint import resolve
from slmbench.plan.suite import load_suite, parse_suite

SHORT = ["--input-tokens", "16", "--output-tokens", "4", "--dry-run"]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    image = pytest.importorskip("PIL.Image", reason="needs slmbench[pictures]")
    from slmbench.measure.pictures import drawn

    image.fromarray(drawn(1, 40, 30)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_keys_say_the_pictures_and_stay_as_they_were_without() -> None:
    plain = {"input_tokens": 128, "output_tokens": 64}
    assert Workload(**plain).label() == "in128-out64-b1"
    assert Workload(**plain, images=1, image_size=(512, 384)).label() == "in128-img1x512x384-out64-b1"
    assert Workload(**plain, images=1, pictures="ab12cd34").label() == "in128-img1xab12cd34-out64-b1"


def suite(*lines: str) -> str:
    return "name: s\ncheckpoints: [mu-vision-tiny]\nworkloads:\n  - input_tokens: 8\n    output_tokens: 4\n" + "".join(
        f"    {line}\n" for line in lines
    )


def test_a_suite_says_how_many_and_in_which_sizes() -> None:
    found = parse_suite(suite("images: [0, 2]", "image_size: [64x64, 32x48]"), "x.yaml")
    labels = list(dict.fromkeys(cell.workload.label() for cell in found.cells()))
    assert labels == ["in8-out4-b1", "in8-img2x64x64-out4-b1", "in8-img2x32x48-out4-b1"]
    (work,) = {cell.workload for cell in parse_suite(suite("images: 1"), "x.yaml").cells()}
    assert work.image_size == (512, 512)


@pytest.mark.parametrize(
    ("lines", "part"),
    [
        (["images: 1", "batch: 2"], "x.yaml:4: workloads.0: pictures go with one prompt and one answer"),
        (["images: 1", "answers: 2"], "pictures go with one prompt and one answer"),
        (["images: 1", "cache: off"], "cannot be combined with `cache: off`"),
        (["image_size: 64x64"], "`image_size` is of pictures"),
        (["images: 1", "image_size: big"], "x.yaml:7: workloads.0.image_size: 'big' is no size"),
        (
            ["images: 1", "image_size: 64x90000"],
            "'64x90000' is too large: a drawn picture has 1 to 8,192",
        ),
        (["images: -1"], "greater than or equal to 0"),
        (["images: true"], "true is not a number"),
    ],
)
def test_a_suite_that_asks_for_the_impossible_is_one_line(lines: list[str], part: str) -> None:
    with pytest.raises(BadInputError) as caught:
        parse_suite(suite(*lines), "x.yaml")
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["--model", "mu-tiny", "--images", "1"], 5, "mu-tiny takes no pictures"),
        (["--model", "mu-vision-tiny", "--images", "1", "--backend", "openvino_genai,llama_cpp"], 5, "pictures"),
        (
            ["--model", "mu-vision-tiny", "--images", "1", "--exporter", "slmbench", "--backend", "openvino"],
            5,
            "generic",
        ),
        (["--model", "mu-vision-tiny", "--images", "1", "--batch", "2"], 2, "batch 1"),
        (["--model", "mu-vision-tiny", "--images", "0"], 2, "at least 1"),
        (["--model", "mu-vision-tiny", "--image-size", "64x64"], 2, "`image_size` is of pictures"),
        (
            ["--model", "mu-vision-tiny", "--images", "1", "--image-size", "100000x100000"],
            2,
            "--image-size '100000x100000' is too large: a drawn picture has 1 to 8,192 pixels a side",
        ),
        (["--model", "mu-vision-tiny", "--images", "1", "--image-size", "64"], 2, "--image-size '64' is no size"),
        (
            ["--model", "mu-vision-tiny", "--image", "none.png"],
            2,
            "--image: No such file or directory\nslmbench: note: that picture is none.png",
        ),
        (["--model", "mu-vision-tiny", "--image", "PHOTO", "--images", "1"], 2, "give one or the other"),
        (["--model", "mu-vision-tiny", "--image", "PHOTO", "--prompts", "x.txt"], 2, "cannot be used together"),
        (["--model", "mu-vision-tiny", "--image", "LINES"], 2, "a catalog model has no tokenizer"),
        (["--model", "mu-tiny", "--image", "PHOTO"], 5, "mu-tiny takes no pictures"),
        (["--model", "mu-vision-tiny", "--images", "1", "--quality"], 2, "text alone"),
        (["--model", "dec-vision-tiny", "--images", "1", "--input-tokens", "16376"], 5, "with its picture"),
    ],
)
def test_what_is_asked_wrongly_ends_in_one_line(
    arguments: list[str], code: int, part: str, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openvino", reason="needs slmbench[cpu]")
    lines = photo.with_name("q.jsonl")
    lines.write_text(json.dumps({"prompt": "<image> What?", "image": "photo.png"}) + "\n")
    typed = [{"PHOTO": str(photo), "LINES": str(lines)}.get(one, one) for one in arguments]
    short = [one for one in SHORT if "--input-tokens" not in typed or one not in ("--input-tokens", "16")]
    assert run_main(["run", *short, *typed]) == code
    said = capsys.readouterr().err
    assert part in said
    assert "Traceback" not in said


def test_a_fleet_does_not_get_the_users_pictures(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(["run", "--model", "mu-vision-tiny", "--image", str(photo), "--fleet", "local"]) == 2
    assert "--image is for one machine" in capsys.readouterr().err


def test_pictures_are_planned_by_the_one_route_that_takes_them(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openvino", reason="needs slmbench[cpu]")
    asked = ["--model", "mu-vision-tiny", "--images", "1,2", "--backend", "openvino", "--json"]
    assert run_main(["run", *SHORT, *asked]) == 0
    keys = [case["key"] for case in json.loads(capsys.readouterr().out)["cases"]]
    assert [key.rsplit("|", 2)[1:] for key in keys] == [
        ["openvino-dynamic-generic", f"in16-img{count}x512x512-out4-b1"] for count in (1, 2)
    ]


def test_the_suite_of_pictures_measures_one_vision_part_in_both() -> None:
    found = load_suite("vision")
    assert all(work.images for sweep in found.workloads for work in sweep.workloads())
    assert found.scaled("small").all_checkpoints() == ["mu-vision-small", "dec-vision-small"]


def test_graphs_for_cuda_take_no_pictures_and_those_for_cpus_do() -> None:
    pytest.importorskip("onnxruntime", reason="needs slmbench[cpu]")
    backend, checkpoint = load_backend("onnxruntime"), resolve("dec-vision-tiny")
    assert specs_of(backend, checkpoint, "fp32", "cpu", pictures=True)
    assert not specs_of(backend, checkpoint, "fp32", "gpu", pictures=True)
    assert specs_of(backend, checkpoint, "fp32", "gpu")
