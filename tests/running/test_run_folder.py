"""The folder of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from slmbench.errors import BadInputError
from slmbench.plan.request import RunRequest
from slmbench.plan.suite import load_suite
from slmbench.running import run_folder as module
from slmbench.running.run_folder import run_folder
from slmbench.system.locks import only_run_in


def test_who_is_refused_touches_nothing_of_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two runs into one new folder, the refused one removed the folder that the other had just made."""
    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "run"
    order: list[str] = []
    monkeypatch.setattr(module, "_make", lambda *_, **__: order.append("made"))

    with only_run_in(folder), pytest.raises(BadInputError, match="another slmbench run is writing here"):  # noqa: SIM117
        with run_folder(RunRequest(out=folder), load_suite("quick")):
            raise AssertionError("two runs in one folder")
    assert not order, "it made a folder, and removed it, before it knew whose it is"
