"""The example plugin, installed for real from its folder: found, conformant, and measured like any other engine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

pytest.importorskip("threadpoolctl", reason="the example plugin needs it")
PLUGIN = Path(__file__).parents[2] / "examples" / "plugin"
EXAMPLE = PLUGIN / "slmbench_numpy.py"
DOCS = Path(__file__).parents[2] / "docs" / "backends.md"
MAX_LINES = 130

CONFORMANCE = """
from slmbench import testing
from slmbench.backend import load_backend
subject = testing.subject(load_backend("numpy"))
for check in testing.CHECKS:
    check(subject)
print(len(testing.CHECKS), "kept")
"""

RAISES = "class Broken:\n    def __init__(self):\n        raise RuntimeError('no licence found')\n"
ENTRY = "[slmbench.backends]\nbroken = broken_plugin:Broken\n"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the example with pip, without its dependencies, into a folder of its own."""
    place = tmp_path_factory.mktemp("plugin")
    source = place / "source"
    source.mkdir()
    for name in ("pyproject.toml", "slmbench_numpy.py"):
        (source / name).write_bytes((PLUGIN / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(place / "site"), str(source)], check=True, capture_output=True)
    return place / "site"


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(installed: Path) -> Run:
    def call(*arguments: str, more: Path | None = None) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(str(folder) for folder in (installed, more) if folder is not None)
        environment = {**os.environ, "PYTHONPATH": path}
        return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)

    return call


def test_it_is_a_whole_package_in_under_130_lines() -> None:
    lines = [path.read_text().splitlines() for path in PLUGIN.iterdir() if path.is_file()]
    assert sum(map(len, lines)) < MAX_LINES


def test_it_imports_what_plugins_may_import_alone() -> None:
    documented = re.search(r"A plugin may import (.*?)\.\n", DOCS.read_text(), re.S)
    assert documented is not None
    allowed = set(re.findall(r"`(slmbench[\w.]*)`", documented[1]))
    imported = re.findall(r"^ *from (slmbench[\w.]*) import|^ *import (slmbench[\w.]*)", EXAMPLE.read_text(), re.M)
    assert {one or other for one, other in imported} <= allowed
    for name in allowed:
        assert import_module(name).__all__, f"{name} says what it gives"


def test_an_installed_plugin_is_found(run: Run) -> None:
    done = run("-c", "from slmbench.backend import backend_names; print(backend_names())")
    assert "'numpy'" in done.stdout


@pytest.mark.slow
def test_it_keeps_the_contract(run: Run) -> None:
    done = run("-c", CONFORMANCE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("kept")


@pytest.mark.slow
def test_it_is_measured_like_any_other(run: Run, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path), "--repeat", "2", "--input-tokens", "32", "--output-tokens", "8", "--suite", "smoke"]
    done = run("-m", "slmbench", "run", "--model", "llama-tiny", "--backend", "numpy", *out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "numpy" in done.stdout


def test_a_plugin_that_raises_is_named_and_the_others_go_on(run: Run, tmp_path: Path) -> None:
    (tmp_path / "broken_plugin.py").write_text(RAISES)
    information = tmp_path / "broken_plugin-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(ENTRY)
    done = run("-c", "from slmbench.backend import load_backends; print(load_backends()[1])", more=tmp_path)
    assert "backend 'broken' (broken_plugin:Broken) fails to load: RuntimeError: no licence found" in done.stdout
    done = run("-c", "from slmbench.backend import load_backends as l; print([b.name for b in l()[0]])", more=tmp_path)
    assert "'numpy'" in done.stdout
    assert "'openvino'" in done.stdout
