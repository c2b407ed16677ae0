"""What the community's exporters take is read from their own sources: the same as they say when they are imported."""

from __future__ import annotations

import pytest

from slmbench.export import community
from slmbench.models.known_routes import AGREE, agreed, known_failure, rows
from slmbench.terms import Family

TASKS: dict[Family, str] = {
    "decoder-only": "text-generation-with-past",
    "encoder-decoder": "text2text-generation-with-past",
}


@pytest.mark.slow
def test_optimum_says_the_same_of_its_registry() -> None:
    pytest.importorskip("optimum.intel", reason="needs slmbench[optimum]")
    import optimum.exporters.openvino.model_configs  # noqa: F401
    from optimum.exporters.tasks import TasksManager

    theirs = {name: per["openvino"] for name, per in TasksManager._SUPPORTED_MODEL_TYPE.items() if "openvino" in per}
    ours = community._optimum_registry()
    assert ours is not None
    for task in TASKS.values():
        known = {name for name, entry in ours.items() if task in entry.tasks}
        assert known == {name for name, tasks in theirs.items() if task in tasks}
    for name, entry in ours.items():
        for made in theirs.get(name, {}).values():
            config = getattr(made, "func", made)
            assert str(entry.most) == str(getattr(config, "MAX_TRANSFORMERS_VERSION", None)), name


@pytest.mark.parametrize(
    ("architecture", "family"),
    [("qwen2", "decoder-only"), ("gpt_neox", "decoder-only"), ("olmo", "decoder-only"), ("m2m_100", "encoder-decoder")],
)
def test_types_that_we_never_named_are_taken(architecture: str, family: Family) -> None:
    pytest.importorskip("optimum.exporters", reason="needs slmbench[optimum]")
    assert community.optimum_refusal(architecture, family) is None
    other: Family = "decoder-only" if family == "encoder-decoder" else "encoder-decoder"
    assert "no export of the architecture" in (community.optimum_refusal(architecture, other) or "")


def test_the_builder_is_asked_for_what_it_compares_with() -> None:
    pytest.importorskip("onnxruntime_genai", reason="needs slmbench[cpu]")
    assert [one for one in ("qwen2", "granite", "olmo") if community.genai_refusal(one) is not None] == []
    assert "does not build the architecture 'gpt2'" in (community.genai_refusal("gpt2") or "")


def test_without_the_library_the_table_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has artifacts and no exporters chooses as the one that made them."""
    monkeypatch.setattr(community, "_optimum_registry", lambda: None)
    monkeypatch.setattr(community, "_genai_classes", lambda: None)
    assert community.optimum_refusal("llama", "decoder-only") is None
    assert "was not seen to export" in (community.optimum_refusal("t5gemma", "encoder-decoder") or "")
    assert community.genai_refusal("qwen3") is None
    assert "was not seen to export" in (community.genai_refusal("gpt2") or "")


def test_a_failure_counts_where_every_checkpoint_of_the_type_failed() -> None:
    one = next(row for row in rows() if row.failed)
    for column in one.failed:
        of_type = [row.cells[column] for row in rows() if row.architecture == one.architecture]
        assert (known_failure(one.architecture, column) is None) == (AGREE in of_type)
    assert agreed("llama", "openvino optimum")
    assert known_failure("llama", "openvino optimum") is None
