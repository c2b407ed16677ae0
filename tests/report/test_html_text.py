"""Text of a run on a page."""

from __future__ import annotations

import pytest

from slmbench.report.html_text import with_code


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("`slmbench limits --again` measures it again", "<code>slmbench limits --again</code> measures it again"),
        ("one ` alone", "one ` alone"),
        ("`<b>` & \x1b[31m", "<code>&lt;b&gt;</code> &amp;  [31m"),
        ("<script>`</script>`", "&lt;script&gt;<code>&lt;/script&gt;</code>"),
    ],
)
def test_commands_are_code_and_nothing_else_is_markup(text: str, shown: str) -> None:
    assert with_code(text) == shown
