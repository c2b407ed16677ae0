"""Whether this interpreter can run slmbench at all. Any Python 3 can read this file."""

import sys

OLDEST = (3, 11)


def check_interpreter(version, largest):  # type: ignore[no-untyped-def]  # an old Python reads it
    """Raise ImportError where the version is too old or the integers of 32 bits; as a command, end in one line."""
    found = "{} is {}".format(sys.executable, ".".join(str(part) for part in version))
    if tuple(version[:2]) < OLDEST:
        reason = f"Python 3.11 or newer is needed, {found}; make an environment of a newer one: python3.12 -m venv .venv"
    elif largest < 2**32:
        reason = f"a 64-bit Python is needed, {found} with 32 bits: no engine is built for those"
    else:
        return
    # What Python has in place of the path while it looks for the module of `python -m`.
    if sys.argv[:1] == ["-m"]:
        sys.stderr.write(f"slmbench: error: {reason}\n")
        raise SystemExit(5)
    raise ImportError(f"slmbench: {reason}")
