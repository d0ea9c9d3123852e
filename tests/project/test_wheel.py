"""The compiled core as a file: what it needs of the system that loads it, and what it shows to others."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess

import pytest
from capabilities import HAS_COMPILED_CORE

pytestmark = pytest.mark.skipif(not HAS_COMPILED_CORE, reason="there is no compiled core here yet")

#: Libraries that are there wherever CPython runs with a C++ library; Python itself is already loaded.
ALLOWED = re.compile(r"(libc|libm|libpthread|libstdc\+\+|libgcc_s|ld-linux[-\w]*|ld-musl-\w+|libc\.musl-\w+)\.so\.\d+")


@pytest.fixture
def core_file() -> str:
    file = importlib.import_module("pipeline_executor._core").__file__
    assert file is not None
    return file


def output_of(*command: str) -> str:
    if shutil.which(command[0]) is None:
        pytest.skip(f"there is no {command[0]} here")
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_compiled_core_needs_no_library_beyond_those_of_c_and_cpp(core_file: str) -> None:
    dynamic = output_of("readelf", "--wide", "--dynamic", core_file)
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic)
    assert needed
    assert [library for library in needed if not ALLOWED.fullmatch(library)] == []


def test_the_compiled_core_exports_the_start_of_its_module_and_nothing_else(core_file: str) -> None:
    # Whatever else it exported could be taken for another library's function of the same name, and the reverse.
    symbols = output_of("nm", "--dynamic", "--defined-only", "--format=posix", core_file)
    assert [line.split()[0] for line in symbols.splitlines()] == ["PyInit__core"]


def test_the_compiled_core_has_no_executable_stack(core_file: str) -> None:
    (stack,) = re.findall(r"GNU_STACK.*", output_of("readelf", "--wide", "--segments", core_file))
    flags = re.findall(r"\b(R?W?E?)\s+0x\w+$", stack.strip())
    assert flags == ["RW"]
