from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_lines import in_text, parse
from rotation import takes_turns
from scripts_by_path import load_script

from slmbench.plan.suite import parse_suite, suite_names

DOCS = Path(__file__).parents[1] / "docs"


def test_the_suite_in_the_docs_is_a_suite() -> None:
    text = (DOCS / "suites.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    suite = parse_suite(example, "docs/suites.md")
    assert suite.scaled("small").all_checkpoints() == ["mu-small", "dec-small", "t5-tiny"]
    for name in suite_names():
        assert f"`{name}`" in text, name


def test_a_reader_with_a_clone_can_install_every_extra_that_the_manual_names() -> None:
    """slmbench is on no index yet: where a page says what to install, it has the form for a clone."""
    # Workflows of a published slmbench, and what an older version's reader typed.
    exempt = {"ci.md", "whats-new.md", "pull-request.md"}
    named = 0
    for page in sorted(DOCS.rglob("*.md")):
        if page.name in exempt:
            continue
        for line in page.read_text(encoding="utf-8").splitlines():
            for extra in re.findall(r"'slmbench(\[[^']*\])'", line):
                named += 1
                assert f"'.{extra}'" in line, (page.name, line)
    assert named >= 5


@takes_turns(3, 4)
@pytest.mark.slow
def test_the_commands_of_a_gate_in_ci_work(tmp_path: Path) -> None:
    """As they stand in docs/ci.md, with a small model in place of the suites: first what measures, then what judges."""
    text = (DOCS / "ci.md").read_text(encoding="utf-8")
    # The commands of the gate on quality need a trained model: tests/roads/test_quality_gate.py walks them.
    of_speed = re.sub(r"\n## Quality\n.*?(?=\n## )", "", text, flags=re.DOTALL)
    blocks = re.findall(r"```bash\n(.*?)```", of_speed, re.DOTALL)
    (gates,) = re.findall(r"```yaml\n# gates.yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "gates.yaml").write_text(gates, encoding="utf-8")
    commands = [line.partition("#")[0] for block in blocks for line in block.splitlines() if line[:9] == "slmbench "]
    commands += re.findall(r"^`(slmbench check --gates [^`]*)`", text, re.MULTILINE)
    assert len(commands) == 8
    for side in ("base", "head"):
        python = tmp_path / f"venv-{side}" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
    small = "--model mu-tiny --backend onnxruntime --input-tokens 16 --output-tokens 4 --repeat 2"
    for command in sorted(commands, key=lambda line: not line.startswith("slmbench run")):
        command = re.sub(r"--suite \w+", small, command).replace("until-conclusive", "until-conclusive --budget 1")
        done = subprocess.run(
            [sys.executable, "-P", "-m", *shlex.split(command)], cwd=tmp_path, capture_output=True, text=True
        )
        verdicts = (0, 1, 4) if " check " in command else (0,)
        assert done.returncode in verdicts, command + done.stdout + done.stderr
        # Tonight's runs, as far as this folder knows.
        for night in ("tonight", "new"):
            if (tmp_path / "results" / "base").exists() and not (tmp_path / "results" / night).exists():
                shutil.copytree(tmp_path / "results" / "base", tmp_path / "results" / night)


PAGES = sorted(DOCS.rglob("*.md"))
COMMANDS = [(page.name, words) for page in PAGES for words in in_text(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[" ".join([page, *words[:3]]) for page, words in COMMANDS])
def test_the_parser_takes_every_command(page: str, words: list[str]) -> None:
    if words[0].startswith("--") or words[0].isupper() or "..." in words:
        pytest.skip("not a whole command")
    parse(words)


def test_links_between_documents_lead_somewhere() -> None:
    for page in [*PAGES, DOCS.parent / "README.md", DOCS.parent / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(((?!https?:|#)[^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_reliability_table_has_a_row_for_every_attack() -> None:
    text = (DOCS / "reliability.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| .*`(\w+\.py)::(\w+)` \| (\d+) \| (\d+) \| (\d+) \|", text, re.MULTILINE)
    maker = load_script("docs/reliability_table.py")
    attacks = {
        (Path(file).name, name)
        for file in maker.AREAS
        for name in re.findall(r"^def (test_\w+)", (DOCS.parent / file).read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert {(file, name) for file, name, *_ in told} == attacks, "run docs/reliability_table.py"
    assert all(int(held) + int(skipped) == int(of) for _, _, held, of, skipped in told)


@takes_turns(3, 4)
@pytest.mark.slow
def test_the_studys_page_is_what_its_samples_give(tmp_path: Path) -> None:
    packed = sorted((DOCS.parent / "results" / "study").glob("*.tar.xz"))
    command = [sys.executable, str(DOCS / "study_tables.py"), "--out", str(tmp_path), *map(str, packed)]
    subprocess.run(command, check=True)
    made = (tmp_path / "study_tables.md").read_text(encoding="utf-8")
    assert made == (DOCS / "study_tables.md").read_text(encoding="utf-8"), "run docs/study_tables.py"
    assert packed


def test_the_studys_tables_come_from_raw_samples(tmp_path: Path) -> None:
    """From a folder and from the archive that is committed: the same figures, with the machine and every reason."""
    reference = DOCS.parent / "results" / "reference" / "330m"
    command = [sys.executable, str(DOCS / "study_tables.py")]
    subprocess.run([*command, "--pack", str(reference), str(tmp_path / "330m.tar.xz")], check=True)
    subprocess.run([*command, "--out", str(tmp_path), str(tmp_path / "330m.tar.xz")], check=True)
    page = (tmp_path / "study_tables.md").read_text(encoding="utf-8")
    assert "`slmbench run " in page
    assert "--out " not in page, "the place of a run is nobody's business"
    assert "**AMD EPYC (26 2 1), 2 cores**" in page
    assert "| mu-330m / dec-330m | equal parameters | openvino | fp32 | 512 | 16 | 1.48x [1.40, 1.58] |" in page
    assert "not reached: ttft ±7.9%, tpot ±32.7% (the time for it was spent after 3 loads)" in page
    for name in re.findall(r"!\[[^]]*\]\(([^)]*)\)", page):
        assert (tmp_path / name).stat().st_size > 5000, name
