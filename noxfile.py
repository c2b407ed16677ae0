"""Chores, one command each: ``nox -s lint``, ``fast``, ``tests``, ``docs``, ``package``, ``main_job``, ``bench``,
``arm64``.

``.ci/run`` and the workflows in ``.github/`` run these, so that no step is written twice. With ``nox --no-venv`` a
session takes the environment that it is called from, and installs nothing.
"""

from pathlib import Path

import nox

nox.options.sessions = ["lint", "fast"]
nox.options.reuse_existing_virtualenvs = True

#: File → the schema that check-jsonschema brings for it.
SCHEMAS = {
    ".github/workflows/*.yml": "vendor.github-workflows",
    "action.yml": "vendor.github-actions",
    ".github/dependabot.yml": "vendor.dependabot",
    ".github/ISSUE_TEMPLATE/[!c]*.yml": "vendor.github-issue-forms",
    ".github/ISSUE_TEMPLATE/config.yml": "vendor.github-issue-config",
    "CITATION.cff": "vendor.citation-file-format",
}


def install(session: nox.Session, *words: str) -> None:
    """Install into the session's environment, if it has one of its own."""
    if session.venv_backend != "none":
        session.install(*words)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, types, layers, dead code, and the files that GitHub reads."""
    install(session, "-e", ".[test]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("lint-imports")
    session.run("vulture")
    for pattern, schema in SCHEMAS.items():
        files = sorted(str(path) for path in Path.cwd().glob(pattern))
        session.run("check-jsonschema", "--builtin-schema", schema, *files)


@nox.session(python=["3.11", "3.12", "3.13", "3.14"])
def fast(session: nox.Session) -> None:
    """The tests that take seconds."""
    install(session, "-e", ".[cpu,export,test]")
    session.run("pytest", "-m", "not slow and not hardware", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """All tests this machine can run."""
    install(session, "-e", ".[cpu,optimum,test]")
    session.run("pytest", *session.posargs)


@nox.session
def tests_newest(session: nox.Session) -> None:
    """The tests of models, exporters and torch on the newest transformers, which optimum-intel does not allow."""
    install(session, "-e", ".[cpu,export,test]")
    session.run("pip", "install", "--upgrade", "transformers", "huggingface-hub")
    session.run("pytest", "tests/models", "tests/export", "tests/backends", *session.posargs)


@nox.session(venv_backend="none")
def arm64(session: nox.Session) -> None:
    """arm64 Linux under qemu, on x86-64 Linux as root: tests without torch, proofs on ONNX Runtime and OpenVINO."""
    session.run(".ci/environments", "arm64", *session.posargs, external=True)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site into site/; a warning is an error."""
    install(session, "-e", ".[docs]")
    # The theme announces its end of life (see CONTRIBUTING.md) at each build.
    session.run("mkdocs", "build", "--strict", "--quiet", *session.posargs, env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def main_job(session: nox.Session) -> None:
    """Do what the README's first command does: install the engines, measure the default pair."""
    install(session, ".[cpu]")
    session.run("slmbench", "run", *session.posargs)


@nox.session
def doctor(session: nox.Session) -> None:
    """Tell what this machine is."""
    install(session, ".[cpu]")
    session.run("slmbench", "doctor", "--json")


@nox.session
def package(session: nox.Session) -> None:
    """Build the wheel and the sdist into dist/; a tag that is given must be the version."""
    install(session, "build", "twine")
    session.run("python", "-m", "build")
    session.run("twine", "check", "--strict", *sorted(str(path) for path in Path("dist").glob("slmbench-*")))
    if session.posargs:
        source = Path("slmbench/_version.py").read_text(encoding="utf-8")
        if f'"{session.posargs[0].removeprefix("v")}"' not in source:
            session.error(f"{session.posargs[0]} is not the version in slmbench/_version.py")


@nox.session
def bench(session: nox.Session) -> None:
    """Run one benchmark script: ``nox -s bench -- benchmarks/NAME.py``."""
    install(session, "-e", ".[cpu,export]")
    session.run("python", *session.posargs)
