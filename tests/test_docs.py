from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from slmbench.plan.suite import parse_suite, suite_names

DOCS = Path(__file__).parents[1] / "docs"


def test_the_suite_in_the_docs_is_a_suite() -> None:
    text = (DOCS / "suites.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    suite = parse_suite(example, "docs/suites.md")
    assert suite.scaled("small").all_checkpoints() == ["mu-small", "dec-small", "t5-tiny"]
    for name in suite_names():
        assert f"`{name}`" in text, name


def test_links_between_documents_lead_somewhere() -> None:
    for page in [*DOCS.glob("*.md"), DOCS.parent / "README.md", DOCS.parent / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(((?!https?:|#)[^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_reliability_table_has_a_row_for_every_attack() -> None:
    text = (DOCS / "reliability.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| .*`(\w+\.py)::(\w+)` \| (\d+) \| (\d+) \| (\d+) \|", text, re.MULTILINE)
    spec = importlib.util.spec_from_file_location("reliability_table", DOCS / "reliability_table.py")
    assert spec
    assert spec.loader
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    attacks = {
        (Path(file).name, name)
        for file in maker.AREAS
        for name in re.findall(r"^def (test_\w+)", (DOCS.parent / file).read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert {(file, name) for file, name, *_ in told} == attacks, "run docs/reliability_table.py"
    assert all(int(held) + int(skipped) == int(of) for _, _, held, of, skipped in told)
