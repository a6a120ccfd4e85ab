"""The demo's whole path: two runs, the comparison, the pictures; shorter than `make demo`."""
import json

from PIL import Image

import demo


def test_demo_compares_sgd_and_sam_and_draws_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "ATTACK", ["--attack", "pgd", "--eps", "4/255", "--steps", "1"])
    report = demo.demo(["--output_dir", str(tmp_path), "--total_itrs", "1"])
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert [(row["run"], row["attack"]) for row in report["rows"]] == [
        ("SGD", "none"), ("SGD", "pgd"), ("SAM", "none"), ("SAM", "pgd")]
    for row in report["rows"]:
        results = json.loads((tmp_path / row["run"] / "results.json").read_text())
        (own,) = [own for own in results["results"] if own["attack"] == row["attack"]]
        assert row["Mean IoU"] == own["Mean IoU"] and results["options"]["optimizer"].upper() == row["run"]
    for name in ("curves.png", "sheet_SGD_linf_4-255.png", "sheet_SAM_linf_4-255.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 200
    out = capsys.readouterr().out
    assert "| pgd" in out and out.rstrip().endswith(str(tmp_path))
