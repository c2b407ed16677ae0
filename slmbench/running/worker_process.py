"""The host's side of a worker: start it, ask it, suspend it, and tell how it died."""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, TypeVar

import psutil
from pydantic import ValidationError

from slmbench._version import __version__
from slmbench.errors import BadInputError, CannotRunError, SlmbenchError, one_line
from slmbench.records.schema import FailureReason
from slmbench.system.extras import install_itself
from slmbench.system.processes import child_environment
from slmbench.worker import protocol as p

#: Seconds an interpreter may take to say hello; on a cold disk the imports alone take many.
HELLO_TIMEOUT_S = 120.0
#: Seconds a worker may take to free its session before it is killed.
CLOSE_TIMEOUT_S = 20.0
#: Seconds that stopping a process may take to show; systems that do not show it at all are not waited for longer.
SUSPEND_TIMEOUT_S = 0.05
LOG_TAIL_LINES = 40
_LOG_TAIL_BYTES = 8192

R = TypeVar("R")


class WorkerError(SlmbenchError):
    """A worker did not do what it was asked: it failed, died or hung. Text: one line."""

    def __init__(self, reason: FailureReason, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


def log_path(folder: Path, case_key: str) -> Path:
    """Return the log file of a case: readable, safe on every file system, different for different keys."""
    readable = re.sub(r"[^A-Za-z0-9.=-]+", "_", case_key).strip("._")[:100]
    return folder / "logs" / f"{readable}-{hashlib.sha256(case_key.encode()).hexdigest()[:8]}.log"


def log_tail(log: Path, lines: int = LOG_TAIL_LINES, *, since: int = 0) -> str:
    """Return the last lines of a log, from byte ``since`` on, without control characters; empty when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(since, file.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(one_line(line) for line in text.splitlines()[-lines:])


def _opened(log: Path) -> IO[bytes]:
    try:
        # The run's folder is not made again here: where it is gone, its samples are gone with it.
        log.parent.mkdir(exist_ok=True)
        if log.is_symlink() or (log.exists() and not log.is_file()):
            # In a folder that somebody else made: replaced, not followed.
            log.unlink()
        return log.open("ab")
    except OSError as error:
        raise CannotRunError(f"{log}: cannot be written: {error.strerror}") from error


class Worker:
    """One running worker. Use it as a context manager: on leaving, the process is gone, whatever happened."""

    def __init__(self, log: Path, *, python: str | None = None, command: list[str] | None = None) -> None:
        """Start a worker; its first line is waited for when it is first asked, so that others can work meanwhile.

        ``python`` is the interpreter to run (this one by default); ``command`` replaces the whole command line.

        Raises:
            BadInputError: the interpreter cannot be started.
            CannotRunError: the log cannot be written, for the disk is full, or the folder that it lies in is gone.
        """
        self.log = log
        self._python = python or sys.executable
        self._suspended = False
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        with _opened(log) as log_file:
            # The workers of all loads of a case write to one log.
            self._log_start = log_file.seek(0, os.SEEK_END)
            self._process = self._spawn(command or [self._python, "-P", "-m", "slmbench.worker"], log_file)
        assert self._process.stdin
        assert self._process.stdout
        self._requests: IO[bytes] = self._process.stdin
        self._reader = threading.Thread(target=_pump, args=(self._process.stdout, self._lines), daemon=True)
        self._reader.start()
        self._greeted = False

    def greet(self) -> None:
        """Wait for the worker's first line, once.

        Raises:
            BadInputError: the interpreter has no slmbench, or one that speaks another protocol.
            WorkerError: it died or hung before it spoke.
        """
        if self._greeted:
            return
        try:
            self._hear_hello()
        except BaseException:
            self.kill()
            raise
        self._greeted = True

    def _spawn(self, command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        # A group of its own: Ctrl-C reaches the host alone, which then ends its workers in order.
        try:
            if sys.platform == "win32":
                flags = subprocess.CREATE_NEW_PROCESS_GROUP
                return subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, bufsize=0, creationflags=flags,
                    env=child_environment(),
                )  # fmt: skip
            # What a library set in this process behind Python's back (ggml sets KMP_BLOCKTIME) is no worker's.
            return subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, bufsize=0, process_group=0,
                env=dict(os.environ),
            )  # fmt: skip
        except OSError as error:
            raise BadInputError(f"{self._python}: cannot be started: {error.strerror}") from error

    def _hear_hello(self) -> None:
        deadline = time.monotonic() + HELLO_TIMEOUT_S
        while True:
            line = self._next_line(deadline, "start")
            if line is None:
                raise self._no_hello()
            # Site customisations of a strange environment may print before our first line: not ours, not fatal.
            with contextlib.suppress(ValidationError):
                hello = p.REPLY.validate_json(line)
                break
        if not isinstance(hello, p.Hello) or hello.protocol != p.PROTOCOL:
            found, speaks = (hello.slmbench, hello.protocol) if isinstance(hello, p.Hello) else ("another", "another")
            raise BadInputError(
                f"{self._python}: slmbench {found} (worker protocol {speaks}) there, {__version__} (protocol "
                f"{p.PROTOCOL}) here; install the same version"
            )

    def _no_hello(self) -> SlmbenchError:
        code = self._process.wait()
        if code < 0:
            return WorkerError(*explain_exit(code, reported=self._reported()))
        tail = log_tail(self.log, 3)
        if re.search(r"No module named '?slmbench", tail):
            return BadInputError(
                f"{self._python}: no slmbench there; install it: "
                f"{install_itself(number=__version__, pip=f'{self._python} -m pip')}"
            )
        if "Unknown option: -P" in tail:
            return BadInputError(f"{self._python}: is older than Python 3.11, the oldest that slmbench runs on")
        last = tail.splitlines()[-1:] or ["nothing in its log"]
        return WorkerError(FailureReason.ERROR, f"{self._python} does not start a worker: {last[0]}")

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Return whether the process still runs."""
        return self._process.poll() is None

    def ask(self, request: p.Request, expected: type[R], timeout_s: float) -> R:
        """Send a request and return its reply. A suspended worker is resumed first.

        Raises:
            WorkerError: the worker says so, died, or gave no answer within ``timeout_s`` (then it is killed).
            BadInputError: as :meth:`greet`.
        """
        self.resume()
        self.greet()
        try:
            self._requests.write(request.model_dump_json().encode() + b"\n")
        except OSError:
            raise self._death() from None
        line = self._next_line(time.monotonic() + timeout_s, request.do)
        if line is None:
            raise self._death()
        try:
            reply = p.REPLY.validate_json(line)
        except ValidationError:
            self.kill()
            raise WorkerError(
                FailureReason.ERROR, f"the worker answered {request.do} with something else than a reply"
            ) from None
        if isinstance(reply, p.Failed):
            raise WorkerError(reply.reason, reply.message)
        if not isinstance(reply, expected):
            self.kill()
            raise WorkerError(FailureReason.ERROR, f"the worker answered {request.do} with {reply.re}")
        return reply

    def _next_line(self, deadline: float, what: str) -> bytes | None:
        """Return the next line, or None at the end of the pipe."""
        try:
            return self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            self.kill()
            raise WorkerError(FailureReason.TIMEOUT, f"no answer to {what} in time; the worker was killed") from None

    def _reported(self) -> str:
        return log_tail(self.log, since=self._log_start)

    def _death(self) -> WorkerError:
        try:
            code = self._process.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return WorkerError(FailureReason.CRASHED, "the worker closed its pipe and had to be killed")
        return WorkerError(*explain_exit(code, reported=self._reported()))

    def suspend(self) -> None:
        """Stop the process where it stands, and wait until it does: its spinning threads disturb nobody."""
        if self._suspended:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            process.suspend()
            deadline = time.monotonic() + SUSPEND_TIMEOUT_S
            while process.status() == psutil.STATUS_RUNNING and time.monotonic() < deadline:
                time.sleep(0.0005)
        self._suspended = True

    def resume(self) -> None:
        """Let a suspended process go on."""
        if self._suspended:
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(self.pid).resume()
            self._suspended = False

    def close(self) -> None:
        """End the worker: politely first, by force if it does not answer."""
        if self.alive and self._greeted:
            try:
                self.ask(p.Close(), p.Closed, CLOSE_TIMEOUT_S)
                self._process.wait(CLOSE_TIMEOUT_S)
            except (WorkerError, subprocess.TimeoutExpired):
                # Its samples are on disk; an engine that cannot shut down takes nothing with it.
                pass
        self.kill()

    def kill(self) -> None:
        """End the process now and wait until it is gone. Works on a suspended one, and twice."""
        if self.alive:
            self._process.kill()
        self._process.wait()
        with contextlib.suppress(OSError):
            self._requests.close()
        if self._reader.is_alive() and self._reader is not threading.current_thread():
            self._reader.join(1.0)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.kill()


#: What a signal means, and what its user can try.
_SIGNALS = {
    "SIGILL": (
        "an instruction that this CPU or system does not permit",
        "reinstall the engine on this machine, so that it fits its CPU; with llama.cpp also --option repack=false",
    ),
    "SIGSEGV": ("a fault in the engine's memory", "another version of the engine, or --threads 1"),
    "SIGBUS": ("a file or a memory page that is gone", "look whether the disk or /dev/shm is full"),
    "SIGFPE": ("a division by zero in the engine", "another version of the engine"),
    "SIGABRT": ("the engine gave up", "another version or precision"),
    "SIGTERM": ("somebody ended it", "look for a job scheduler or a time limit"),
    "SIGXCPU": ("its CPU time was used up", "a larger limit (ulimit -t)"),
}
#: The same of Windows' exceptions (ntstatus.h).
_EXCEPTIONS = {
    0xC0000005: _SIGNALS["SIGSEGV"],
    0xC000001D: _SIGNALS["SIGILL"],
    0xC0000094: _SIGNALS["SIGFPE"],
    0xC0000135: ("a DLL is missing", "reinstall the engine; most need Microsoft's Visual C++ Redistributable"),
}


def explain_exit(code: int, who: str = "the worker", *, reported: str = "") -> tuple[FailureReason, str]:
    """Return reason and message (one line) for a process's exit code as ``subprocess`` gives it.

    ``reported`` is what the process printed: its last line ends the message. The message of a signal says what to try.
    """
    reason, message = _exit_in_words(code, who)
    last = _last_words(reported)
    return reason, f"{message}; the last line of its log: {last[:200]}" if last else message


def _last_words(reported: str) -> str:
    """Return the last line that was printed before Python's own report of a signal; without one, the place it names."""
    before, _, dump = reported.partition("Fatal Python error:")
    lines = [one_line(line) for line in before.splitlines() if line.strip()]
    frames = [one_line(line) for line in dump.splitlines() if line.startswith("  File ")]
    return next(iter(lines[-1:] + frames[:1]), "")


def _exit_in_words(code: int, who: str) -> tuple[FailureReason, str]:
    if sys.platform != "win32" and code < 0:
        name = _signal_name(-code)
        if -code == signal.SIGKILL:
            free = psutil.virtual_memory().available / 2**30
            return (
                FailureReason.KILLED,
                f"{who} was killed ({name}); most likely the system ran out of memory ({free:.1f} GiB free now); "
                "try: a smaller model, or fewer other programs",
            )
        if name not in _SIGNALS:
            return FailureReason.CRASHED, f"{who} died of {name}"
        meaning, remedy = _SIGNALS[name]
        return FailureReason.CRASHED, f"{who} died of {name} ({meaning}); try: {remedy}"
    if sys.platform == "win32" and code >= 0xC0000000:
        meaning, remedy = _EXCEPTIONS.get(code, ("", ""))
        said = f" ({meaning}); try: {remedy}" if meaning else ""
        return FailureReason.CRASHED, f"{who} died of exception 0x{code:08X}{said}"
    return FailureReason.CRASHED, f"{who} ended by itself with exit code {code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _pump(stream: IO[bytes], lines: queue.SimpleQueue[bytes | None]) -> None:
    """Move lines from a pipe to a queue; a thread of its own, because Windows cannot wait on pipes."""
    rest = b""
    with stream:
        while chunk := os.read(stream.fileno(), 65536):
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                lines.put(line)
    lines.put(None)


TIMEOUT_S = 300.0


def describe(
    python: str | None, distributions: Iterable[str], log: Path, *, backends: Iterable[str] = ()
) -> p.Described:
    """Return versions (slmbench, numpy, the given distributions and the backends', where installed), which of the
    backends cannot run there, and the machine's fingerprint.

    ``python`` is the interpreter of an arm, None for this one.

    Raises:
        BadInputError: the interpreter cannot be started, has no slmbench, or one that speaks another protocol.
        WorkerError: it failed.
    """
    wanted = tuple(dict.fromkeys(["slmbench", "numpy", *distributions]))
    with Worker(log, python=python) as worker:
        return worker.ask(p.Describe(distributions=wanted, backends=tuple(backends)), p.Described, TIMEOUT_S)
