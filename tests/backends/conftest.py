"""Artifacts of tiny checkpoints, exported once a session."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from slmbench.models.artifact import Artifact, ArtifactSpec
from slmbench.models.checkpoint import resolve

MakeArtifact = Callable[..., Artifact]


@pytest.fixture(scope="session")
def make_static() -> MakeArtifact:
    """Return a function that exports a static artifact of a catalog checkpoint."""
    pytest.importorskip("torch", reason="exporting needs slmbench[export]")
    from slmbench.export.build import ensure_artifact

    def make(name: str, format_: str = "openvino", **more: object) -> Artifact:
        fields = {"input_tokens": 48, "output_tokens": 24, **more}
        spec = ArtifactSpec.model_validate({"format": format_, "layout": "static", **fields})
        return ensure_artifact(resolve(name), spec, progress=lambda _: None)

    return make
