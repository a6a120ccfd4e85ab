"""README.md and docs/: pages, links and anchors are there; commands are run, or parsed where they take long."""
import json
import re
import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.plot_strength import format_table
from benchmarks.table import format_goals
from benchmarks.table import format_table as format_speed
from datasets import synthetic
from datasets.make_classes import main as make_classes
from engine.verify import CHECKS
from experiments.export import format_table as format_differences
from export import export
from main import main
from network.export import OLDEST_TORCH
from predict import predict
from tests.calls import options_of
from utils.launch import TORCHRUN

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("training", "weights", "sharpness", "adversarial", "resume", "data", "evaluation", "predict", "export",
         "attacks", "records", "verify", "gpus", "dashboards", "python", "differences", "development", "flags",
         "performance", "scaling",
         "experiments/sharpness", "experiments/camvid", "experiments/voc")
FILES = (ROOT / "README.md", *(ROOT / "docs" / f"{page}.md" for page in PAGES))
OTHERS = (ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md")
PACKAGES = ("engine", "network", "datasets", "optim", "attacks", "metrics", "utils", "benchmarks", "tests", "docs",
            "experiments")
RUN = "<!-- run -->"  # the line above a block of commands that are run
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What the commands are typed for: bash expands variables and loops, and says what it would have started.
SHELL = """set -eu
say() { printf '%s\\0' "$@"; printf '\\n\\0'; }
for name in python python3 torchrun make pip sbatch docker; do eval "$name() { say $name \\"\\$@\\"; }"; done
function . { say . "$@"; }
"""


class Command(NamedTuple):
    """A command of a page: its words, and whether its block is run."""

    page: str
    run: bool
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)}"


def page_name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def commands_of(path: Path) -> list[Command]:
    """All commands in the sh blocks of a page, typed into one shell from top to bottom."""
    text = path.read_text()
    script, marks = [SHELL], []
    for block in FENCE.finditer(text):
        if block[1] == "sh":
            script.append(f"say block {len(marks)}\n{block[2]}")
            marks.append(text[:block.start()].rstrip("\n").endswith(RUN))
    shell = subprocess.run(["/bin/bash", "-c", "\n".join(script)], env={"PATH": "/nonexistent"}, capture_output=True,
                           text=True, check=False)
    assert shell.returncode == 0 and not shell.stderr, f"{page_name(path)}: {shell.stderr}"
    found, run = [], False
    for line in filter(None, shell.stdout.split("\n\0")):
        words = tuple(line.split("\0")[:-1])
        if words[0] == "block":
            run = marks[int(words[1])]
        else:
            found.append(Command(page_name(path), run, words))
    return found


COMMANDS = [command for path in (*FILES, *OTHERS) if path.exists() for command in commands_of(path)]


def prose_of(path: Path) -> str:
    """A page without its code."""
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", path.read_text()))


def anchors_of(path: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    slugs, found = {}, set()
    for heading in re.findall(r"^#+ +(.*)$", FENCE.sub("", path.read_text()), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        slugs[slug] = slugs.get(slug, -1) + 1
        found.add(f"{slug}-{slugs[slug]}" if slugs[slug] else slug)
    return found


def test_readme_is_short_and_every_page_is_there():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130
    assert [page_name(path) for path in FILES if not path.is_file()] == []
    assert {page_name(path) for path in (ROOT / "docs").rglob("*.md")} == {page_name(path) for path in FILES[1:]}


@pytest.mark.parametrize("name", ["attacks_voc", "attacks_voc_native", "attacks_camvid", "attacks_camvid_at"])
def test_tables_of_strength_are_those_of_the_results(name):
    summary = json.loads((ROOT / "results" / f"{name}.json").read_text())["summary"]
    assert format_table(summary) in (ROOT / "docs" / "attacks.md").read_text()


def test_the_tables_of_speed_are_those_of_the_results():
    page = (ROOT / "docs" / "performance.md").read_text()
    results = ROOT / "benchmarks" / "results"
    files = [results / "cpu.json", results / "cpu_again.json"]
    assert format_speed(files) in page and format_goals(files) in page


def test_the_table_of_exported_networks_is_that_of_the_results():
    results = json.loads((ROOT / "results" / "export.json").read_text())
    page = (ROOT / "docs" / "export.md").read_text()
    assert results["command"] in page and format_differences(results["networks"]) in page
    shares = [row["share"] for network in results["networks"] for row in network["onnx"]]
    assert len(shares) == 24 and max(shares) <= 1e-4


@pytest.mark.parametrize("path", (*FILES, *OTHERS), ids=page_name)
def test_links_and_anchors_lead_somewhere(path):
    lost = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose_of(path)):
        if link.startswith(("http://", "https://")):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            lost.append(link)
    assert lost == []


def test_every_page_can_be_reached_from_the_readme():
    readme = (ROOT / "README.md").read_text()
    assert [page for page in PAGES if f"(docs/{page}.md" not in readme] == []


def test_every_check_of_verify_has_its_heading():
    headings = re.findall(r"^## (.*)$", (ROOT / "docs" / "verify.md").read_text(), re.MULTILINE)
    assert headings == list(CHECKS)


@pytest.mark.parametrize("path", (*FILES, *OTHERS), ids=page_name)
def test_files_that_are_named_are_there(path):
    text = path.read_text()
    named = {word for word in re.findall(r"`([\w./]+)`", FENCE.sub("", text))
             if word.startswith(tuple(f"{package}/" for package in PACKAGES)) and not word.startswith("datasets/data")}
    for language, block in FENCE.findall(text):
        if language == "text":
            named |= set(paths_of_tree(block))
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


def test_pages_that_the_code_names_are_there():
    """An error that needs an explanation says where it is: docs/verify.md#step-order."""
    named = {page for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[0] in (*PACKAGES, path.name)
             for page in re.findall(r"docs/[\w/]+\.md(?:#[\w-]+)?", path.read_text())}
    files = {page: ROOT / page.partition("#")[0] for page in named}
    assert sorted(page for page, file in files.items() if not file.is_file()
                  or ("#" in page and page.partition("#")[2] not in anchors_of(file))) == []


def paths_of_tree(block: str):
    """The paths of a tree: one a line, indented by 2 a level, a # before the remark."""
    parents = []
    for line in block.splitlines():
        name = line.partition("#")[0].rstrip()
        parents = [*parents[:(len(name) - len(name.lstrip())) // 2], name.strip()]
        yield "".join(parents)


@pytest.mark.parametrize("command", [command for command in COMMANDS if not command.run], ids=str)
def test_commands_that_are_not_run_are_right(command, monkeypatch):
    program, *words = command.words
    if program == "sbatch":
        words = [word for word in words if not word.startswith("--array=")]
        assert (ROOT / words[0]).is_file()
        words[0] = "main.py"
        words[1:1] = ["--test_only", "--shard", "1/8"] if command.words[-5].endswith("shards.sh") else []
    if program == "torchrun":
        processes = words.pop(0).removeprefix("--nproc_per_node=")
        for name, value in zip(TORCHRUN, ("0", processes, "0", "localhost", "1"), strict=True):
            monkeypatch.setenv(name, value)
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in words if "=" not in word} <= set(targets)
    elif words[0] in ("main.py", "predict.py", "export.py"):
        options_of(*words[1:], entry=words[0])  # with all that is refused before a look at the disk
    elif program == "docker":
        assert words[0] in ("build", "run") and "robust-segmentation" in words
        if "/app/main.py" in words:
            options_of(*words[words.index("/app/main.py") + 1:])
    elif words[0] == "demo.py":
        assert len(words) == 1  # tests/test_demo.py runs it
    elif words[0] == "-m" and program == "python":
        assert words[1] in OF_EXTRAS or find_spec(words[1]) is not None
        assert all((ROOT / word).exists() for word in words[2:] if word.startswith("tests/"))
    else:
        assert is_installation(command.words)


OF_EXTRAS = {"tensorboard.main"}


def is_installation(words: tuple[str, ...]) -> bool:
    """Whether this is a step of the setup without make, or the visdom server that needs no internet."""
    return words in {("python3", "-m", "venv", ".venv"), (".", ".venv/bin/activate")} or words[:2] in {
        ("pip", "install"), ("python", "-c")}


def scaled(argv: list[str]) -> list[str]:
    """The same command, as short as it can be; where a flag is given twice, the last counts."""
    if "--report" in argv:
        return argv
    if "--test_only" in argv:
        return [*argv, "--num_workers", "0", *(["--steps", "1"] if "pgd" in argv else [])]
    itrs = "3" if "--continue_training" in argv else "2"
    size = [] if "--continue_training" in argv else ["--batch_size", "2", "--crop_size", "65"]
    return [*argv, "--num_workers", "0", "--total_itrs", itrs, "--val_interval", itrs, "--print_interval", "1", *size]


@pytest.fixture
def workplace(tmp_path, monkeypatch, one_thread):
    """A folder with what the pages take for granted: some photos and their masks, and CamVid, which is small here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(synthetic, "LENGTHS", {"train": 4, "val": 2})
    folders = ("photos", "masks", *(f"CamVid/{split}" for split in ("train", "trainannot", "val", "valannot")),
               *(f"own/{split}/{kind}" for split in ("train", "val") for kind in ("images", "masks")))
    for folder in folders:
        (tmp_path / "path" / "to" / folder).mkdir(parents=True)
        for k in range(2):
            is_mask = folder.endswith(("annot", "masks"))
            picture = np.full((72, 80) if is_mask else (72, 80, 3), k, np.uint8)
            Image.fromarray(picture).save(tmp_path / "path" / "to" / folder / f"{k}.png")
    _, network = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.S)
    (tmp_path / "nets.py").write_text(network)
    return tmp_path


@pytest.mark.slow
def test_commands_that_are_to_be_run_run(workplace, capsys):
    """In one folder, the README's first: other pages continue its run. What it quotes is what they print."""
    marked = [command for command in COMMANDS if command.run]
    assert [kind_of(command) for command in marked if command.page == "README.md"] == ["train", "attack", "report"]
    for command in marked:
        program, entry, *argv = command.words
        assert program == "python", command
        if entry == "export.py" and torch.__version__ < OLDEST_TORCH:
            continue
        try:
            if entry == "-m":
                make_classes(argv[1:])
            else:
                call = {"main.py": main, "predict.py": predict, "export.py": export}[entry]
                call(scaled(argv) if entry == "main.py" else argv)
        except SystemExit as stop:
            pytest.fail(f"{command}: exit code {stop.code}")
    printed = [without_figures(line) for line in capsys.readouterr().out.splitlines()]
    quoted = re.findall(r"^    (.*)$", FENCE.sub("", (ROOT / "README.md").read_text()), re.MULTILINE)
    assert len(quoted) > 10
    assert [line for line in quoted if not any(other.startswith(without_figures(line)) for other in printed)] == []
    assert (workplace / "checkpoints" / "toy" / "report" / "curves.png").is_file()
    assert len(list((workplace / "predictions").iterdir())) == 5


def without_figures(line: str) -> str:
    """A line of output that is the same whatever was measured; ... stands for its end."""
    line = re.sub(r"-?\d[\d.]*(e[+-]\d+)?", "N", line)
    return re.sub(r"\s+", " ", re.sub(r"-+", "-", line)).removesuffix("...").strip()


def kind_of(command: Command) -> str:
    return "attack" if "--test_only" in command.words else "report" if "--report" in command.words else "train"
