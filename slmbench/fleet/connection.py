"""How a client reaches the machines, through Dask's scheduler. Only this module and ``dask_nodes`` know Dask.

A call is one of Dask's ``broadcast`` messages to one worker: plain msgpack with text, or bytes of a file, in it.
Nothing that comes back is unpickled: deserialising is off on this side, and so is msgpack's pickle extension.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from slmbench._version import __version__
from slmbench.errors import BadInputError, CannotRunError, one_line
from slmbench.fleet.messages import About, M, checked

#: Seconds to wait for an answer. Planning imports engines, which takes long on a small machine.
ANSWER_S = 180.0
#: Seconds of silence after which a measuring machine counts as lost. Its worker only has to read a file.
LOOK_WITHIN_S = 60.0
#: Seconds between two checks whether a machine that has not answered yet is still there.
PRESENCE_S = 2.0
_QUICK = ("about", "begin", "read", "forget")
CONNECT_S = 10.0
#: How Dask's errors begin: the connection as a Python object, then the error's class and number.
_OBJECT = re.compile(r"(in )?<[^<>]*>: (\w+: )?(\[Errno -?\d+\] )?")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def security(certs: Path | None) -> Any:
    """Return Dask's security object for a folder of :func:`slmbench.fleet.certs.make`, or None for plain TCP.

    Raises:
        BadInputError: a file is missing.
    """
    if certs is None:
        return None
    from distributed import Security

    files = {name: certs / f"{name}.pem" for name in ("ca", "node", "node-key")}
    for path in files.values():
        if not path.is_file():
            raise BadInputError(f"{path}: is missing; `slmbench fleet certs {certs}` makes a set")
    kinds = {
        f"tls_{who}_{what}": str(files[file])
        for who in ("client", "worker", "scheduler")
        for what, file in (("cert", "node"), ("key", "node-key"))
    }
    return Security(require_encryption=True, tls_ca_file=str(files["ca"]), **kinds)


def full_address(address: str, certs: Path | None, insecure: bool) -> str:
    """Return the address with its protocol.

    Raises:
        BadInputError: it is not valid, does not go with the certificates, or is unencrypted and leaves this machine.
    """
    full = address if "://" in address else f"{'tls' if certs else 'tcp'}://{address}"
    try:
        parts = urlsplit(full)
        good = parts.hostname is not None and parts.port is not None and parts.scheme in ("tcp", "tls")
        # Dask reads anything after the port as a part of it.
        good = good and not any((parts.path, parts.query, parts.fragment, parts.username, parts.password))
    except ValueError:
        good = False
    if not good:
        raise BadInputError(f"{address}: not a valid address; write tcp://HOST:PORT or tls://HOST:PORT")
    if (parts.scheme == "tls") != (certs is not None):
        raise BadInputError(f"{full}: use tls:// together with --certs")
    if parts.scheme == "tcp" and parts.hostname not in _LOOPBACK and not insecure:
        raise BadInputError(f"{full}: not encrypted; use --certs, or --insecure in a network you trust")
    return full


def why(error: BaseException) -> str:
    """Return what an error of Dask's says, as one line for people."""
    return one_line(_OBJECT.sub("", str(error))) or type(error).__name__


@dataclass(frozen=True)
class Reached:
    """A machine that answers, and its address."""

    address: str
    about: About


class Link:
    """An open connection to the scheduler."""

    def __init__(self, remote: Any) -> None:
        self._remote = remote
        # The machines seen at the last check: one check serves all calls that wait.
        self._present: set[str] = set()
        self._looked = 0.0
        self._looking = asyncio.Lock()

    async def machines(self) -> list[Reached]:
        """Return the machines in the order of their names.

        Raises:
            CannotRunError: one is of another version, sends garbage, or two have the same name.
        """
        found = [await self.reached(address) for address in await self.addresses()]
        other = [one for one in found if one.about.slmbench_version != __version__]
        if other:
            those = ", ".join(f"{one.about.name} has {one_line(one.about.slmbench_version)}" for one in other)
            raise CannotRunError(
                f"versions differ: here slmbench {__version__}, {those}; install the same version everywhere"
            )
        # Names become folders, and some systems ignore case in those.
        names = [one.about.name.lower() for one in found]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise CannotRunError(
                f"two machines are named {', '.join(sorted(twice))}; "
                "start one with another name (`slmbench fleet worker --name`)"
            )
        return sorted(found, key=lambda one: one.about.name)

    async def addresses(self) -> list[str]:
        """Return the addresses of the machines that the scheduler has now. Asks none of them.

        Raises:
            CannotRunError: the scheduler is gone.
        """
        try:
            identity = await asyncio.wait_for(self._remote.identity(), LOOK_WITHIN_S)
        except Exception as error:
            # As below: any error means that there was no answer.
            raise CannotRunError(one_line(f"the scheduler gave no answer: {error}")) from error
        return sorted(identity["workers"])

    async def reached(self, address: str) -> Reached:
        """Return what the machine at an address says about itself.

        Raises:
            CannotRunError: it is gone, or sends garbage.
        """
        return Reached(address, await self.call(address, About, address, op="about"))

    async def call(self, address: str, kind: type[M], machine: str, *, op: str, **fields: str | int | bytes) -> M:
        """Ask one machine.

        Raises:
            CannotRunError: it is gone, too slow, or its answer is not valid.
        """
        message = {"op": f"slmbench_{op}", **fields}
        asking = asyncio.ensure_future(self._remote.broadcast(msg=message, workers=[address], on_error="raise"))
        try:
            answers = await self._unless_gone(asking, address, LOOK_WITHIN_S if op in _QUICK else ANSWER_S)
        except Exception as error:
            # The scheduler passes a worker's error on as text, and Dask raises it as any class: all of them mean that
            # this machine gave no answer.
            raise CannotRunError(one_line(f"machine {machine}: gave no answer: {why(error)}")) from error
        finally:
            asking.cancel()
        return checked(kind, answers.get(address) if isinstance(answers, dict) else None, machine)

    async def _unless_gone(self, asking: asyncio.Future[Any], address: str, within_s: float) -> Any:
        """Return the answer, unless it takes too long or the machine has left the fleet.

        The scheduler itself would try to reach a machine that is gone for half a minute.
        """
        until = time.monotonic() + within_s
        while not (await asyncio.wait([asking], timeout=PRESENCE_S))[0]:
            if time.monotonic() > until:
                raise TimeoutError(f"nothing in {within_s:.0f} s")
            async with self._looking:
                if time.monotonic() > self._looked + PRESENCE_S:
                    self._present, self._looked = set(await self.addresses()), time.monotonic()
            if address not in self._present:
                raise OSError("it has left the fleet")
        return asking.result()


@asynccontextmanager
async def opened(address: str, certs: Path | None) -> AsyncIterator[Link]:
    """Yield a connection to the scheduler at the address.

    Raises:
        CannotRunError: nothing listens there, or the certificates do not match.
    """
    import dask
    from distributed import rpc

    secure = security(certs)
    arguments = secure.get_connection_args("client") if secure else {}
    with dask.config.set({"distributed.scheduler.pickle": False, "distributed.comm.timeouts.connect": CONNECT_S}):
        async with rpc(address, deserialize=False, connection_args=arguments) as remote:
            try:
                await asyncio.wait_for(remote.identity(), CONNECT_S + 5)
            except (OSError, TimeoutError, ssl.SSLError) as error:
                raise CannotRunError(
                    f"{address}: no fleet scheduler answers: {why(error.__cause__ or error)}"
                ) from error
            yield Link(remote)
