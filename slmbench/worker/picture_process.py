"""Pictures prepared in another process: what transformers loads for it must not be in the one that is measured."""

from __future__ import annotations

import json
import secrets
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Listener
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmbench.errors import BadInputError, CannotRunError, SlmbenchError, first_error_line
from slmbench.models.picture_processor import MakePixels, own_processor
from slmbench.worker.protocol import PictureProcess

#: What is raised here as it was raised there.
_KINDS: dict[str, type[SlmbenchError]] = {"input": BadInputError, "cannot": CannotRunError}


def listen(key: str) -> str | tuple[str, int]:
    """Prepare pictures for other processes that know the key, until this one ends; return where."""
    # Linux has names that are no files: nothing is left behind by a process that was killed.
    place = f"\0slmbench-{secrets.token_hex(16)}" if sys.platform == "linux" else ("127.0.0.1", 0)
    listener = Listener(place, authkey=key.encode())
    threading.Thread(target=_accept, args=(listener,), daemon=True).start()
    found: Any = listener.address
    return found if isinstance(found, tuple) else str(place)


def _accept(listener: Listener) -> None:
    while True:
        try:
            connection = listener.accept()
        except (AuthenticationError, EOFError, ConnectionError):
            continue
        threading.Thread(target=_serve, args=(connection,), daemon=True).start()


def _serve(connection: Any) -> None:
    """Answer one worker: its first message names the folder of a processor, each other one brings pictures."""
    with connection:
        try:
            make, settings = own_processor(Path(json.loads(connection.recv_bytes())))
        except Exception as error:  # whatever is wrong is the other side's result
            _send(connection, {}, **_failure(error))
            return
        _send(connection, {}, settings=settings)
        while True:
            try:
                _, pictures = _receive(connection)
            except (EOFError, OSError):
                return
            begin = time.perf_counter_ns()
            try:
                made = make(list(pictures.values()))
            except Exception as error:
                _send(connection, {}, **_failure(error))
            else:
                _send(connection, made, spent_ns=time.perf_counter_ns() - begin)


def _failure(error: Exception) -> dict[str, str]:
    kind = next((name for name, one in _KINDS.items() if isinstance(error, one)), "")
    return {"failure": str(error) if kind else f"preparing a picture: {first_error_line(error)}", "kind": kind}


def _send(connection: Any, arrays: Mapping[str, NDArray[Any]], **said: str | int) -> None:
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    told = [(name, array.dtype.str, array.shape) for name, array in whole.items()]
    connection.send_bytes(json.dumps({**said, "arrays": told}).encode())
    for array in whole.values():
        connection.send_bytes(_raw(array))


def _receive(connection: Any) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    said = json.loads(connection.recv_bytes())
    arrays = {name: np.empty(shape, dtype) for name, dtype, shape in said["arrays"]}
    for array in arrays.values():
        connection.recv_bytes_into(_raw(array))
    return said, arrays


def _raw(array: NDArray[Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


class ProcessorElsewhere:
    """The processor of a checkpoint in the process that prepares pictures."""

    def __init__(self, process: PictureProcess) -> None:
        self._process = process
        #: What the processor itself took for the last pictures; carrying them there and back is not in it.
        self.spent_ns = 0

    def own_processor(self, folder: Path) -> tuple[MakePixels, str]:
        """Return the same as :func:`slmbench.models.picture_processor.own_processor`; it raises the same.

        Raises:
            ChildProcessError: the process is gone.
        """
        try:
            self._connection = Client(self._process.address, authkey=self._process.key.encode())
            self._connection.send_bytes(json.dumps(str(folder.absolute())).encode())
        except (OSError, EOFError, AuthenticationError) as error:
            raise _gone(error) from error
        settings: str = self._heard()[0]["settings"]
        return self._make, settings

    def _make(self, pictures: Sequence[NDArray[np.uint8]]) -> Mapping[str, NDArray[Any]]:
        try:
            _send(self._connection, {str(place): picture for place, picture in enumerate(pictures)})
        except OSError as error:
            raise _gone(error) from error
        said, pixels = self._heard()
        self.spent_ns = said["spent_ns"]
        return pixels

    def _heard(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        try:
            said, arrays = _receive(self._connection)
        except (OSError, EOFError) as error:
            raise _gone(error) from error
        if "failure" in said:
            raise _KINDS.get(said["kind"], RuntimeError)(said["failure"])
        return said, arrays


def _gone(error: Exception) -> ChildProcessError:
    # As when an engine dies: it says nothing of what was measured before.
    return ChildProcessError(f"the process that prepares pictures is gone ({type(error).__name__}); its log says why")
