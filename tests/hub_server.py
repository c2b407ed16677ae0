"""A server on the loopback that answers as the Hub does, and processes that ask it.

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
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

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
        files = [
            {"rfilename": path.relative_to(folder).as_posix(), "size": path.stat().st_size}
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]
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


@contextmanager
def serving() -> Iterator[Hub]:
    """Run a server without repositories."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Outcome:
    """What one process printed and how it ended."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code, self.error = done.returncode, done.stderr.strip()
        self.checkpoint: dict[str, Any] = json.loads(done.stdout) if done.stdout.strip() else {}


def environment_for(url: str, home: Path) -> dict[str, str]:
    """Return the environment of a process that asks this server, and no other, for models."""
    environment = os.environ | {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    environment.pop("HF_HUB_OFFLINE", None)
    for name in [name for name in environment if name.lower().endswith("_proxy")]:
        del environment[name]
    return environment


def resolve(url: str, home: Path, reference: str, **options: Any) -> Outcome:
    """Resolve a reference in a process of its own."""
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
    environment = environment_for(url, home)
    return Outcome(
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    )
