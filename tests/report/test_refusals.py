"""A cell that the new side cannot run: in the check's screen, JSON and JUnit, with its reason."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from synthetic import PAIR, Speed, make_run

from slmbench.cli import run_main
from slmbench.records.refusals import Refusal

REASON = "standin has no such kernels"


def refused(speed: Speed) -> Refusal:
    return Refusal(
        checkpoint=speed.model,
        family=speed.family,
        parameters=speed.parameters,
        backend=speed.backend,
        device=speed.device,
        weight_precision=speed.weights,
        compute_precision=speed.compute,
        workload=speed.case.workload,
        reason=REASON,
    )


@pytest.mark.parametrize("in_base", [True, False])
def test_a_refusal_is_named_wherever_a_check_speaks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], in_base: bool
) -> None:
    base = make_run(PAIR if in_base else PAIR[:1]).write(tmp_path / "base")
    made = make_run(PAIR[:1], seed=1)
    made.record = made.record.model_copy(update={"refusals": (refused(PAIR[1]),)})
    new = made.write(tmp_path / "new")
    junit = tmp_path / "junit.xml"
    code = run_main(["check", "--baseline", str(base), str(new), "--junit", str(junit), "--gate", "50%"])
    assert code == (4 if in_base else 0)
    assert REASON in " ".join(capsys.readouterr().out.split())
    suite = ElementTree.fromstring(junit.read_text()).find("testsuite")
    assert suite is not None
    skipped, missing = suite.findall("testcase/skipped"), suite.findall("testcase/error[@type='missing']")
    (told,) = missing if in_base else skipped
    assert REASON in (told.get("message") or "")
    assert suite.get("skipped") == ("0" if in_base else "1")
    assert run_main(["check", "--baseline", str(base), str(new), "--gate", "50%", "--json"]) == code
    assert REASON in json.dumps(json.loads(capsys.readouterr().out))
    assert run_main(["table", str(new), "--json"]) == 0
    rows = {row["model"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["dec-small"]["refusal"] == REASON
    assert rows["mu-small"]["refusal"] is None
