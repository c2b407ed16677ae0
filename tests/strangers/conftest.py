"""Artifacts of tiny checkpoints that strangers break."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from victims import SUBJECTS, MakeVictim, Victim

from slmbench.models.artifact import ArtifactSpec, read_artifact
from slmbench.models.checkpoint import resolve


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeVictim]:
    """Return a maker of victims; a backend's is made once, and what it wrote is removed."""
    pytest.importorskip("torch", reason="exporting needs slmbench[cpu]")
    from slmbench.export.build import ensure_artifact

    place = tmp_path_factory.mktemp("broken")
    known: dict[str, Victim] = {}

    def make(backend: str) -> Victim:
        pytest.importorskip(backend, reason="needs slmbench[cpu]")
        if backend not in known:
            format_, checkpoint = SUBJECTS[backend]
            exporter = "none" if format_ == "torch" else "slmbench"
            spec = ArtifactSpec.model_validate({"format": format_, "exporter": exporter})
            artifact = ensure_artifact(resolve(checkpoint), spec, progress=lambda _: None)
            good = place / f"{backend}-good"
            # Beside the copies, so that they can share its files, whatever disk the cache is on.
            shutil.copytree(artifact.folder, good)
            known[backend] = Victim(backend, read_artifact(good), place)
        return known[backend]

    yield make
    for one in known.values():
        if one.worker is not None:
            one.worker.kill()
    shutil.rmtree(place)
