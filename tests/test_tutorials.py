"""The commands of the tutorials and how-tos, page by page in the order that a reader types them, with small models."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from rotation import takes_turns

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("docs/tutorials/*.md"), *ROOT.glob("docs/how-to/*.md")])
#: What a page measures → what the test does.
SMALLER = [
    (r"dec-small", "dec-tiny"),
    (r"(mu|dec)-vision-small", r"\1-vision-tiny"),
    (r"--input-tokens \d+ --output-tokens \d+", "--input-tokens 16 --output-tokens 4"),
    (r"slmbench run --out", "slmbench run --pair mu-tiny,dec-tiny --backend openvino --input-tokens 16 --out"),
    (r"--budget \d+", "--budget 1"),
]
#: Commands whose exit code says something else than whether they worked.
VERDICTS = {"check": {0, 1, 4}, "doctor": {0, 5}}


def commands(page: Path) -> list[list[str]]:
    """Return what the page's shell blocks type, comments aside."""
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    assert all(line.startswith("slmbench ") for line in lines), lines
    for pattern, small in SMALLER:
        lines = [re.sub(pattern, small, line) for line in lines]
    found = [shlex.split(line, comments=True)[1:] for line in lines]
    for words in found:
        if words[0] == "run" and not {"--repeat", "--dry-run", "--resume"} & set(words):
            words += ["--repeat", "2"]
    return found


def prepare(page: Path, folder: Path) -> dict[str, str]:
    """Put what the page takes for granted into the folder; return variables of the environment."""
    for side in ("base", "head"):
        python = folder / f"venv-{side}" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
    text = page.read_text(encoding="utf-8")
    if "--device npu" in text:
        pytest.importorskip("torch", reason="needs slmbench[export]")
    if "my-model.gguf" in text:
        pytest.importorskip("llama_cpp", reason="needs slmbench[llama]")
        from slmbench.export.build import ensure_artifact
        from slmbench.models.artifact import ArtifactSpec
        from slmbench.models.checkpoint import resolve

        made = ensure_artifact(resolve("dec-tiny"), ArtifactSpec(format="gguf"), progress=lambda _: None)
        (folder / "my-model.gguf").write_bytes(made.graph("model").read_bytes())
    if "photo.png" in text:
        pytest.importorskip("torch", reason="needs slmbench[export]")
        from PIL import Image

        from slmbench.measure.pictures import drawn

        Image.fromarray(drawn(1, 80, 60)).save(folder / "photo.png")
    if "numpy" in text and "backend" in page.name:
        pytest.importorskip("threadpoolctl", reason="the example plugin needs it")
        source = folder / "source"
        source.mkdir()
        for name in ("pyproject.toml", "slmbench_numpy.py"):
            (source / name).write_bytes((ROOT / "examples/plugin" / name).read_bytes())
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-build-isolation"]
        subprocess.run([*pip, "--target", str(folder / "site"), str(source)], check=True, capture_output=True)
    return {"PYTHONPATH": str(folder / "site")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_has_what_it_promises(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    if page.parent.name == "tutorials":
        assert "\nYou get: " in text
        assert commands(page)
    for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        compile(block, page.name, "exec")


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=takes_turns(place % 5, 5), id=page.stem) for place, page in enumerate(PAGES)]
)
def test_a_page_can_be_walked(page: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="needs slmbench[cpu]")
    pytest.importorskip("onnxruntime", reason="needs slmbench[cpu]")
    environment = {**os.environ, **prepare(page, tmp_path)}
    for words in commands(page):
        command = [sys.executable, "-P", "-m", "slmbench", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=900)
        assert done.returncode in VERDICTS.get(words[0], {0}), (words, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr, done.stderr
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        done = subprocess.run(
            [sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=900
        )
        assert done.returncode == 0, done.stderr
