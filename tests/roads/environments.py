"""Virtual environments as users have them, made in a second: this one's packages, and one package in a version."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

#: ONNX Runtime with a brake: the whole difference between its versions is what happens before each step.
PACKAGE = """
import os, signal, time
from slmbench.backends.onnxruntime.backend import OnnxRuntimeBackend

VERSION = "{version}"

class BrakeBackend(OnnxRuntimeBackend):
    name = engine = "brake"

    def __init__(self):
        super().__init__()
        self.distributions = ("slmbench-brake", *self.distributions)

    def open(self, artifact, device, options):
        session = super().open(artifact, device, options)
        step = session.step
        def slower(token):
            {brake}
            return step(token)
        session.step = slower
        return session
"""
FAST, SLOW, DYING = "1.0", "2.0", "3.0"
#: The fast one brakes as well: tokens of a tenth of a millisecond are at the mercy of whatever else runs.
BRAKES = {FAST: "time.sleep(0.02)", SLOW: "time.sleep(0.08)", DYING: "os.kill(os.getpid(), signal.SIGKILL)"}


def keep_brake_limits(cache: Path) -> None:
    """Keep limits of the engine in all its versions."""
    # Not at the top: this file is also run by itself, and then the tests' folder is on no path.
    from known_limits import keep_limits_like

    for version in BRAKES:
        keep_limits_like("brake", "onnxruntime", cache, slmbench_brake=version)


def bare(folder: Path, python: str = sys.executable) -> Path:
    """Make an environment without any package; return its interpreter."""
    subprocess.run([python, "-m", "venv", "--without-pip", str(folder)], check=True, capture_output=True)
    return folder / ("Scripts" if os.name == "nt" else "bin") / "python"


def site_of(python: Path) -> Path:
    """Return an environment's site-packages."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip())


def shared(folder: Path) -> Path:
    """Make an environment that has what this one has: slmbench and its engines; return its interpreter."""
    python = bare(folder)
    # addsitedir, not a bare path: an editable install is a .pth file of its own.
    line = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    (site_of(python) / "shared.pth").write_text(line)
    return python


def environment(folder: Path, version: str) -> Path:
    """Make an environment with slmbench, its engines, and ``slmbench-brake`` in that version; return its python."""
    python = shared(folder)
    install_brake(site_of(python), version)
    return python


def install_brake(site: Path, version: str) -> None:
    """Put the package into a folder that is on an environment's path."""
    (site / "slmbench_brake.py").write_text(PACKAGE.format(version=version, brake=BRAKES[version]))
    information = site / f"slmbench_brake-{version}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: slmbench-brake\nVersion: {version}\n")
    (information / "entry_points.txt").write_text("[slmbench.backends]\nbrake = slmbench_brake:BrakeBackend\n")


def write_project(folder: Path, version: str) -> None:
    """Write the package's source, as its repository has it."""
    (folder / "slmbench_brake.py").write_text(PACKAGE.format(version=version, brake=BRAKES[version]))
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        f'[project]\nname = "slmbench-brake"\nversion = "{version}"\n'
        '[project.entry-points."slmbench.backends"]\nbrake = "slmbench_brake:BrakeBackend"\n'
        '[tool.setuptools]\npy-modules = ["slmbench_brake"]\n'
    )


def write_python(folder: Path) -> None:
    """Put a `python` there that makes environments like :func:`shared`, each with a pip that needs no network."""
    _script(folder / "python", f'if [ "$1 $2" = "-m venv" ]; then set -- {__file__} venv "$3"; fi\n', '"$@"')


def _script(path: Path, before: str, arguments: str) -> None:
    path.write_text(f"#!/bin/bash\n{before}exec {sys.executable} {arguments}\n")
    path.chmod(0o755)


def main(what: str, *arguments: str) -> None:
    """Be `python -m venv` or `pip install`: projects in folders are installed, anything else is there already."""
    if what == "venv":
        python = shared(Path(arguments[0]))
        _script(python.with_name("pip"), "", f'{__file__} pip {site_of(python)} "$@"')
        return
    site, install, *wanted = arguments
    assert install == "install"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    for one in wanted:
        if Path(one).is_dir():
            for old in Path(site).glob("slmbench_brake*"):
                shutil.rmtree(old) if old.is_dir() else old.unlink()
            subprocess.run([*pip, "--target", site, one], check=True)


def install_speaker(python: Path, protocol: int, version: str) -> None:
    """Put a slmbench there whose worker says hello as that version does."""
    folder = site_of(python) / "slmbench" / "worker"
    folder.mkdir(parents=True)
    for package in (folder, folder.parent):
        (package / "__init__.py").touch()
    hello = {"re": "hello", "protocol": protocol, "slmbench": version, "python": "3.11.2", "pid": 1}
    (folder / "__main__.py").write_text(f"import json\nprint(json.dumps({hello!r}), flush=True)\ninput()\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
