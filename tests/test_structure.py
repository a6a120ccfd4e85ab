"""The house rules that a machine can hold: who imports whom, how long things are, that every flag is read."""
import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("network", "datasets", "optim", "attacks", "metrics")
MAY_IMPORT = {
    "main": {"engine", *PACKAGES, "utils"}, "predict": {"engine", *PACKAGES, "utils"},
    "demo": {"main", "engine", *PACKAGES, "utils"}, "engine": {*PACKAGES, "utils"},
    **{package: {"utils"} for package in PACKAGES}, "utils": set(),
}
OURS = set(MAY_IMPORT) | {"tests", "benchmarks"}
FILES = [path for name in MAY_IMPORT for path in (*ROOT.glob(f"{name}.py"), *(ROOT / name).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Top-level names of ours that a file imports; relative imports stay in the package."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names & OURS


def test_there_are_files():
    assert len(FILES) > 30


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert imported(path) - {room} <= MAY_IMPORT[room]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_short(path):
    text = path.read_text()
    limit = {"main.py": 120}.get(path.name, 350 if "backbone" in path.parts else 200)
    assert text.count("\n") <= limit
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, node.name


def test_every_flag_is_read():
    from engine.options import build_parser

    engine = "".join(path.read_text() for path in [ROOT / "main.py", *(ROOT / "engine").glob("*.py")])
    flags = [action.dest for action in build_parser()._actions if action.dest != "help"]
    assert len(flags) > 40
    assert [flag for flag in flags if f"opts.{flag}" not in engine] == []


def test_every_requirement_has_its_reason():
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    assert len(lines) >= 8 and all("  # " in line for line in lines)


def test_ci_calls_what_the_readme_names():
    assert "make lint test" in (ROOT / ".ci" / "run").read_text()
    readme = (ROOT / "README.md").read_text()
    assert "make demo" in readme and "make test" in readme
