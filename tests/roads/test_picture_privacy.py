"""What people call their pictures stays with them: nothing that is passed on names one, nor this machine's folders."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_quality import typed

from slmbench.running import events as e
from slmbench.running.api import run as measure

pytest.importorskip("onnxruntime", reason="needs slmbench[cpu]")
pytest.importorskip("torch", reason="exporting needs slmbench[export]")
image = pytest.importorskip("PIL.Image", reason="needs slmbench[pictures]")
pytestmark = pytest.mark.slow

NAME = "quicksilver"
CASE = {"input_tokens": "8", "output_tokens": "3", "repeat": "3"}


def album(folder: Path) -> Path:
    """Make a folder of three pictures."""
    from slmbench.measure.pictures import drawn

    folder.mkdir()
    for seed in (1, 2, 3):
        image.fromarray(drawn(seed, 80, 60)).save(folder / f"{NAME} {seed}.png")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a folder of pictures, its baseline, and a run in which one of them is changed under way."""
    place = tmp_path_factory.mktemp("privacy")
    changed = album(place / "album") / f"{NAME} 2.png"
    options = [word for name, value in CASE.items() for word in (f"--{name.replace('_', '-')}", value)]
    model = ("--model", "dec-vision-tiny", "--backend", "onnxruntime")
    typed(place, "run", *model, "--image", "album", *options, "--out", "run")
    typed(place, "baseline", "save", "run", "base.json")
    was = changed.read_bytes()

    def change(event: e.Event) -> None:
        if isinstance(event, e.Begun):
            changed.write_bytes((place / "album" / f"{NAME} 1.png").read_bytes())

    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(place)
        measure(
            models=["dec-vision-tiny"], backends=["onnxruntime"], image="album", input_tokens=[8], output_tokens=[3],
            repeat=3, out="changed", observer=change,
        )  # fmt: skip
    changed.write_bytes(was)
    return place


def test_no_file_of_a_run_and_no_baseline_names_a_picture(place: Path) -> None:
    assert "album: picture 2 of 3 by name: was changed" in (place / "changed" / "samples.jsonl").read_text()
    files = [one for run in ("run", "changed") for one in (place / run).rglob("*") if one.is_file()]
    assert len(files) > 10
    for file in (*files, place / "base.json"):
        text = file.read_text(encoding="utf-8", errors="replace")
        assert NAME not in text, file
        assert str(place) not in text or file.parent.name == "logs", file


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (5, ["check", "--baseline", "base.json", "changed", "--junit", "j.xml", "--summary", "s.md", "--annotations"]),
        (5, ["check", "--baseline", "base.json", "changed", "--json"]),
        (0, ["compare", "run", "changed"]),
        (0, ["table", "changed", "--json"]),
        (0, ["table", "changed", "--markdown"]),
        *((0, ["table", "run", "--format", name]) for name in ("bencher", "github-smaller", "github-bigger")),
        (0, ["history", "run", "run", "--json"]),
    ],
    ids=lambda words: " ".join(words[:3:2] + words[-1:]) if isinstance(words, list) else "",
)
def test_what_is_passed_on_names_no_picture(place: Path, code: int, words: list[str]) -> None:
    said = typed(place, *words, code=code)
    assert len(said) > 20
    written = [(place / name).read_text(encoding="utf-8") for name in words if name.endswith((".xml", ".md"))]
    assert not written or "by name: was changed" in written[0]
    for text in (said, *written):
        assert NAME not in text
        assert str(place) not in text


def test_a_check_that_cannot_read_a_picture_names_it_on_the_screen_alone(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from slmbench.cli import run_main

    monkeypatch.chdir(place)
    third = place / "album" / f"{NAME} 3.png"
    was = third.read_bytes()
    third.write_bytes(b"no picture")
    outputs = ["--junit", "refused.xml", "--summary", "refused.md", "--annotations"]
    assert run_main(["check", "--baseline", "base.json", *outputs]) == 2
    third.write_bytes(was)
    captured = capsys.readouterr()
    *_, error, note = captured.err.splitlines()
    assert "album: picture 3 of 3 by name: not a picture that can be read" in error
    assert note == f"slmbench: note: that picture is album/{NAME} 3.png"
    for text in (captured.out, *((place / name).read_text(encoding="utf-8") for name in ("refused.xml", "refused.md"))):
        assert "picture 3 of 3 by name" in text
        assert NAME not in text
