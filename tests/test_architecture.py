"""The shape of the tree, by machine: import direction, pure modules, file sizes, documentation,
and what a built wheel contains.

The import rules themselves are contracts of import-linter in pyproject.toml.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from importlinter import api

ROOT = Path(__file__).parent.parent
PACKAGES = ("protocol", "gateway", "gpu_service", "clients")
ARCHITECTURE = ROOT / "docs" / "ARCHITECTURE.md"
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
NOT_PURE = {"protocol.shm"}


def product_files() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and length in lines of every function of a file, nested ones included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def run(*command: str) -> str:
    """Output of a command that must succeed."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_imports_keep_to_the_contracts() -> None:
    call = (
        "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    )
    run(sys.executable, "-c", call)


def test_every_module_of_protocol_is_held_pure() -> None:
    contracts = api.read_configuration(str(ROOT / "pyproject.toml"))["contracts_options"]
    listed = {name for contract in contracts for name in contract.get("source_modules", ())}
    modules = {f"protocol.{p.stem}" for p in (ROOT / "protocol").glob("*.py")}
    assert modules - {"protocol.__init__"} - NOT_PURE <= listed


def test_no_file_is_too_long_to_read() -> None:
    sizes = {name_of(path): len(path.read_text().splitlines()) for path in product_files()}
    assert {name: size for name, size in sizes.items() if size > MAX_FILE_LINES} == {}


def test_no_function_is_too_long_to_read() -> None:
    sizes = {
        f"{name_of(path)}:{name}": size
        for path in product_files()
        for name, size in functions(path)
    }
    assert {name: size for name, size in sizes.items() if size > MAX_FUNCTION_LINES} == {}


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        name_of(p) for p in product_files() if not ast.get_docstring(ast.parse(p.read_text()))
    ]
    assert silent == []


def test_every_module_is_in_the_architecture_document() -> None:
    if not ARCHITECTURE.exists():
        return  # written last; from then on it has to be complete
    text = ARCHITECTURE.read_text()
    # A module goes by its path inside its package, `cpu/log_mel.py`; where two packages have one of
    # that name, it has to be there twice.
    paths = [p.relative_to(ROOT).parts[1:] for p in product_files() if p.name != "__init__.py"]
    modules = Counter("/".join(parts) for parts in paths)
    named = {m: len(re.findall(rf"(?<![\w.]){re.escape(m)}\b", text)) for m in modules}
    assert {module: count for module, count in modules.items() if named[module] < count} == {}


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    places = ("/home" + "/", "/work" + "/", "/root" + "/", "/Users" + "/")
    files = [p for folder in (*PACKAGES, "tests", "docs") for p in (ROOT / folder).rglob("*.*")]
    texts = {p: p.read_text() for p in files if p.suffix in {".py", ".md", ".toml", ".html"}}
    assert [name_of(p) for p, text in texts.items() if any(place in text for place in places)] == []


@pytest.mark.slow
def test_a_wheel_contains_the_four_packages_and_nothing_else(tmp_path: Path) -> None:
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT))
    (wheel,) = tmp_path.glob("earwire-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == set(PACKAGES)
    assert len(top) == len(PACKAGES) + 1
    assert {name_of(path) for path in product_files()} <= names
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
