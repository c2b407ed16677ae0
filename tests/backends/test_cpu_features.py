"""What llama.cpp was compiled for against what the CPU has; CPUs other than this one are described by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="needs slmbench[llama]")
pytest.importorskip("gguf", reason="needs slmbench[llama]")
pytest.importorskip("torch", reason="exporting needs slmbench[export]")

from slmbench.backends.llama_cpp import bindings, cpu_features  # type: ignore[import-not-found]
from slmbench.backends.llama_cpp.session import LlamaCppOptions  # type: ignore[import-not-found]

from slmbench.backend import Tokens, load_backend
from slmbench.errors import CannotRunError
from slmbench.export.build import ensure_artifact
from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import resolve

SAPPHIRE = "CPU : SSE3 = 1 | AVX = 1 | AVX512 = 1 | AVX512_VNNI = 1 | AMX_INT8 = 1 | LLAMAFILE = 1 | REPACK = 1 | "
AVX512 = {"avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw"}
WITH_AMX = frozenset({"pni", "avx", *AVX512, "avx512_vnni", "amx_tile", "amx_int8", "amx_bf16"})


def test_a_library_for_another_cpu_is_noticed() -> None:
    compiled = cpu_features.compiled_for(SAPPHIRE)
    assert compiled == {"SSE3", "AVX", "AVX512", "AVX512_VNNI", "AMX_INT8", "LLAMAFILE", "REPACK"}
    assert cpu_features.missing_features(compiled, WITH_AMX) == []
    assert cpu_features.missing_features(compiled, frozenset({"pni", "avx", *AVX512})) == ["AVX512_VNNI"]
    assert cpu_features.missing_features(compiled, frozenset()) == [], "where nothing is listed, nothing is concluded"


@pytest.mark.parametrize(
    ("compiled", "flags", "permitted", "obstacle"),
    [
        ({"AVX"}, frozenset({"avx"}), False, None),
        ({"AMX_INT8"}, WITH_AMX, True, None),
        ({"AMX_INT8"}, WITH_AMX, False, "the kernel does not permit AMX"),
        ({"AMX_INT8"}, WITH_AMX - {"amx_tile"}, True, "this CPU has no AMX"),
    ],
)
def test_amx_is_used_where_cpu_and_kernel_have_it(
    monkeypatch: pytest.MonkeyPatch, compiled: set[str], flags: frozenset[str], permitted: bool, obstacle: str | None
) -> None:
    monkeypatch.setattr(cpu_features, "_kernel_permits_amx", lambda: permitted)
    assert cpu_features.amx_obstacle(compiled, flags) == obstacle


def test_the_kernel_is_really_asked() -> None:
    if not {"amx_tile", "amx_int8"} <= cpu_features.cpu_flags():
        assert not cpu_features._kernel_permits_amx()


def test_flags_are_those_of_the_first_processor(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu avx\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert cpu_features.cpu_flags(tmp_path / "cpuinfo") == {"fpu", "avx"}
    assert cpu_features.cpu_flags(tmp_path / "absent") == frozenset()


def generate(repack: bool | None) -> tuple[list[int], tuple[str, str]]:
    """Return tokens of a Q8_0 file, and what the session tells of repacking."""
    spec = ArtifactSpec(format="gguf", weight_precision="int8", exporter="slmbench")
    artifact = ensure_artifact(resolve("dec-tiny"), spec, progress=lambda _: None)
    options = LlamaCppOptions(compute_precision="int8", threads=1, repack=repack)
    session = load_backend("llama_cpp").open(artifact, "cpu", options)
    session.reserve(1, 8, 6)
    token: Tokens = session.start(np.arange(5, 13)[None])  # type: ignore[union-attr]
    tokens = [int(token[0])]
    for _ in range(5):
        token = session.step(token)  # type: ignore[union-attr]
        tokens.append(int(token[0]))
    told = session.settings()["repacked weights"]  # type: ignore[union-attr]
    assert session.placement().executed_on == "cpu"
    session.close()
    return tokens, told


def test_repacking_can_be_switched_off_and_says_so() -> None:
    tokens, told = generate(None)
    assert told[0] == told[1]
    assert generate(False) == (tokens, ("off", "off"))


def test_where_amx_is_compiled_in_and_absent_weights_are_not_repacked(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, _ = generate(None)
    here = cpu_features.cpu_flags() - {"amx_tile"}
    monkeypatch.setattr(bindings, "compiled_for", lambda text: {cpu_features.AMX})
    monkeypatch.setattr(bindings, "cpu_flags", lambda: here | {"fpu"})
    assert generate(None) == (tokens, ("off: this CPU has no AMX", "off: this CPU has no AMX"))


def test_a_library_for_another_cpu_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bindings, "cpu_flags", lambda: frozenset({"pni", "ssse3"}))
    with pytest.raises(CannotRunError, match="compiled for a CPU with .* does not have; .*pip install"):
        generate(None)
