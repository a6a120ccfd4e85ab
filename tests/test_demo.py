"""The demo's whole path: two runs, the comparison, the picture; shorter than `make demo`."""
import json

from PIL import Image

import demo


def test_demo_compares_sgd_and_sam_and_draws_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "SHOWN", "pgd_linf_4-255_1steps")
    monkeypatch.setattr(demo, "ATTACK", ["--attack", "pgd", "--eps", "4/255", "--steps", "1", "--save_val_results"])
    demo.demo(["--output_dir", str(tmp_path), "--total_itrs", "1"])
    table = (tmp_path / "comparison.md").read_text()
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert [line[:2] for line in lines] == [["SGD", "none"], ["SGD", "pgd"], ["SAM", "none"], ["SAM", "pgd"]]
    for line in lines:
        results = json.loads((tmp_path / line[0].lower() / "results.json").read_text())
        (row,) = [row for row in results["results"] if row["attack"] == line[1]]
        assert line[5] == f"{row['Mean IoU']:.4f}" and results["options"]["optimizer"].upper() == line[0]
    with Image.open(tmp_path / "comparison.png") as picture:
        assert picture.width > picture.height > 300  # three rows of six
    out = capsys.readouterr().out
    assert table.strip() in out and str(tmp_path) in out.splitlines()[-1]
