"""Which names of TensorRT's Python bindings exist, by version: looked up in NVIDIA's own wheels.

The bindings come from PyPI, without the libraries that they bind, which only NVIDIA's index has.
They are imported all the same, in a process of their own, on top of empty stand-ins for those
libraries: enough to ask for names, not to call anything.

    .venv/bin/python -m tests.gpu_service.builder.tensorrt_bindings

writes tensorrt_names.json anew. Needs the network, gcc and readelf; some seconds.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

NAMES = Path(__file__).parent / "tensorrt_names.json"
# The first and the last of each generation that we support, as of this writing.
DISTRIBUTIONS = {
    "8.6.1": "tensorrt-bindings",  # of 8.6.0 there are no bindings without 800 MB of libraries
    "10.1.0": "tensorrt-cu12-bindings",
    "10.16.1.11": "tensorrt-cu13-bindings",
    "11.4.0.106": "tensorrt-cu13-bindings",
}
LOOK_UP = """
import ctypes, importlib, json, sys
folder, standins, names = json.load(sys.stdin)
for path in standins:
    ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
sys.path.insert(0, folder)
module = importlib.import_module("tensorrt_bindings")

def exists(name):
    found = module
    for part in name.split("."):
        found = getattr(found, part, None)
        if found is None and part != name.split(".")[-1]:
            return False
    return found is not None

print(json.dumps([name for name in names if exists(name)]))
"""
# Symbols that belong to the system and not to TensorRT's libraries.
SYSTEM_SYMBOL = re.compile(r"_?Py|_ITM|__|_Unwind|dl|pthread")


class NoWheelError(Exception):
    """This Python has no wheel of that version."""


def existing(version: str, names: Iterable[str]) -> list[str]:
    """Those of some dotted names that a version's bindings have. Raises NoWheelError."""
    with tempfile.TemporaryDirectory() as folder:
        unpacked = _download(version, Path(folder))
        standins = _standins(unpacked / "tensorrt_bindings" / "tensorrt.so", Path(folder))
        question = json.dumps([str(unpacked), standins, sorted(names)])
        answer = subprocess.run(
            [sys.executable, "-c", LOOK_UP], input=question, capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        found: list[str] = json.loads(answer.stdout)
        return found


def _download(version: str, folder: Path) -> Path:
    command = [
        sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet",
        "--no-deps", "--only-binary=:all:", "--dest", str(folder),
        f"{DISTRIBUTIONS[version]}=={version}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if not wheels:
        raise NoWheelError(done.stderr)
    unpacked = folder / "unpacked"
    with zipfile.ZipFile(wheels[0]) as archive:
        archive.extractall(unpacked)
    return unpacked


def _standins(library: Path, folder: Path) -> list[str]:
    """Libraries of the names that `library` needs, with the symbols that it looks for."""
    needed = re.findall(r"\[(libnv.*)\]", _output("readelf", "-d", str(library)))
    undefined = re.findall(r"UND (\w+)$", _output("readelf", "-sW", str(library)), re.MULTILINE)
    symbols = {symbol for symbol in undefined if not SYSTEM_SYMBOL.match(symbol)}
    source = "".join(f"void* {symbol}(void) {{ return 0; }}\n" for symbol in sorted(symbols))
    paths = [folder / name for name in needed]
    for path in paths:
        command = [
            "gcc", "-shared", "-fPIC", "-w", "-x", "c", "-", "-o", str(path),
            f"-Wl,-soname,{path.name}",
        ]  # fmt: skip
        subprocess.run(command, input=source, text=True, check=True)
    return [str(path) for path in paths]


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main() -> None:
    """Look up every name that the product uses, for every version."""
    from .tensorrt_usage import used_names

    wanted = {name for version in DISTRIBUTIONS for name in used_names(version)}
    found = {version: existing(version, wanted) for version in DISTRIBUTIONS}
    NAMES.write_text(json.dumps(found, indent=1) + "\n")
    for version, names in found.items():
        print(version, len(names), "missing:", sorted(wanted - set(names)))


if __name__ == "__main__":
    main()
