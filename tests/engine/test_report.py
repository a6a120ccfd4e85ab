"""Tables, results.json and pictures."""
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from attacks import FGSM, PGD
from engine import report

RESULTS = {"Overall Acc": 0.75, "Mean Acc": 0.5, "FreqW Acc": 0.25, "Mean IoU": 0.125,
           "Class IoU": {0: 0.1, 1: math.nan}}


def rows():
    attacks = [("none", None), ("fgsm", FGSM(eps=2 / 255)), ("pgd", PGD(eps=0.7, norm="l2", steps=20))]
    return [report.row(report.attack_settings(name, attack), RESULTS, class_names=["road", "sky"])
            for name, attack in attacks]


def test_a_row_says_what_attacked_and_scores_by_class_name():
    clean, fgsm, pgd = rows()
    assert (clean["attack"], clean["norm"], clean["eps"], clean["steps"]) == ("none", None, 0.0, 0)
    assert (fgsm["attack"], fgsm["norm"], fgsm["eps"], fgsm["steps"]) == ("fgsm", "linf", 2 / 255, 1)
    assert (pgd["steps"], pgd["step_size"], pgd["random_start"], pgd["seed"]) == (20, 0.175, True, 1)
    assert clean["Mean IoU"] == 0.125 and clean["Class IoU"]["road"] == 0.1 and math.isnan(clean["Class IoU"]["sky"])


@pytest.mark.parametrize(("norm", "eps", "text"), [
    ("linf", 4 / 255, "4/255"), ("linf", 0.25 / 255, "0.25/255"), ("linf", 16 / 255, "16/255"), ("linf", 0.03, "0.03"),
    ("linf", 0.1, "0.1"), ("linf", 0.0, "0"), ("l2", 0.7, "0.7"), ("l2", 2.0, "2"), (None, 0.0, "0")])
def test_radius_is_written_in_grey_levels_where_it_is_one(norm, eps, text):
    assert report.radius({"norm": norm, "eps": eps}) == text


def test_table_has_one_line_a_row():
    lines = report.table(rows(), first={"Run": ["a", "b", "c"]}).splitlines()
    assert len(lines) == 5 and len({len(line) for line in lines}) == 1
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0][:5] == ["Run", "Attack", "Norm", "eps", "Steps"] and cells[0][5] == "Mean IoU"
    assert cells[3] == ["b", "fgsm", "linf", "2/255", "1", "0.1250", "0.7500", "0.5000"]
    assert cells[4][:5] == ["c", "pgd", "l2", "0.7", "20"]


def test_results_are_strict_json_and_old_ones_are_kept(tmp_path):
    path = tmp_path / "results.json"
    for number in range(3):
        report.write_results(path, {"options": {"n": number}, "results": rows()})

    def no_constant(text):
        raise ValueError(text)

    loaded = json.loads(path.read_text(), parse_constant=no_constant)
    assert loaded["options"]["n"] == 2 and loaded["results"][0]["Class IoU"] == {"road": 0.1, "sky": None}
    assert [json.loads((tmp_path / f"results.{n}.json").read_text())["options"]["n"] for n in (1, 2)] == [0, 1]


def test_pixels_are_rounded_not_cut_off():
    levels = torch.arange(256, dtype=torch.float32) / 255
    image = levels.view(1, 16, 16).expand(3, 16, 16)
    assert (report.to_uint8(image) == np.arange(256).reshape(16, 16, 1)).all()
    assert (report.to_uint8(image * (1 - 1e-6)) == np.arange(256).reshape(16, 16, 1)).all()


class Pair:
    """Two images called left and right; labels are grey levels times 100."""

    def __len__(self):
        return 2

    def name(self, index):
        return ["left", "right"][index]

    @staticmethod
    def decode_target(mask):
        return np.repeat((np.asarray(mask) * 100 % 256).astype(np.uint8)[..., None], 3, axis=-1)


def test_png_writer_writes_what_was_scored_under_the_images_names(tmp_path):
    images = torch.stack([torch.full((3, 2, 2), 0.2), torch.full((3, 2, 2), 1.0)])
    report.PngWriter(tmp_path / "out", Pair())([1, 0], images, torch.zeros(2, 2, 2).long(), torch.ones(2, 2, 2).long())
    pixel = {path.stem: np.array(Image.open(path))[0, 0, 0] for path in (tmp_path / "out").iterdir()}
    assert pixel == {"right_image": 51, "right_target": 0, "right_pred": 100, "right_overlay": 85,
                     "left_image": 255, "left_target": 0, "left_pred": 100, "left_overlay": 146}


class Recorder:
    enabled = True

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *args, **kwargs: self.calls.append((name, args, kwargs))


def test_samples_are_image_target_prediction_side_by_side():
    dashboard = Recorder()
    images = torch.ones(2, 3, 4, 5)
    report.Samples(dashboard, Pair(), 8)([0, 1], images, torch.zeros(2, 4, 5).long(), torch.ones(2, 4, 5).long())
    assert [args[0] for _, args, _ in dashboard.calls] == ["Sample 0", "Sample 1"]
    picture = dashboard.calls[0][1][1]
    assert picture.shape == (3, 4, 15)
    assert (picture[:, :, :5] == 255).all() and (picture[:, :, 5:10] == 0).all() and (picture[:, :, 10:] == 100).all()


def test_robustness_lines_start_at_clean():
    dashboard = Recorder()
    report.show_robustness(dashboard, rows())
    points = [(args[1], args[2], kwargs["line"]) for _, args, kwargs in dashboard.calls]
    assert points == [(0.0, 0.125, "fgsm linf"), (pytest.approx(2), 0.125, "fgsm linf"),
                      (0.0, 0.125, "pgd l2"), (0.7, 0.125, "pgd l2")]
