"""The package as people install it: wheel, sdist and what a bare start imports."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "transformers", "optimum", "nncf", "onnx", "openvino", "onnxruntime", "pandas", "scipy", "altair"}


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["compare", "--help"], ["check", "--help"], ["run", "--help"], ["suites"], ["models"]],
    ids=" ".join,
)
def test_commands_that_only_talk_load_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom slmbench.cli import run_main\n"
        f"code = run_main({arguments!r})\nprint('LOADED', *sorted({HEAVY!r} & set(sys.modules)))\n"
        "raise SystemExit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().splitlines()[-1] == "LOADED"


def shipped() -> set[str]:
    """Return every file of the package, where an installation has it."""
    places = {"slmbench": "slmbench", "backends": "slmbench/backends", "suites": "slmbench/suites"}
    return {
        f"{place}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, place in places.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_each_folder_with_code_is_one_that_is_installed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    folders = {name.rpartition("/")[0].replace("/", ".") for name in shipped() if name.endswith(".py")}
    assert set(listed) - {"slmbench.suites"} == folders - {"slmbench.suites"}


@pytest.mark.slow
def test_wheel_and_sdist_carry_code_backends_and_suites(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, timeout=300)
    (wheel,) = tmp_path.glob("slmbench-*.whl")
    assert shipped() - set(zipfile.ZipFile(wheel).namelist()) == set()


@pytest.mark.slow
def test_a_wheel_works_from_any_folder_without_torch(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-deps", "-q", "--target", str(tmp_path / "site"), str(ROOT)],
        check=True,
        timeout=300,
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); sys.modules['torch'] = None\n"
    code += "import slmbench; assert 'site' in slmbench.__file__, slmbench.__file__\n"
    code += "from slmbench.plan.suite import load_suite; print(load_suite('quick').name)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "quick", done.stderr


@pytest.mark.slow
def test_sdist_builds_the_same_files(tmp_path: Path) -> None:
    pytest.importorskip("build", reason="needs the dev extra")
    subprocess.run(
        [sys.executable, "-m", "build", "--sdist", "-o", str(tmp_path), str(ROOT)],
        check=True,
        timeout=300,
        capture_output=True,
    )
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = {name.split("/", 1)[1] for name in file.getnames() if "/" in name}
    inside = {name if name.startswith("slmbench/") else f"slmbench/{name}" for name in names}
    assert shipped() - inside == set()
    assert "LICENSE" in names
