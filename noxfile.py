"""The inner loop: `nox -s tests`, `lint`, `types`, `docs`, `bench`, `thorough`, `format`; see CONTRIBUTING.md.

The environments are kept under .nox/ and brought up to date when pyproject.toml or setup.py has changed. What follows
`--` goes to the tool: `nox -s tests -- tests/rules/test_rules.py -k r3`.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence
from pathlib import Path

import nox

nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "tests"]

ROOT = Path(__file__).parent
PROJECT = nox.project.load_toml("pyproject.toml")["project"]
EXTRAS = PROJECT["optional-dependencies"]


def requirements(extra: str) -> list[str]:
    """What an extra asks for, with the extras of this package that it names in place of their names."""
    found: list[str] = []
    for requirement in EXTRAS[extra]:
        name, _, inner = requirement.partition("[")
        if name == PROJECT["name"]:
            found += requirements(inner.rstrip("]"))
        else:
            found.append(requirement)
    return found


def tool(name: str) -> str:
    """The requirement of a tool, as the extra `dev` holds it."""
    (found,) = [requirement for requirement in EXTRAS["dev"] if requirement.startswith((f"{name}~", f"{name}>"))]
    return str(found)


def install_once(session: nox.Session, *arguments: str) -> bool:
    """Install these, unless this environment has them since before the last change of the files that say what they
    are. Tells whether it did."""
    state = hashlib.sha256(repr(arguments).encode())
    for path in ("pyproject.toml", "setup.py"):
        state.update((ROOT / path).read_bytes())
    record = Path(session.virtualenv.location) / "installed"
    if record.exists() and record.read_text() == state.hexdigest():
        return False
    session.install(*arguments)
    record.write_text(state.hexdigest())
    return True


def install_package(session: nox.Session, extra: str) -> None:
    """An editable install, whose core is compiled anew when its sources have changed."""
    if not install_once(session, "--editable", f".[{extra}]", "Cython>=3.2", "setuptools>=77"):
        session.run("python", "setup.py", "--quiet", "build_ext", "--inplace")


def pytest(session: nox.Session, *arguments: str | Path) -> None:
    session.run("python", "-m", "pytest", "-n", "auto", *arguments, *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """The tests of the gate, or those that are named after `--`."""
    install_package(session, "test")
    pytest(session)


@nox.session
def thorough(session: nox.Session) -> None:
    """What the gate leaves out: further combinations, all planted faults, more items."""
    install_package(session, "test")
    pytest(session, "-m", "thorough and not slow")


@nox.session
def docs(session: nox.Session) -> None:
    """The tests that compare README.md and docs/ with what the program does."""
    install_package(session, "test")
    pytest(session, "tests/docs")


@nox.session
def bench(session: nox.Session) -> None:
    """`python -m benchmarks`; `-- --list` tells its rows. It wants a machine that has nothing else to do."""
    install_package(session, "bench")
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """ruff, and whether `nox -s format` would change a file."""
    install_once(session, tool("ruff"), tool("clang-format"))
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check", *session.posargs)
    session.run("clang-format", "--dry-run", "-Werror", *cpp_sources())


@nox.session
def types(session: nox.Session) -> None:
    """mypy --strict, with the types of the packages that the tests use."""
    install_once(session, tool("mypy"), *PROJECT["dependencies"], *requirements("test"))
    session.run("mypy", *session.posargs)


@nox.session(name="format")
def format_sources(session: nox.Session) -> None:
    """Write Python as ruff and C++ as clang-format want it."""
    install_once(session, tool("ruff"), tool("clang-format"))
    session.run("ruff", "format")
    session.run("clang-format", "-i", *cpp_sources())


def cpp_sources() -> Sequence[str]:
    listed = subprocess.run(
        ["git", "ls-files", "*.hpp", "*.h", "*.cpp"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return listed.stdout.split()
