"""Evaluation by several processes: the same counts, records, pictures and results, byte for byte, as by one."""
import json
import shutil
from pathlib import Path

import pytest

from engine.options import read_call
from engine.records.store import read
from engine.run.folder import Run
from main import main
from tests import ranks
from tests.ranked import evaluation
from utils.distributed import TORCHRUN
from utils.errors import UserError
from utils.strict_json import canonical
from utils.text import replace_nan

pytestmark = pytest.mark.usefixtures("one_thread")


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def halve(whole: Path, folder: Path) -> Path:
    """A run that was killed: one radius of the chain is some images behind, a line is torn, a picture is missing."""
    shutil.copytree(whole, folder)
    (folder / "results.json").unlink()
    for eps, lines in (("0.05", 5), ("0.1", 3)):
        path, = (folder / "records").glob(f"pgd_linf_{eps}_*.jsonl")
        content = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(content[:lines]) + content[lines][:9])
    next((folder / "val_results").glob("clean_*/noise_2_image.png")).unlink()
    return folder


@pytest.fixture
def alone(one_thread, tmp_path):
    """(folder, results) of a single process."""
    folder = tmp_path / "alone"
    return folder, [evaluation.record(folder / "plain"), evaluation.record(folder / "warm", warm_start=True),
                    evaluation.matrices()]


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3])
def test_ranks_leave_what_one_process_leaves(alone, tmp_path, n):
    folder, (plain, warm, matrices) = alone
    halve(folder / "warm", tmp_path / "halved")
    found = ranks.run(evaluation.record_all, str(tmp_path), n=n)
    for name, expected in (("plain", "plain"), ("warm", "warm"), ("halved", "warm")):
        assert tree(tmp_path / name) == tree(folder / expected), name
    assert len(tree(tmp_path / "warm")) == 3 + 3 * 7 * 5 + 1
    for rank in found:
        assert canonical(rank[:3]) == canonical([plain, warm, warm])
        assert all(rank[3][name] == matrices[name] for name in matrices if name != "seen")
    batches = [[0, 1], [2, 3], [4, 5], [6]]
    assert [rank[3]["seen"] for rank in found] == [batches[number::n] * 2 for number in range(n)]
    assert matrices["seen"] == batches * 2


@pytest.mark.slow
def test_an_error_on_one_rank_ends_both_and_keeps_what_was_before(tmp_path):
    first, second = ranks.run(evaluation.fail_all, str(tmp_path))
    assert second["third batch"] == "no gradient on rank 1" and first["third batch"] == "rank 1 failed"
    assert first["both"] == "no gradient on rank 0" and second["both"] == "rank 0 failed"
    assert first["evaluate"] == "rank 1 failed" and second["evaluate"] == "no gradient on rank 1"
    assert "indices" in first["no indices"] and second["no indices"] == "rank 0 failed"
    assert first["writing"] == "disk full on rank 0" and second["writing"] == "rank 0 failed"
    assert "line 1 is damaged" in first["reading"] and second["reading"] == "rank 0 failed"
    path, = (tmp_path / "attack" / "records").glob("fgsm_*.jsonl")
    assert list(read(path)[1]) == [f"noise_{k}" for k in range(4)]  # of the first round
    assert (tmp_path / "attack" / "results.json").is_file() and not (tmp_path / "writing" / "results.json").is_file()


def test_a_test_under_torchrun(trained, tmp_path, start):
    best, = (trained / "exp").glob("best_*.pth")
    flags = ["--test_only", "--ckpt", str(best), "--attack", "pgd", "--steps", "2", "--eps", "2/255", "8/255",
             "--val_images", "5", "--val_batch_size", "2", "--num_workers", "0", "--sheet_images", "2"]
    expected = main([*flags, "--output_dir", str(tmp_path / "one")])["results"]
    done = start(*flags, "--output_dir", str(tmp_path / "two"), ranks=2)
    out, err = done.communicate(timeout=600)
    assert done.returncode == 0, err
    one, two = (tree(tmp_path / name / "exp") for name in ("one", "two"))
    for name in one:
        assert name in two and (one[name] == two[name] or name in ("log.txt", "results.json")), name
    assert len(one) == len(two) and json.loads(two["results.json"])["results"] == replace_nan(expected)
    assert out.count("Results written to") == 1 and out.count("| none") == 1
    assert "[rank" not in out + err
    assert err.count("pgd linf 8/255: 100%") == 1


def test_a_report_is_for_one_process_and_rank_0_says_so(trained, start):
    done = start("--report", "exp", "--output_dir", str(trained), ranks=2)
    lines = [line for line in done.communicate(timeout=600)[1].splitlines() if line.startswith(("error", "[rank"))]
    assert lines[0] == "error: --report runs in one process: start it with python main.py" and done.returncode
    assert not lines[1:] or lines[1:] == [f"[rank 1] {lines[0]}"]  # a slow machine takes its time to end rank 1


def test_before_the_ranks_meet_all_refuse_and_only_rank_0_writes(tmp_path, monkeypatch):
    run, call = Run(tmp_path / "exp"), {"ckpt": None, "overwrite": False, "continue_training": False}
    run.folder.mkdir()
    (run.folder / "opts.txt").touch()
    run.refuse_if_used(training=True, **call)  # stopped before there was anything to continue
    (run.folder / "latest_x_voc_os16.pth").touch()
    with pytest.raises(UserError, match="earlier run"):
        run.refuse_if_used(training=True, **call)
    for name, value in zip(TORCHRUN, ("1", "2", "1", "127.0.0.1", "29500"), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="earlier run"):
        run.refuse_if_used(training=True, **call)
    run.open(training=True)
    assert tree(tmp_path) == {"exp/opts.txt": b"", "exp/latest_x_voc_os16.pth": b""}
    with pytest.raises(UserError, match="^--verify runs in one process"):
        read_call(["--verify"])
