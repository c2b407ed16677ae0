"""Chores, one command each: ``nox -s lint``, ``tests``, ``fast``, ``package``, ``bench``."""

import nox

nox.options.sessions = ["lint", "fast"]
nox.options.reuse_existing_virtualenvs = True


@nox.session
def lint(session: nox.Session) -> None:
    """Style, types, layers."""
    session.install("-e", ".[test]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("lint-imports")
    session.run("vulture")


@nox.session(python=["3.11", "3.12", "3.13"])
def fast(session: nox.Session) -> None:
    """The tests that take seconds."""
    session.install("-e", ".[cpu,test]")
    session.run("pytest", "-m", "not slow and not hardware", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """All tests this machine can run."""
    session.install("-e", ".[cpu,optimum,test]")
    session.run("pytest", *session.posargs)


@nox.session
def tests_newest(session: nox.Session) -> None:
    """The tests of models, exporters and torch on the newest transformers, which optimum-intel does not allow."""
    session.install("-e", ".[cpu,test]")
    session.run("pip", "install", "--upgrade", "transformers", "huggingface-hub")
    session.run("pytest", "tests/models", "tests/export", "tests/backends", *session.posargs)


@nox.session
def package(session: nox.Session) -> None:
    """Build the wheel and the sdist."""
    session.install("build")
    session.run("python", "-m", "build")


@nox.session
def bench(session: nox.Session) -> None:
    """Run one benchmark script: ``nox -s bench -- benchmarks/NAME.py``."""
    session.install("-e", ".[cpu]")
    session.run("python", *session.posargs)
