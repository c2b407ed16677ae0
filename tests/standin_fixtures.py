"""The stand-in backend: installed like a third party's package, with an artifact and a golden record."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from standins import install_plugin, planned_case, write_artifact

from slmbench.case import Workload
from slmbench.running.settings import PlannedCase

MakePlan = Callable[..., PlannedCase]


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that, on the path, is an environment with the stand-in's package installed."""
    site = tmp_path_factory.mktemp("site")
    install_plugin(site)
    return site


@pytest.fixture(autouse=True)
def installed(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the stand-in for the test's process and its workers."""
    monkeypatch.setenv("PYTHONPATH", str(plugin))
    monkeypatch.setattr(sys, "path", [str(plugin), *sys.path])


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an artifact whose golden record is what the stand-in says."""
    folder = tmp_path_factory.mktemp("artifact")
    write_artifact(folder)
    return folder


@pytest.fixture
def planned(artifact: Path) -> MakePlan:
    """Return a maker of cases; ``name`` tells their keys apart, options go to the stand-in."""

    def make(
        name: str = "a", *, workload: Workload | None = None, case: dict[str, Any] | None = None, **options: Any
    ) -> PlannedCase:
        return planned_case(artifact, name, workload, case, options)

    return make
