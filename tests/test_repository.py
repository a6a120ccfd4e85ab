"""What those need who carry on: the container, the checks of a pull request, citation, templates, the notebook."""
import json
import re
import subprocess
import sys
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path

import pytest

from utils.version import VERSION

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
TOUR = ROOT / "docs" / "tour.ipynb"


def read_yaml(path: Path):
    return pytest.importorskip("yaml").safe_load(path.read_text())


def ignored(name: str) -> bool:
    """Whether .dockerignore leaves a path of the clone out of the image."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    parts = Path(name).parts
    places = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
    return any(fnmatch(place, line) or fnmatch(place, line.removeprefix("**/")) for line in lines for place in places)


def test_the_image_has_what_its_file_names_and_what_a_run_imports():
    text = (ROOT / "Dockerfile").read_text()
    copied = [name for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for name in line.split()]
    assert copied == ["requirements.txt", "constraints.txt", "."]
    entries = re.findall(r"/app/([\w.]+)", text)
    assert {"main.py", "constraints.txt"} == {*entries} and all((ROOT / name).is_file() for name in entries)
    assert not any(ignored(name) for name in (*copied, "main.py", "predict.py", "demo.py", "engine/setup.py",
                                              "datasets/voc.py", "utils/version.py", "attacks/pgd.py"))
    assert ignored(".git/config") and ignored("checkpoints/exp/best.pth") and ignored("datasets/data/VOCdevkit")
    assert ignored(".venv/bin/python") and ignored("engine/__pycache__/x.pyc")


def test_the_image_installs_as_the_makefile_does():
    text = (ROOT / "Dockerfile").read_text()
    for name in ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT"):
        assert f"{name}=/app/constraints.txt" in text and f"{name}=$(CONSTRAINTS)" in (ROOT / "Makefile").read_text()
    needed, development = (ROOT / "requirements.txt").read_text().split("\n# development\n")  # as its sed cuts it
    assert "sed '/^# development/,$d' requirements.txt" in text
    assert "visdom" in needed and "pytest" in development and "pytest" not in needed
    assert "setuptools<81" in (ROOT / "constraints.txt").read_text()
    assert "whl/cpu torch torchvision" in text  # both, as a wheel of PyPI doesn't go with the other index's


def test_the_python_of_the_image_and_of_the_checks_is_the_projects():
    wanted = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())[1]
    assert f"FROM python:{wanted}-" in (ROOT / "Dockerfile").read_text()
    assert f'python-version: "{wanted}"' in (ROOT / ".github" / "workflows" / "ci.yml").read_text()


def test_pull_requests_are_checked_by_ci_run():
    workflow = read_yaml(ROOT / ".github" / "workflows" / "ci.yml")
    job = workflow["jobs"]["test"]
    assert ".ci/run" in [step.get("run") for step in job["steps"]]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111  # it is started as a program
    assert 30 <= job["timeout-minutes"] <= 120 and workflow["permissions"] == {"contents": "read"}
    used = [step["uses"] for step in job["steps"] if "uses" in step]
    assert used and all(re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", action) for action in used)
    files = [path for step in job["steps"] for path in step.get("with", {}).get("cache-dependency-path", "").split()]
    assert len(files) == 4 and all((ROOT / path).is_file() for path in files)


def test_a_citation_is_of_this_version():
    text = (ROOT / "CITATION.cff").read_text()
    title = re.search(r"^title: (.*)$", text, re.MULTILINE)[1]
    assert f"\nversion: {VERSION}\n" in text and f"\n  - name: {title} contributors\n" in text
    released = re.search(r"^date-released: (.*)$", text, re.MULTILINE)[1]
    assert f"## {VERSION}, {released}\n" in (ROOT / "CHANGELOG.md").read_text()
    cited = read_yaml(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= cited.keys() and len(cited["references"]) == 6
    assert all(reference["title"] and reference["authors"] for reference in cited["references"])


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_issues_are_asked_for_versions_and_the_command(path):
    template = read_yaml(path)
    if path.name == "config.yml":
        assert template == {"blank_issues_enabled": False}
        return
    fields = {field["id"]: field for field in template["body"]}
    assert "`python main.py --version`" in fields["version"]["attributes"]["description"]
    assert all(field["type"] in ("textarea", "input") and field["attributes"]["label"] for field in fields.values())
    required = {name for name, field in fields.items() if field.get("validations", {}).get("required")}
    wanted = {"bug": {"command", "log", "version"}, "number": {"command", "results", "version"}, "wish": {"version"}}
    assert wanted[path.stem] <= required


def test_there_are_templates():
    assert [path.stem for path in TEMPLATES] == ["bug", "config", "number", "wish"]


def test_contributing_names_the_registries_and_the_makefiles_targets():
    text, makefile = (ROOT / "CONTRIBUTING.md").read_text(), (ROOT / "Makefile").read_text()
    assert {*re.findall(r"\bmake (\w+)", text)} - {"it"} <= {*re.findall(r"^(\w+):", makefile, re.MULTILINE)}
    for registry, file in re.findall(r"`(\w+)` in `([\w/.]+\.py)`", text):
        assert f"\n{registry} = {{" in (ROOT / file).read_text()
    assert len(re.findall(r"^\d\. ", text, re.MULTILINE)) == 6


# The notebook


def test_the_notebook_has_pictures_and_nothing_of_a_machine():
    text = TOUR.read_text()
    notebook = json.loads(text)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    pictures = [output for cell in code for output in cell["outputs"] if "image/png" in output.get("data", {})]
    assert len(pictures) == 2 and len(text) < 300_000
    assert notebook["metadata"]["language_info"] == {"name": "python"} and '"execution"' not in text
    plain = re.sub(r'"image/png": ".*?"', "", text)
    assert not re.search(r"/(home|tmp|work|root|Users)/|\d+ (s|min)\b.*left", plain)
    links = re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", "".join("".join(cell["source"]) for cell in notebook["cells"]))
    assert len(links) > 5 and all((TOUR.parent / link).is_file() for link in links)
    assert not any(output["output_type"] == "error" for cell in code for output in cell["outputs"])


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    """With few iterations, in a folder that isn't docs."""
    for name in ("nbclient", "ipykernel"):
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed: make extras")
    import nbformat

    from docs.execute_tour import execute

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    text, count = re.subn(r'\\"120\\"', r'\\"4\\"', TOUR.read_text())
    assert count == 2
    text = text.replace("EPS = (2, 4, 8, 12)", "EPS = (2, 4, 6, 8)").replace("steps=10", "steps=1")
    before = {*(ROOT / "docs").iterdir()}
    notebook = execute(nbformat.reads(text, as_version=4), tmp_path)
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", {}) for output in shown) == 2
    (curves,) = [output.text for output in shown if output.output_type == "stream" and output.name == "stdout"]
    assert [line.split()[0] for line in curves.splitlines()] == ["sgd", "sam"]
    assert all(len(line.split()) == 6 for line in curves.splitlines())  # clean, and at four radii
    assert {*(ROOT / "docs").iterdir()} - {ROOT / "docs" / "__pycache__"} <= before and not [*tmp_path.iterdir()]


# From another project


def run_elsewhere(folder: Path, code: str, **environment: str) -> subprocess.CompletedProcess:
    (folder / "score.py").write_text(code)
    return subprocess.run([sys.executable, "score.py"], cwd=folder, capture_output=True, text=True, check=False,
                          env={"PATH": "", **environment})


SCORE = """import torch
from attacks import PGD
images, labels = torch.rand(1, 3, 8, 8), torch.zeros(1, 8, 8, dtype=torch.long)
print((PGD(eps=0.1)(torch.nn.Conv2d(3, 2, 1), images, labels) - images).abs().max() > 0.05)"""


@pytest.mark.slow
def test_a_clone_serves_another_project_by_its_path(tmp_path):
    """As docs/python.md says: PYTHONPATH, or sys.path in the script; names of the project come first or not at all."""
    assert run_elsewhere(tmp_path, SCORE, PYTHONPATH=str(ROOT)).stdout == "tensor(True)\n"
    before = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
    assert run_elsewhere(tmp_path, before + SCORE).stdout == "tensor(True)\n"
    (tmp_path / "utils.py").write_text("")
    done = run_elsewhere(tmp_path, SCORE, PYTHONPATH=str(ROOT))
    assert done.returncode and "utils" in done.stderr  # the folder of the script comes before PYTHONPATH
    assert run_elsewhere(tmp_path, before + SCORE).stdout == "tensor(True)\n"


def test_the_page_names_every_folder_that_another_project_may_not_have():
    page = (ROOT / "docs" / "python.md").read_text().partition("## From another project")[2]
    listed = {*re.findall(r"`(\w+)`", page.partition("\n\n")[2].partition(" would be modules ")[0])}
    assert listed == {path.parent.name for path in ROOT.glob("*/__init__.py")}
