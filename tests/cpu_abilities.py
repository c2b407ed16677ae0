"""What the processor that the tests run on lacks: tests that need it are skipped with the reason."""

from __future__ import annotations

import pytest

from slmbench.machine.cpu import cpu_flags


def need_bf16_of_openvino() -> None:
    """Skip the test where OpenVINO does not compute in bf16, and would use another precision."""
    from slmbench.backends.openvino.options import capability_refusal

    if refusal := capability_refusal("bf16", "cpu"):
        pytest.skip(refusal)


def need_exact_int8_of_ctranslate2() -> None:
    """Skip the test on x86 without VNNI, where CTranslate2 multiplies 8-bit numbers in a way that changes tokens."""
    flags = cpu_flags()
    if "avx2" in flags and not any("vnni" in one for one in flags):
        pytest.skip("without VNNI CTranslate2's int8 gives other tokens: 11 of 30 golden ones came out")
