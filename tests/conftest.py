"""What every test shares: a cache of its own, and no network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import rotation
from hypothesis import HealthCheck, settings
from known_limits import keep_limits

# How fast this machine is on a busy day decides no test. Folders that examples share are written by name.
IGNORED = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture)
settings.register_profile("any machine", deadline=None, suppress_health_check=IGNORED)
settings.load_profile("any machine")

#: Files that take longest, the longest first: two processes end at about the same time when these begin early.
LONGEST = (
    "roads/test_quality.py", "export/test_every_architecture.py", "roads/test_cells.py",
    "backends/test_conformance.py", "crash/test_outputs.py", "roads/test_action.py", "strangers/test_strangers.py",
    "running/test_scheduler.py", "crash/test_two_at_once.py", "crash/test_kills.py", "fuzz/test_broken_inputs.py",
    "analysis/test_verdicts.py", "backends/test_openvino.py", "fleet/test_no_torch.py",
    "backends/test_openvino_genai.py", "load/test_large_runs.py", "measure/test_workload.py", "test_docs.py",
    "models/test_cost_model.py", "backends/test_npu_genai.py", "export/test_load.py", "export/test_store.py",
)  # fmt: skip


#: More tests than this are the whole suite, whose slow ones take turns. Files that somebody names run in full.
WHOLE = 3000


def pytest_report_header() -> str:
    """Say which share of the slow sweeps is in turn."""
    turn = rotation.turn()
    return "slow sweeps: " + ("all of them" if turn is None else f"turn {turn % 12} (SLMBENCH_ALL=1 runs all)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip slow tests that are not in turn; put the files that take longest first, as pytest-xdist hands them out."""
    if len(items) > WHOLE:
        left = pytest.mark.skip(reason="its turn comes with another commit (SLMBENCH_ALL=1 runs it)")
        for item in items:
            if item.get_closest_marker("slow") and not rotation.is_in_turn(item.nodeid):
                item.add_marker(left)
    folder = Path(__file__).parent
    place = {folder / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Take back what ggml sets with C's setenv: commands that tests start would run on "another machine"."""
    if "KMP_BLOCKTIME" not in os.environ:
        os.unsetenv("KMP_BLOCKTIME")


@pytest.fixture(scope="session", autouse=True)
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Point slmbench at one cache for the whole test session: an artifact is exported once, no limits are measured.

    Processes of pytest-xdist share it: their temporary folders lie in one of the session's.
    """
    base = tmp_path_factory.getbasetemp()
    own = base.parent / "cache" if "PYTEST_XDIST_WORKER" in os.environ else base / "cache"
    folder = Path(os.environ.get("SLMBENCH_TEST_CACHE") or own)
    folder.mkdir(exist_ok=True)
    os.environ["SLMBENCH_CACHE"] = str(folder)
    os.environ["HF_HUB_OFFLINE"] = "1"
    if not (folder / "limits").exists():
        keep_limits(folder)
    return folder


@pytest.fixture
def calibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every machine be one whose separate runs hardly differ, for tests of what is made of verdicts."""
    from slmbench.analysis.noise import Floor, Shift

    class Quiet(Floor):
        def shift(self, keys: object, metric: str) -> Shift:
            return Shift(1e-8, runs=100)

    monkeypatch.setattr("slmbench.cli.compare.read_floor", lambda fingerprint: Quiet())
