"""The house rules that a machine can hold: who imports whom, how long things are, that every flag is read."""
import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FIVE = ("network", "datasets", "optim", "attacks", "metrics")
TOP = {
    "main": {"engine"}, "predict": {"engine", *FIVE, "utils"}, "export": {"engine", "network", "utils"},
    "demo": {"main", "engine", "utils"},
    "docs": {"engine"}, "engine": {*FIVE, "utils"},
    **{asking: {"engine", "main", *FIVE, "utils"} for asking in ("experiments", "benchmarks")},
    **{package: {"utils"} for package in FIVE}, "utils": set(),
}
# Inside engine. `setup` imports the plan of attacks, so that what they can't be is refused before data is read.
ROOMS = {
    "setup": {"options", "run", "evaluation"}, "options": set(), "run": {"options"},
    "training": {"evaluation", "run", "options"}, "evaluation": {"records", "options"}, "records": set(),
    "report": {"records", "page"}, "page": {"records"}, "verify": {"records"}, "prediction": {"evaluation"},
    "about": set(),
}
OPTIONS_OF_EVALUATION = {"engine.options.declare", "engine.options.types"}  # plan.py makes attacks of options
# The files that see options; everything else has explicit arguments, so that a notebook can call it.
SEE_OPTIONS = {"engine/setup.py", "engine/evaluation/plan.py", "engine/report/build.py", "engine/training/build.py",
               "engine/run/resume.py", "engine/run/folder.py"}
FILES = [path for name in TOP for path in (*ROOT.glob(f"{name}.py"), *(ROOT / name).rglob("*.py"))]
ENGINE = [path for path in FILES if path.is_relative_to(ROOT / "engine")]


def imports(path: Path) -> set[str]:
    """Return the modules that a file imports, inside functions too: a.b for `from a.b import c`, `import a.b`.

    `from a import b` is a.b where that is a file or a folder of ours; relative imports are made absolute.
    """
    package, names = path.relative_to(ROOT).parent.parts, set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [*package[:len(package) - node.level + 1]] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = ROOT.joinpath(*module.split("."), alias.name)
                is_module = inner.is_dir() or inner.with_suffix(".py").is_file()
                names.add(f"{module}.{alias.name}" if is_module else module)
    return names


def room_of(module: str) -> str:
    """Return the room of engine that a module is in: options for engine.options.flags."""
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    place = path.relative_to(ROOT).parts[0].removesuffix(".py")
    ours = {module.split(".")[0] for module in imports(path)} & {*TOP, "tests"}
    assert ours - {place} <= TOP[place]


@pytest.mark.parametrize("path", ENGINE, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_of_engine_import_one_way(path):
    room = path.relative_to(ROOT / "engine").parts[0].removesuffix(".py")
    others = {room_of(module) for module in imports(path) if module.split(".")[0] == "engine"} - {room, "__init__", ""}
    assert others <= ROOMS.get(room, set())
    if room == "evaluation":
        from_options = {module for module in imports(path) if module.startswith("engine.options")}
        assert from_options <= OPTIONS_OF_EVALUATION and (not from_options or path.name == "plan.py")


def test_nothing_is_imported_in_a_way_that_the_walk_does_not_see():
    """A bare `import engine`, importlib and __import__ would lead into any room."""
    for path in FILES:
        names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        assert "engine" not in imports(path) and "__import__" not in names, path
        imports_by_name = any(name.startswith("importlib") for name in imports(path) - {"importlib.metadata"})
        assert path.name in ("optional.py", "user_code.py") or not imports_by_name, path


def test_every_folder_with_code_has_its_place():
    folders = {path.parent.name for path in ROOT.glob("*/*.py")} | {path.stem for path in ROOT.glob("*.py")}
    assert folders - {"tests"} <= TOP.keys()


def test_the_walk_sees_every_kind_of_import(tmp_path, monkeypatch):
    """Else the two tests above would pass for files that they don't understand."""
    monkeypatch.setattr("tests.test_structure.ROOT", tmp_path)
    for name in ("engine/run/a.py", "engine/report/b.py", "utils/c.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    text = """import utils.c
from engine import report
from engine.report import b
from ..report.b import x
from . import a
def f():
    from utils import c
    import torch"""
    (tmp_path / "engine" / "run" / "d.py").write_text(text)
    assert imports(tmp_path / "engine" / "run" / "d.py") == {
        "utils.c", "engine.report", "engine.report.b", "engine.run.a", "torch"}


def test_rooms_are_small():
    flat = [path for path in ENGINE if path.parent.name == "engine"]
    assert len(flat) <= 6
    for room in ROOMS.keys() - {"setup"}:
        files = list((ROOT / "engine" / room).rglob("*.py"))
        assert 3 <= len(files) <= 9, room
    assert {path.name for path in (ROOT / "engine").iterdir() if path.name != "__pycache__"} == {
        "__init__.py", "setup.py", *ROOMS.keys() - {"setup"}}


def test_entries_are_thin():
    for name in ("main.py", "predict.py", "export.py", "demo.py"):
        assert (ROOT / name).read_text().count("\n") < 100, name
    assert (ROOT / "main.py").read_text().count("\n") <= 60


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_short(path):
    text = path.read_text()
    assert text.count("\n") <= (350 if "backbone" in path.parts else 200)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, node.name


def reads_of(path: Path, name: str = "options") -> set[str]:
    """Return the attributes of `options` that a file reads."""
    return set(re.findall(rf"\b{name}\.(\w+)", path.read_text()))


def test_every_flag_is_read_and_only_where_options_may_be_seen():
    from engine.options import FLAGS

    entries = [ROOT / "main.py", ROOT / "predict.py", ROOT / "export.py"]
    seen = {path: reads_of(path) & FLAGS.keys() for path in [*entries, *ENGINE]}
    read = set().union(*seen.values())
    # --report and others choose the mode; the needs of rows, and getattr by name, read the rest.
    by_name = {"list", "version", "report", "test_only", "verify", "attack", "attack_loss", "attack_norm",
               "continue_training", "options"}
    assert len(FLAGS) > 80 and FLAGS.keys() - read <= by_name
    allowed = {str(path.relative_to(ROOT)) for path in entries} | SEE_OPTIONS
    for path in ENGINE:  # and no other function gets them under another name
        arguments = {argument.arg for node in ast.walk(ast.parse(path.read_text()))
                     if isinstance(node, ast.FunctionDef | ast.Lambda) for argument in node.args.args}
        assert "opts" not in arguments, path
        if not path.is_relative_to(ROOT / "engine" / "options") and str(path.relative_to(ROOT)) not in allowed:
            assert not arguments & {"options", "setup"}, path
    assert {str(path.relative_to(ROOT)) for path, names in seen.items() if names
            and not path.is_relative_to(ROOT / "engine" / "options")} <= allowed


def test_a_flag_is_declared_once_and_no_other_file_lists_flags():
    """Rows of FLAGS alone hold names of flags: elsewhere at most a few stand together."""
    from engine.options import FLAGS

    declared = {ROOT / "engine" / "options" / name for name in ("flags.py", "training_flags.py", "parser.py")}
    for path in ENGINE:
        if path in declared:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Tuple | ast.List | ast.Set | ast.Dict):
                items = node.keys if isinstance(node, ast.Dict) else node.elts
                names = [item.value for item in items if isinstance(item, ast.Constant)]
                most = 8 if isinstance(node, ast.Dict) else 5  # settings of attacks on disk are called as flags are
                assert sum(name in FLAGS for name in names) <= most, (path, names)


def test_argparse_is_known_in_one_file():
    assert [path.name for path in ENGINE if "argparse" in imports(path)] == ["parser.py"]


def test_the_keys_of_a_checkpoint_stand_in_one_list():
    from engine.run.checkpoints import KEYS

    assert all(kind in (int, float, str, list, dict) for kind, _ in KEYS.values())
    own = {"cur_itrs", "best_score", "optimizer_state", "scheduler_state", "measured", "ranks", "train_images"}
    assert own <= KEYS.keys() and len(KEYS) == 27
    for path in ENGINE:
        if "training" in path.parts or path.name == "checkpoints.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            keys = node.keys if isinstance(node, ast.Dict) else ()
            assert not own & {key.value for key in keys if isinstance(key, ast.Constant)}, path


def test_every_requirement_has_its_reason():
    for name in ("requirements.txt", "requirements-extra.txt"):
        lines = [line for line in (ROOT / name).read_text().splitlines() if line and line[0] != "#"]
        assert lines and all("  # " in line for line in lines)
    assert len((ROOT / "requirements.txt").read_text().splitlines()) >= 8


def test_ci_calls_what_the_docs_name():
    assert "make extras lint test" in (ROOT / ".ci" / "run").read_text()
    readme = (ROOT / "README.md").read_text()
    assert "make demo" in readme and "make test" in readme
