"""The demo's whole path: three runs, the comparison, the pictures, the verdict; shorter than `make demo`."""
import json
from argparse import Namespace

import pytest
from PIL import Image

import demo


@pytest.mark.slow
def test_demo_compares_three_runs_draws_them_and_ends_in_a_verdict(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "ATTACK", ["--attack", "pgd", "--eps", "4/255", "5/255", "--steps", "1"])
    report = demo.demo(["--output_dir", str(tmp_path), "--total_itrs", "1"])
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert [(row["run"], row["attack"]) for row in report["rows"]] == [
        (run, attack) for run in ("sgd", "sam", "at") for attack in ("none", "pgd", "pgd")]
    for row in report["rows"]:
        results = json.loads((tmp_path / row["run"] / "results.json").read_text())
        (own,) = [own for own in results["results"] if own["eps"] == row["eps"]]
        assert row["Mean IoU"] == own["Mean IoU"]
        assert (results["options"]["optimizer"], results["options"]["adv"]) == {
            "sgd": ("sgd", False), "sam": ("SAM", False), "at": ("sgd", True)}[row["run"]]
    for name in ("curves.png", *(f"sheet_{run}_linf_4-255.png" for run in demo.RUNS)):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 200
    opts = Namespace(output_dir=tmp_path, total_itrs=1)
    for run in demo.RUNS:
        assert demo.count_work(run, opts) == demo.passes_of(run, opts) + demo.ATTACK_COST * demo.ATTACKED
    words = demo.verdict(report["rows"])
    assert (tmp_path / "report.md").read_text().rstrip().endswith(words)
    out, err = capsys.readouterr()
    assert out.rstrip().endswith(words) and "100 %" in err


@pytest.mark.slow
def test_a_run_that_fails_ends_the_demo_with_its_last_lines(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(demo.RUNS, "sam", (["--optimizer", "none such"], 1, 2))
    with pytest.raises(SystemExit) as stop:
        demo.demo(["--output_dir", str(tmp_path), "--total_itrs", "100000"])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert "none such" in err and str(tmp_path / "sam.log") in err


def row(run, attack, eps, miou):
    return {"run": run, "attack": attack, "eps": eps / 255, "norm": "linf", "Mean IoU": miou}


def test_verdict_calls_close_runs_equal():
    rows = [row(*values) for values in [
        ("sgd", "none", 0, 0.84), ("sgd", "pgd", 4, 0.5), ("sgd", "pgd", 8, 0.02), ("sam", "none", 0, 0.85),
        ("sam", "pgd", 4, 0.7), ("sam", "pgd", 8, 0.06), ("at", "none", 0, 0.7), ("at", "pgd", 8, 0.41)]]
    assert demo.verdict(rows).startswith(
        "Verdict: of the clean mIoU, pgd at 8/255 leaves sgd 0.02 of 0.84, sam 0.06 of 0.85, at 0.41 of 0.70: at is "
        "ahead of sam; at is ahead of sgd; sam and sgd are equal (less than 0.05 apart: one seed can't tell). ")
    rows[5]["Mean IoU"] = 0.08
    assert "at is ahead of sam; at is ahead of sgd; sam is ahead of sgd. " in demo.verdict(rows)
