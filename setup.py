"""Builds the one compiled module, `pipeline_executor._core`; everything else is declared in pyproject.toml.

The library also works without it, on its pure-Python core, so a build that cannot compile still installs:
it warns, and leaves the reason in the package, where `pipeline_executor.backend` finds it. Environment
variables decide otherwise:

PIPELINE_EXECUTOR_REQUIRE_CORE=1  no compiled core, no install (for CI and for whoever builds wheels)
PIPELINE_EXECUTOR_NO_CORE=1       do not compile
PIPELINE_EXECUTOR_KILL_POINTS=1   define the macro of that name: the core then stops where a fault test says
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
# Changes of these do not show in any source file, so they are noted in a file that the extension depends on.
SETTINGS_RECORD = "core_settings.txt"

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "initializedcheck": False,
    "cdivision": True,  # a division in a nogil function must not need the GIL to raise
}


def is_set(variable: str) -> bool:
    return os.environ.get(variable, "") not in ("", "0")


REQUIRED = is_set("PIPELINE_EXECUTOR_REQUIRE_CORE")


def reason_to_skip() -> str | None:
    """Why the core is not even tried, or None."""
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
        # No -march=native: a wheel runs on other machines than the one that built it.
        # -g0: what the interpreter was built with would add debugging information, three times the size of the code.
        extra_compile_args=["-std=c++17", "-O3", "-g0", "-fvisibility=hidden"],
        language="c++",
        # Lets setuptools go on when the file is missing afterwards.
        optional=not REQUIRED,
    )


class Build(build):
    """`build`, from an empty folder."""

    def run(self) -> None:
        # What an earlier build left here would go into the wheel: modules deleted since, an unwanted core.
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class BuildCore(build_ext):
    """`build_ext` that puts either the core or the reason for its absence into the package."""

    def build_extension(self, ext: Extension) -> None:
        module_file = Path(self.get_ext_fullpath(ext.name))
        record = module_file.with_name(FAILURE_RECORD)
        record.unlink(missing_ok=True)

        reason = reason_to_skip()
        if reason is None:
            try:
                self.compile_core(ext, module_file)
            # Whatever it was, from a missing Cython to a compiler's error: the pure core is there.
            except Exception as error:
                if REQUIRED:
                    raise
                reason = "compiling it failed: " + in_one_line(error)
                print(failure_banner(reason), file=sys.stderr, flush=True)
            else:
                return
        elif REQUIRED:
            raise CompileError(f"PIPELINE_EXECUTOR_REQUIRE_CORE is set, but {reason}")
        else:
            print(f"{PACKAGE}: {reason}; the pure-Python core will be used", file=sys.stderr, flush=True)

        # A core of an earlier build would not fit the modules of this one.
        module_file.unlink(missing_ok=True)
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(reason + "\n", encoding="utf-8")

    def compile_core(self, ext: Extension, module_file: Path) -> None:
        settings = self.note_settings(ext)
        inputs = [*ext.sources, *ext.depends, settings.as_posix()]
        if not (self.force or newer_group(inputs, module_file.as_posix(), "newer")):
            return

        # Imported here, so that a missing Cython is a failed compile like any other.
        from Cython.Build import cythonize

        # include_path: Cython would look for native.pxd beside pipeline_executor, and it is in _core/.
        # force: the decision was made above, from all files; Cython's own would miss the settings.
        (compiled,) = cythonize(
            [ext],
            build_dir=self.build_temp,
            compiler_directives=DIRECTIVES,
            include_path=[CORE.as_posix()],
            force=True,
        )
        ext.sources = compiled.sources
        self.force = True
        # Raised here, not swallowed by setuptools, so that the reason is kept.
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
        """For editable installs: the source tree has afterwards what the built package has, and no more."""
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
    # Its own text is mostly the command's many arguments.
    if isinstance(inner, subprocess.CalledProcessError):
        return f"{inner.cmd[0]} ended with exit status {inner.returncode}"
    return " ".join(f"{type(error).__name__}: {error}".split())


def failure_banner(reason: str) -> str:
    line = "*" * 100
    return (
        f"\n{line}\n"
        f"WARNING: {PACKAGE} is being installed WITHOUT its compiled core.\n"
        "It will work with the pure-Python one, and be slower.\n"
        f"{reason}\n"
        "The compiler's own words are above. It needs a C++17 compiler and the headers of this Python.\n"
        "PIPELINE_EXECUTOR_REQUIRE_CORE=1 makes this an error.\n"
        f"{line}\n"
    )


setup(ext_modules=[core_extension()], cmdclass={"build": Build, "build_ext": BuildCore})
