"""Build the compiled module `pipeline_executor._core`. Everything else is declared in pyproject.toml.

The library also works without the compiled core, on its pure-Python core. So if compiling fails, the install goes on.
It warns, and writes the reason into the package, where `pipeline_executor.backend` reads it. Environment variables
change this:

    PIPELINE_EXECUTOR_REQUIRE_CORE=1    fail if the core cannot be compiled, for CI and for building wheels
    PIPELINE_EXECUTOR_NO_CORE=1         do not compile
    PIPELINE_EXECUTOR_KILL_POINTS=1     define the macro of that name, so that fault tests can stop the core at marked
                                        points
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError
from setuptools.modified import newer_group

CORE = Path("_core")
PACKAGE = "pipeline_executor"
FAILURE_RECORD = "_core_build_failure.txt"  # pipeline_executor/backend.py reads it under this name
# The compiler's settings are in no source file. They are written to this file, and the extension depends on it, so that
# changed settings compile the core again.
SETTINGS_RECORD = "core_settings.txt"

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "initializedcheck": False,
    "cdivision": True,  # Python's division by zero raises, which a nogil function cannot do
}


def is_set(variable: str) -> bool:
    return os.environ.get(variable, "") not in ("", "0")


REQUIRED = is_set("PIPELINE_EXECUTOR_REQUIRE_CORE")


def reason_to_skip() -> str | None:
    """Return why this build does not compile the core; None if it does."""
    if is_set("PIPELINE_EXECUTOR_NO_CORE"):
        return "PIPELINE_EXECUTOR_NO_CORE was set when the package was built"
    if not sys.platform.startswith("linux"):
        return f"there is no compiled core for {sys.platform} yet"
    if sys.implementation.name != "cpython":
        return f"the compiled core needs CPython, this is {sys.implementation.name}"
    return None


def core_extension() -> Extension:
    kill_points = [("PIPELINE_EXECUTOR_KILL_POINTS", "1")] if is_set("PIPELINE_EXECUTOR_KILL_POINTS") else []
    parts = [path for suffix in ("pxi", "pxd", "hpp", "h") for path in sorted(CORE.rglob(f"*.{suffix}"))]
    return Extension(
        f"{PACKAGE}._core",
        sources=[(CORE / "core.pyx").as_posix()],
        depends=["setup.py", *(path.as_posix() for path in parts)],
        include_dirs=[CORE.as_posix(), (CORE / "include").as_posix()],
        define_macros=kill_points,
        # No -march=native: a wheel also runs on other machines than the one that built it.
        # -g0: the interpreter's own flags would add debugging information, three times the size of the code.
        extra_compile_args=["-std=c++17", "-O3", "-g0", "-fvisibility=hidden"],
        language="c++",
        # Without this, setuptools fails if the compiled file does not exist afterwards.
        optional=not REQUIRED,
    )


class Build(build):
    """The command `build`, starting from an empty folder."""

    def run(self) -> None:
        # Files of an earlier build would go into the wheel: modules deleted since, or a core that is not wanted.
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class BuildCore(build_ext):
    """The command `build_ext`. It puts either the core or the reason for its absence into the package."""

    def build_extension(self, ext: Extension) -> None:
        module_file = Path(self.get_ext_fullpath(ext.name))
        record = module_file.with_name(FAILURE_RECORD)
        record.unlink(missing_ok=True)

        reason = reason_to_skip()
        if reason is None:
            try:
                self.compile_core(ext, module_file)
            # Any error, from a missing Cython to a message of the compiler: the pure core still works.
            except Exception as error:
                if REQUIRED:
                    raise
                reason = "compiling it failed: " + in_one_line(error)
                print(failure_banner(reason), file=sys.stderr, flush=True)
            else:
                return
        elif REQUIRED:
            raise CompileError(f"PIPELINE_EXECUTOR_REQUIRE_CORE is set, but {reason}; unset it to install without")
        else:
            print(f"{PACKAGE}: {reason}; the pure-Python core will be used", file=sys.stderr, flush=True)

        # The core of an earlier build may not fit the modules of this one.
        module_file.unlink(missing_ok=True)
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(reason + "\n", encoding="utf-8")

    def compile_core(self, ext: Extension, module_file: Path) -> None:
        settings = self.note_settings(ext)
        inputs = [*ext.sources, *ext.depends, settings.as_posix()]
        if not (self.force or newer_group(inputs, module_file.as_posix(), "newer")):
            return

        # Imported here, so that a missing Cython is handled like an error of the compiler.
        from Cython.Build import cythonize

        # include_path: native.pxd is in _core/. By default Cython looks for it beside pipeline_executor.
        # force: newer_group() above decided with all inputs. Cython's own decision would not notice changed settings.
        (compiled,) = cythonize(
            [ext],
            build_dir=self.build_temp,
            compiler_directives=DIRECTIVES,
            include_path=[CORE.as_posix()],
            force=True,
        )
        ext.sources = compiled.sources
        self.force = True
        # While `optional` is true, setuptools hides the error, and the reason would be lost.
        ext.optional = False
        try:
            super().build_extension(ext)
        finally:
            ext.optional = not REQUIRED

    def note_settings(self, ext: Extension) -> Path:
        path = Path(self.build_temp, SETTINGS_RECORD)
        compiler = [os.environ.get(name, "") for name in ("CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS")]
        text = f"{ext.define_macros}\n{ext.extra_compile_args}\n{compiler}\n{DIRECTIVES}\n"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return path

    def copy_extensions_to_source(self) -> None:
        """Copy the core, or the reason for its absence, into the source tree, for an editable install.

        Also remove the other of the two from there, which an earlier build may have left.
        """
        super().copy_extensions_to_source()
        built = Path(self.build_lib, PACKAGE, FAILURE_RECORD)
        for ext in self.extensions:
            module_file = Path(self.get_ext_fullpath(ext.name))  # in the source tree now
            record = module_file.with_name(FAILURE_RECORD)
            if built.exists():
                module_file.unlink(missing_ok=True)
                shutil.copyfile(built, record)
            else:
                record.unlink(missing_ok=True)


def in_one_line(error: Exception) -> str:
    inner = error.args[0] if error.args else None
    # The text of a CalledProcessError is mostly the long command line.
    if isinstance(inner, subprocess.CalledProcessError):
        return f"{inner.cmd[0]} ended with exit status {inner.returncode}"
    return " ".join(f"{type(error).__name__}: {error}".split())


def failure_banner(reason: str) -> str:
    line = "*" * 100
    return (
        f"\n{line}\n"
        f"WARNING: {PACKAGE} is being installed WITHOUT its compiled core.\n"
        "It will work with the pure-Python core, which is slower.\n"
        f"{reason}\n"
        "The compiler's messages are above. The core needs a C++17 compiler and the headers of this Python.\n"
        "Set PIPELINE_EXECUTOR_REQUIRE_CORE=1 to make this an error.\n"
        f"{line}\n"
    )


setup(ext_modules=[core_extension()], cmdclass={"build": Build, "build_ext": BuildCore})
