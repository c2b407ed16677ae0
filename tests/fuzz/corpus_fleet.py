"""Broken inputs of fleets, claims, prompts and charts, made by code from good ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from corpus import GOOD_SUITE, STEERING, TABLE, Broken, broken_bytes, good_run, json_mutations, run_files, text
from corpus_models import checkpoint_files

from slmbench._version import __version__
from slmbench.fleet.messages import About
from slmbench.fleet.record import FleetRecord, Member
from slmbench.machine.fingerprint import Fingerprint
from slmbench.plan.request import RunRequest

GOOD_CLAIM = {
    "says": "47 % lower", "metric": "ttft", "speedup": 1.9, "source": "a paper", "figures_ms": {"cpu": 3.5},
    "figures_of": "mu-tiny", "note": "n",
}  # fmt: skip


def claims() -> Iterator[Broken]:
    """Yield suites and run.json files with claims that are none."""
    values: dict[str, tuple[Any, ...]] = {
        "says": (None, 7, [], {}), "metric": ("ttfft", "", None, [], 1, STEERING),
        "speedup": (0, -1, "x", None, [], float("nan"), float("inf"), 10**400, 1e300),
        "source": (None, 7), "note": (None, 7), "figures_of": (7, []),
        "figures_ms": ([], "x", {"cpu": -1}, {"cpu": "x"}, {"cpu": float("nan")}, {"cpu": float("inf")}, {"cpu": None},
                       {"": 0}),
    }  # fmt: skip
    good, _ = good_run()
    for key, wrong in values.items():
        for value in wrong:
            claim = {**GOOD_CLAIM, key: value}
            written = json.dumps(claim).replace("NaN", ".nan").replace("Infinity", ".inf")
            files = {"s.yaml": f"{GOOD_SUITE}claims: [{written}]\n".encode()}
            name = f"claim {key}: {str(value)[:9]!r}"
            yield Broken(f"suite {name}", ("suites", "show", "{}/s.yaml"), files, "s.yaml")
            yield Broken(f"run.json {name}", TABLE, run_files({**good, "claims": [claim]}), "run.json")
    for name, value in {"a word": "x", "a list of words": ["x"], "a mapping": {"a": 1}, "null": None, "empty": [{}],
                        "another key": [{**GOOD_CLAIM, "sayz": 1}]}.items():  # fmt: skip
        files = {"s.yaml": f"{GOOD_SUITE}claims: {json.dumps(value)}\n".encode()}
        yield Broken(f"suite claims {name}", ("suites", "show", "{}/s.yaml"), files, "s.yaml", may_pass=name == "null")
        yield Broken(f"run.json claims {name}", TABLE, run_files({**good, "claims": value}), "run.json")


def good_fleet() -> dict[str, Any]:
    """Return fleet.json of a run with one machine."""
    made, _ = good_run()
    hardware = {"cpu_model": "x", "physical_cores": 2, "logical_cores": 2, "memory_gib": 4, "os": "Linux", "arch": "y"}
    about = About(
        slmbench_version=__version__,
        name="one",
        fingerprint=Fingerprint.model_validate({"hardware": hardware}),
        devices=(),
    )
    keys = tuple(info["case"]["checkpoint"] for info in made["cases"])
    record = FleetRecord(run_id="f" * 8, request=RunRequest(), machines={"one": Member(about=about, keys=keys)})
    value: dict[str, Any] = json.loads(record.model_dump_json())
    return value


def fleet_files(record: Any = None, part: bytes | None = None) -> dict[str, bytes]:
    """Return a fleet's run with one part of one machine."""
    raw = record if isinstance(record, bytes) else text(good_fleet() if record is None else record)
    files = {"f/fleet.json": raw}
    files |= {f"f/machines/one/1/{name.rpartition('/')[2]}": data for name, data in run_files().items()}
    return {**files, "f/machines/one/1/part.json": b'{"keys": []}' if part is None else part}


FLEET = ("table", "{}/f", "--json")


def fleets() -> Iterator[Broken]:
    """Yield broken fleet.json files, and what a machine's folder may not hold."""
    good = good_fleet()
    for name, raw in broken_bytes(text(good)).items():
        yield Broken(f"fleet.json {name}", FLEET, fleet_files(raw), "fleet.json")
        yield Broken(f"fleet.json {name}, compared", ("compare", "{}/f"), fleet_files(raw), "fleet.json")
    free = frozenset({"request", "engines", "environment", "libraries"})
    for name, value, may_pass in json_mutations(good, free=free, optional=frozenset(good) | _OPTIONAL):
        yield Broken(f"fleet.json {name}", FLEET, fleet_files(value), "fleet.json", may_pass=may_pass)
    for name in ("../../x", "/etc", "", ".", "..", "a/b", "a\\b", "\x1b[31m", "x" * 65, "a\0b", "-x"):
        machines = {name: good["machines"]["one"]}
        yield Broken(f"a machine named {name[:9]!r}", FLEET, fleet_files({**good, "machines": machines}), "fleet.json")
    about = good["machines"]["one"]["about"]
    for name in ("../../x", "\x1b[31m", ""):
        member = {**good["machines"]["one"], "about": {**about, "name": name}}
        record = {**good, "machines": {"one": member}}
        yield Broken(f"a machine that calls itself {name[:9]!r}", FLEET, fleet_files(record), "fleet.json")
    for name, raw in broken_bytes(run_files()["run/run.json"]).items():
        files = {**fleet_files(), "f/machines/one/1/run.json": raw}
        yield Broken(f"a machine's run.json {name}", FLEET, files, "machines/one/1/run.json")
    for flag in ("--format", "--plots"):
        yield Broken(f"table of a fleet {flag}", (*FLEET[:2], flag, "x"), fleet_files(), "on the run of one machine")


_OPTIONAL = frozenset(
    {"outcome", "left_out", "needs", "blocks", "not_run", "each_machine", "software", "soft", "busy", "progress",
     "cpu_flags", "cpu_quota_cores", "governor", "turbo", "smt", "accelerators", "hypervisor", "engines", "environment",
     "kernel", "microcode", "host", "python", "libraries"}
)  # fmt: skip


def fleet_options() -> Iterator[Broken]:
    """Yield options of `run --fleet` and of `fleet` that nobody should type; nobody listens at any address."""
    run = ("run", "--model", "mu-tiny", "--out", "{}/out")
    addresses = ("", " ", "x", "tcp://", "tcp://x", "tcp://:1", "http://127.0.0.1:1", "tcp://127.0.0.1:99999999",
                 "tcp://127.0.0.1:-1", "tls://127.0.0.1:1", "127.0.0.1", "\x1b[31m:1", "tcp://[::1", "10.0.0.1:1",
                 "tcp://127.0.0.1:1/../x", "a" * 5000 + ":1", "tcp://\u202e:1", "local:1",
                 "tcp://127.0.0.1:x")  # fmt: skip
    for address in addresses:
        yield Broken(f"run --fleet {address[:20]!r}", (*run, "--fleet", address), codes=(2, 5))
        for command in ("status", "worker"):
            yield Broken(f"fleet {command} {address[:20]!r}", ("fleet", command, "--scheduler", address), codes=(2, 5))
    for value in ("", "x", "device", "device=", "device=tpu", "cpu", "device=cpu,gpu", "\x1b[31m", "device=cpu=x"):
        yield Broken(f"run --where {value!r}", (*run, "--fleet", "local", "--where", value))
        yield Broken(f"run --where {value!r} alone", (*run, "--where", value or "x"))
    for flag, value in (("--machines", "a"), ("--certs", "{}"), ("--insecure", ""), ("--each-machine", "")):
        yield Broken(f"run {flag} alone", (*run, flag, *filter(None, [value])))
    for host in ("", "x y", "0.0.0.0", "10.0.0.1", "\x1b[31m", "[::"):
        yield Broken(f"fleet scheduler --host {host!r}", ("fleet", "scheduler", "--host", host), codes=(2, 5))
    for port in ("-1", "65536", "x", "1e9"):
        yield Broken(f"fleet scheduler --port {port}", ("fleet", "scheduler", "--port", port))
    for name in ("../x", " ", "\x1b[31m", "x" * 65, "a/b", "-"):
        command = ("fleet", "worker", "--scheduler", "127.0.0.1:1", "--name", name)
        yield Broken(f"fleet worker --name {name[:9]!r}", command, codes=(2, 5))
    certs = ("fleet", "status", "--scheduler", "tls://127.0.0.1:1", "--certs", "{}/c")
    names = ("ca.pem", "node.pem", "node-key.pem")
    for what, raw in {
        "missing": None,
        "empty": b"",
        "binary": bytes(range(256)),
        "words": b"-----BEGIN X-----",
    }.items():
        files = {} if raw is None else {f"c/{name}": raw for name in names}
        yield Broken(f"certificates {what}", certs, files, codes=(2, 5))


def prompts() -> Iterator[Broken]:
    """Yield prompt files that cannot be read, next to a checkpoint with a tokenizer's name only."""
    command = ("run", "--model", "{}/m", "--prompts", "{}/p.jsonl", "--backend", "onnxruntime", "--dry-run")
    good = b'{"prompt": "hello"}\n'
    for name, raw in {
        "UTF-16": good.decode().encode("utf-16"), "UTF-32": good.decode().encode("utf-32"), "Latin-1": b'"\xe9"\n',
        "NULs": bytes(1000), "a lone surrogate": b'"\\ud800"\n', "NULs in strings": b'"a\0b"\n',
        "an open string": b'"abc\n', "a huge number": b"9" * 5000 + b"\n", "an enormous line": b'"' + b"x" * 60_000_000,
        "an open enormous line": b'"' + b"x" * 20_000_000, "numbers": b"1\n2\n", "lists": b"[]\n",
        "blank strings": b'" "\n', "a BOM alone": b"\xef\xbb\xbf", "objects nested": b'{"prompt": {"prompt": "x"}}\n',
        "many": good * 10_001, "the second line": good + b"{\n",
    }.items():  # fmt: skip
        yield Broken(f"prompts.jsonl {name}", command, {**checkpoint_files(), "p.jsonl": raw}, "p.jsonl")
    plain = (*command[:4], "{}/p.txt", *command[5:])
    for name, raw in {"NULs": bytes(1000), "UTF-16": "hello\n".encode("utf-16"), "a long line": b"x" * 60_000_000,
                      "a BOM alone": b"\xef\xbb\xbf"}.items():  # fmt: skip
        yield Broken(f"prompts.txt {name}", plain, {**checkpoint_files(), "p.txt": raw}, "p.txt")
    yield Broken("prompts a folder", plain, {**checkpoint_files(), "p.txt/x": b""}, "p.txt")
    yield Broken("prompts nowhere", plain, checkpoint_files(), "p.txt")


def plots() -> Iterator[Broken]:
    """Yield folders that no chart can be drawn into, and runs with nothing to draw."""
    yield Broken("plots into a file", ("table", "{}/run", "--plots", "{}/run/run.json"), run_files(), "run.json")
    below = ("table", "{}/run", "--plots", "{}/run/run.json/x")
    yield Broken("plots below a file", below, run_files(), "run.json")
    yield Broken("plots into nothing", ("table", "{}/run", "--plots", "/proc/nothing/x"), run_files(), "/proc")
    long = ("table", "{}/run", "--plots", "{}/" + "x" * 300)
    yield Broken("plots into a long name", long, run_files(), "xxx")
    broken = {**run_files(), "run/samples.jsonl": b"{\n\n"}
    yield Broken("plots of a broken run", ("table", "{}/run", "--plots", "{}/p"), broken, "samples.jsonl")
