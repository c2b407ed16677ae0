"""What a worker says of its interpreter: versions, backends that cannot run, the machine."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from slmbench.backend import load_backend
from slmbench.errors import BadInputError, CannotRunError, one_line
from slmbench.worker import protocol as p


def described(request: p.Describe) -> p.Described:
    """Return what was asked for."""
    from slmbench.plan.refusal_reasons import missing_distribution

    versions: dict[str, str] = {}
    lacking: dict[str, str] = {}
    wanted = list(request.distributions)
    for name in request.backends:
        try:
            backend = load_backend(name)
        except (BadInputError, CannotRunError) as error:
            lacking[name] = one_line(str(error))
            continue
        wanted += backend.distributions
        if reason := missing_distribution(backend):
            lacking[name] = reason
    for name in dict.fromkeys(wanted):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    machine = {}
    if request.machine:
        from slmbench.machine.fingerprint import collect

        machine = collect().model_dump(mode="json")
    return p.Described(versions=versions, lacking=lacking, python=platform.python_version(), machine=machine)
