"""What processes may do at once: one run a folder; what is measured is not removed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from slmbench.errors import BadInputError
from slmbench.system.locks import in_use, is_used, locks_dir, only_run_in

HOLD = """
import time
from slmbench.system.locks import in_use
with in_use(["a1"]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_folder_has_one_run_at_a_time(tmp_path: Path) -> None:
    with only_run_in(tmp_path / "run"):
        with pytest.raises(BadInputError, match="another slmbench run is writing here"), only_run_in(tmp_path / "run"):
            raise AssertionError
        with only_run_in(tmp_path / "other"):
            pass
    with only_run_in(tmp_path / "run"):
        pass


def test_an_artifact_is_used_for_as_long_as_somebody_holds_it() -> None:
    assert not is_used("a1")
    with in_use(["a1", "b2"]):
        with in_use(["a1"]):
            pass
        assert is_used("a1")
        assert is_used("b2")
        assert not is_used("c3")
    assert not is_used("a1")
    assert not list(locks_dir().iterdir())


def test_what_a_killed_process_held_is_free() -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert is_used("a1")
    holder.kill()
    holder.communicate()
    assert [path.name.split(".")[0] for path in locks_dir().iterdir()] == ["a1"]
    assert not is_used("a1")
    assert not list(locks_dir().iterdir())


def test_a_cache_that_cannot_be_written_keeps_nobody_out(tmp_path: Path, cache: Path) -> None:
    cache.write_text("a file where the folder would be")
    with only_run_in(tmp_path / "run"), in_use(["a1"]):
        assert not is_used("a1")
    assert list(tmp_path.iterdir()) == [cache]
