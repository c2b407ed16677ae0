"""Machines that slmbench cannot run on as they are: each is told in one line, with the way out."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from slmbench.system import extras
from slmbench.system.extras import install_command, missing

PREFIX = "slmbench: error: "
LINE = "slmbench: error: mu-tiny: cannot be exported here, the cache "


def run(code: str, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **more}
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("sys.version_info = (3, 10, 4)", "Python 3.11 or newer is needed, {python} is 3.10.4; make an environment"),
        ("sys.maxsize = 2**31 - 1", "a 64-bit Python is needed, {python} has 32 bits"),
    ],
)
def test_an_interpreter_that_does_not_do_is_named(change: str, told: str) -> None:
    as_module = run(f"import sys; {change}; sys.argv = ['-m']; import slmbench")
    assert (as_module.returncode, as_module.stdout) == (5, "")
    assert as_module.stderr.startswith(PREFIX + told.format(python=sys.executable))
    assert as_module.stderr.count("\n") == 1
    imported = run(f"import sys; {change}; import slmbench")
    assert "ImportError: slmbench: " in imported.stderr


def test_an_old_python_ends_in_that_line_too() -> None:
    old = next(filter(None, map(shutil.which, ("python3.8", "python3.9", "python3.10"))), None)
    root = Path(__file__).parents[2]
    if old is None or subprocess.run([old, "-V"], capture_output=True).returncode:
        pytest.skip("no Python older than 3.11 here")
    done = subprocess.run([old, "-m", "slmbench"], capture_output=True, text=True, cwd=root)
    assert done.returncode == 5
    assert done.stderr.startswith(f"{PREFIX}Python 3.11 or newer is needed, ")


def test_too_little_disk_for_torch_is_said_before_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    free = shutil.disk_usage(sys.prefix)
    monkeypatch.setattr(extras.shutil, "disk_usage", lambda _: free._replace(free=10**12))
    assert missing("torch") == f"torch is not installed: {install_command('torch')}"
    monkeypatch.setattr(extras.shutil, "disk_usage", lambda _: free._replace(free=2 * 10**9))
    assert missing("torch").endswith(" GB free)")
    assert "has 2.0 GB free" in missing("torch")
    assert sysconfig.get_path("purelib") not in missing("torch"), "refusals get into results"
    assert missing("ctranslate2") == f"ctranslate2 is not installed: {install_command('ctranslate2')}"


def test_a_read_only_home_is_named_with_the_way_out(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs slmbench[cpu]")
    home = tmp_path / "home"
    home.mkdir()
    words = [sys.executable, "-m", "slmbench", "run", "--model", "mu-tiny", "--backend", "onnxruntime"]
    environment = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    del environment["SLMBENCH_CACHE"]
    # A mount of its own: root writes into any folder, but not there.
    script = 'mount -t tmpfs -o ro none "$HOME" && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, "-", *words]
    if (
        shutil.which("unshare") is None
        or subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode
    ):
        home.chmod(0o555)
        command = words
        if os.access(home, os.W_OK):
            pytest.skip("cannot make a folder that this user may not write to")
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 5, done.stderr
    assert done.stderr.startswith(LINE)
    assert done.stderr.endswith("cannot be written; SLMBENCH_CACHE names another folder\n")
    assert not (tmp_path / "results").exists()


def test_a_cache_that_fails_while_it_is_written_is_named_too(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    words = ["export", "mu-tiny", "--format", "onnx"]
    done = run(
        "import sys; from slmbench.cli import main; main()", *words, SLMBENCH_CACHE=str(tmp_path / "file" / "cache")
    )
    assert done.returncode == 5
    assert done.stderr.rstrip().endswith("; SLMBENCH_CACHE names another folder for the cache")
    assert done.stderr.count("\n") == 1


def test_a_proxy_without_a_network_is_named(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    del environment["HF_HUB_OFFLINE"]
    # Nobody listens on that port.
    environment |= {"HTTPS_PROXY": "http://user:secret@127.0.0.1:9", "HF_HOME": str(tmp_path)}
    words = [sys.executable, "-m", "slmbench", "run", "--model", "org/model", "--dry-run"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 5
    first = f"{PREFIX}org/model: the Hub cannot be reached through the proxy 127.0.0.1 (HTTPS_PROXY) ("
    assert done.stderr.startswith(first)
    assert done.stderr.endswith(
        "--offline uses what is cached, a folder with a copy from elsewhere can be named instead\n"
    )
    assert "secret" not in done.stderr
