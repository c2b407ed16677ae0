"""Hub checkpoints, against a server on the loopback that answers as the Hub does.

Each case runs in a process of its own: the Hub client reads its environment when it is imported.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from folders import CONFIG, make_folder

OLD, NEW = "a" * 40, "b" * 40


class Hub(ThreadingHTTPServer):
    """Repositories by id, each with folders by commit and branches that name commits."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, Path]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.gated: set[str] = set()
        self.served: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, *_: Any) -> None:
        """Stay quiet."""

    def _answer(self, *, body: bool) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        api = parts[:2] == ["api", "models"]
        parts = parts[2:] if api else parts
        name = "/".join(parts[:2])
        if name in self.server.gated:
            return self._error(403, "GatedRepo", "Access to this model is restricted")
        if name not in self.server.repositories:
            return self._error(401, "RepoNotFound", "Repository not found")
        commits = self.server.repositories[name]
        revision = parts[3] if len(parts) > 3 else "main"
        commit = self.server.branches[name].get(revision, revision)
        if commit not in commits:
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if api:
            return self._send(json.dumps(self._info(name, commit, commits[commit])).encode(), {}, body)
        file = commits[commit] / "/".join(parts[4:])
        if not file.is_file():
            return self._error(404, "EntryNotFound", "Entry not found")
        if body:
            self.server.served.append(file.name)
        content = file.read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit}
        return self._send(content, headers, body)

    def _info(self, name: str, commit: str, folder: Path) -> dict[str, Any]:
        files = [{"rfilename": path.name, "size": path.stat().st_size} for path in sorted(folder.iterdir())]
        return {"_id": "0", "id": name, "modelId": name, "sha": commit, "siblings": files, "private": False, "tags": []}

    def _send(self, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(200)
        for key, value in {**headers, "Content-Length": str(len(content)), "Accept-Ranges": "bytes"}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def _error(self, status: int, code: str, message: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    server = Hub()
    old = make_folder(tmp_path / "old")
    new = make_folder(tmp_path / "new", {**CONFIG, "rope_theta": 500.0})
    for folder in (old, new):
        (folder / "pytorch_model.bin").write_bytes(b"never fetched")
        (folder / "consolidated.safetensors").write_bytes(b"never fetched")
        (folder / "modeling.py").write_text("raise SystemExit('never run')")
        (folder / "tokenizer.json").write_text("{}")
    server.repositories["org/model"] = {OLD: old, NEW: new}
    server.branches["org/model"] = {"main": NEW, "v1": OLD}
    pickled = make_folder(tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    server.repositories["org/pickled"] = {NEW: pickled}
    server.repositories["org/bert"] = {NEW: make_folder(tmp_path / "bert", {**CONFIG, "model_type": "bert"})}
    server.branches["org/pickled"] = server.branches["org/bert"] = {"main": NEW}
    server.gated.add("org/gated")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


class Outcome:
    """What one process printed and how it ended."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code, self.error = done.returncode, done.stderr.strip()
        self.checkpoint: dict[str, Any] = json.loads(done.stdout) if done.stdout.strip() else {}


def resolve(url: str, home: Path, reference: str, **options: Any) -> Outcome:
    code = (
        "import json, sys\n"
        "from slmbench.models.checkpoint import resolve\n"
        "from slmbench.errors import SlmbenchError\n"
        "try:\n"
        f"    c = resolve({reference!r}, **{options!r})\n"
        "except SlmbenchError as error:\n"
        "    print(error, file=sys.stderr); sys.exit(error.exit_code)\n"
        "print(json.dumps(c.model_dump(mode='json') | {'path': str(c.path)}))\n"
    )
    environment = os.environ | {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    environment.pop("HF_HUB_OFFLINE", None)
    for name in [name for name in environment if name.lower().endswith("_proxy")]:
        del environment[name]
    return Outcome(
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    )


def test_a_hub_checkpoint_is_pinned_to_its_commit(hub: Hub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    found = resolve(hub.url, home, "org/model")
    assert found.code == 0, found.error
    assert found.checkpoint["name"] == "org/model"
    assert found.checkpoint["source"] == "hub"
    assert found.checkpoint["revision"] == NEW
    assert found.checkpoint["has_tokenizer"]
    assert Path(found.checkpoint["path"]).name == NEW
    # No pickle, no second copy of the weights, no code.
    assert set(hub.served) == {"config.json", "model.safetensors", "tokenizer.json"}
    tagged = resolve(hub.url, home, "org/model@v1")
    assert tagged.checkpoint["revision"] == OLD
    assert tagged.checkpoint["digest"] != found.checkpoint["digest"]
    by_option = resolve(hub.url, home, "org/model", revision=OLD)
    assert by_option.checkpoint == tagged.checkpoint


def test_offline_takes_what_is_cached(hub: Hub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    missing = resolve(hub.url, home, "org/model", offline=True)
    assert missing.code == 5
    assert "not in the Hub cache" in missing.error
    online = resolve(hub.url, home, "org/model")
    hub.served.clear()
    nowhere = "http://127.0.0.1:1"
    offline = resolve(nowhere, home, "org/model", offline=True)
    assert offline.checkpoint == online.checkpoint
    assert hub.served == []
    # An interrupted connection is told, with what helps.
    lost = resolve(nowhere, home, "org/model")
    assert lost.code == 5
    assert "--offline" in lost.error


@pytest.mark.parametrize(
    ("reference", "code", "part"),
    [
        ("org/nothing", 2, "no such model on the Hub"),
        ("org/model@v9", 2, "v9"),
        ("org/pickled", 2, "--convert-pickles"),
        ("org/bert", 2, "encoder-only"),
        ("org/gated", 5, "gated"),
    ],
)
def test_what_the_hub_cannot_give(hub: Hub, tmp_path: Path, reference: str, code: int, part: str) -> None:
    refused = resolve(hub.url, tmp_path / "home", reference)
    assert refused.code == code
    assert part in refused.error
    assert len(refused.error.splitlines()) == 1
    assert "model.safetensors" not in hub.served
