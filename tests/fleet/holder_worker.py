"""A Dask worker that has no engines and only keeps artifacts: ``python holder_worker.py ADDRESS NAME``."""

from __future__ import annotations

import asyncio
import sys

from distributed import Worker

from slmbench._version import __version__
from slmbench.fleet.messages import About
from slmbench.fleet.receive_files import Holder
from slmbench.machine.fingerprint import collect


async def main(address: str, name: str) -> None:
    about = About(slmbench_version=__version__, name=name, fingerprint=collect(), devices=())
    holder = Holder(lambda: None)
    worker = Worker(address, name=name, nthreads=1, dashboard_address="127.0.0.1:0", dashboard=False, memory_limit=0)
    worker.handlers.update(holder.handlers() | {"slmbench_about": lambda: {"json": about.model_dump_json()}})
    async with worker:
        print("ready", flush=True)
        await worker.finished()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
