"""Tables, results.json and pictures."""
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from attacks import APGD, FGSM, PGD, SegPGD, SignNoise, Square
from engine.evaluation.dashboard import Samples, show_results, show_robustness
from engine.evaluation.evaluate import Scored
from engine.evaluation.pictures import Pictures
from engine.records import naming
from engine.records.summary import format_table, write_results
from utils.images import choose_evenly, to_uint8

SCORES = {"Overall Acc": 0.75, "Image IoU": 0.5, "Mean IoU": 0.125, "Mean IoU lower": None,
          "Class IoU": {"road": 0.1, "sky": math.nan}}


def rows():
    """Clean, two attacks, and a worst case, which has no settings of its own."""
    clean = {"attack": "none", "norm": None, "eps": 0.0, "steps": 0}
    attacks = [FGSM(eps=2 / 255).settings(), PGD(eps=0.7, norm="l2", steps=20, attack_loss="js").settings()]
    members = [{**settings, "settings": settings, **SCORES} for settings in [clean, *attacks]]
    union = {"attack": "worst case", "norm": "linf", "eps": 2 / 255, "steps": None, "settings": None, **SCORES}
    return [*members, {**union, "Mean IoU lower": 0.0625}]


@pytest.mark.parametrize(("attack", "name", "label"), [
    (FGSM(eps=1 / 255), "fgsm", "fgsm_linf_1-255_1steps"),
    (PGD(eps=0.5, norm="l2", restarts=3), "pgd", "pgd_l2_0.5_10steps_3restarts"),
    (PGD(eps=4 / 255, attack_loss="js"), "pgd-js", "pgd-js_linf_4-255_10steps"),
    (SegPGD(eps=4 / 255), "segpgd", "segpgd_linf_4-255_10steps"),
    (APGD(eps=4 / 255, attack_loss="mce", red_eps=True), "red-apgd-mce", "red-apgd-mce_linf_4-255_100steps"),
    (PGD(eps=4 / 255, target=3), "pgd-to-3", "pgd-to-3_linf_4-255_10steps"),
    (Square(eps=4 / 255, steps=50), "square", "square_linf_4-255_50steps"),
    (SignNoise(eps=4 / 255), "sign_noise", "sign_noise_linf_4-255"),
])
def test_an_attacks_name_and_its_file_name_say_what_it_is(attack, name, label):
    assert (naming.name_attack(attack.settings()), naming.make_label(attack.settings())) == (name, label)


def test_a_target_map_is_named_by_its_content():
    first, second = (naming.make_label(PGD(eps=0.1, target=torch.full((2, 2), k)).settings()) for k in (0, 1))
    assert first != second and first.startswith("pgd-to-map-") and "/" not in first and " " not in first


@pytest.mark.parametrize(("norm", "eps", "text"), [
    ("linf", 4 / 255, "4/255"), ("linf", 0.25 / 255, "0.25/255"), ("linf", 16 / 255, "16/255"), ("linf", 0.03, "0.03"),
    ("linf", 0.1, "0.1"), ("linf", 0.0, "0"), ("l2", 0.7, "0.7"), ("l2", 2.0, "2"), (None, 0.0, "0")])
def test_radius_is_written_in_grey_levels_where_it_is_one(norm, eps, text):
    assert naming.format_radius({"norm": norm, "eps": eps}) == text


def test_table_has_one_line_a_row():
    lines = format_table(rows()).splitlines()
    assert len(lines) == 6 and len({len(line) for line in lines}) == 1
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["Attack", "Norm", "eps", "Steps", "Mean IoU", "over", "Overall Acc", "Image IoU"]
    assert cells[3] == ["fgsm", "linf", "2/255", "1", "0.1250", "1 of 2 classes", "0.7500", "0.5000"]
    assert cells[4][:4] == ["pgd-js", "l2", "0.7", "20"]
    assert cells[5][:5] == ["worst case", "linf", "2/255", "-", "0.1250 (>= 0.0625)"]


def test_the_number_of_classes_is_shown_only_if_some_are_left_out_and_undefined_scores_are_a_dash():
    whole = [{**row, "Class IoU": {"road": 0.1, "sky": 0.0}} for row in rows()]
    assert "over" not in format_table(whole)
    nothing = {**whole[0], **dict.fromkeys(("Mean IoU", "Overall Acc", "Image IoU"), math.nan)}
    assert format_table([nothing]).splitlines()[-1].replace(" ", "") == "|none|-|0|0|-|-|-|"


def test_results_are_strict_json_and_old_ones_are_kept(tmp_path):
    path = tmp_path / "results.json"
    for number in range(3):
        write_results(path, {"options": {"n": number}, "results": rows()})

    def no_constant(text):
        raise ValueError(text)

    loaded = json.loads(path.read_text(), parse_constant=no_constant)
    assert loaded["options"]["n"] == 2 and loaded["results"][0]["Class IoU"] == {"road": 0.1, "sky": None}
    assert [json.loads((tmp_path / f"results.{n}.json").read_text())["options"]["n"] for n in (1, 2)] == [0, 1]


def test_pixels_are_rounded_not_cut_off():
    levels = torch.arange(256, dtype=torch.float32) / 255
    image = levels.view(1, 16, 16).expand(3, 16, 16)
    assert (to_uint8(image) == np.arange(256).reshape(16, 16, 1)).all()
    assert (to_uint8(image * (1 - 1e-6)) == np.arange(256).reshape(16, 16, 1)).all()


class Pair:
    """Two images called left and right; labels are grey levels times 100."""

    def __len__(self):
        return 2

    def name(self, index):
        return ["left", "right"][index]

    @staticmethod
    def decode_target(mask):
        return np.repeat((np.asarray(mask) * 100 % 256).astype(np.uint8)[..., None], 3, axis=-1)


def scored(images, clean=None, preds=None):
    """Two 2x2 (or other) images as evaluated, labels all 0, predictions all 1; the second image comes first."""
    shape = (2, *images.shape[2:])
    return Scored([1, 0], images if clean is None else clean, images, torch.zeros(shape).long(), torch.zeros(0),
                  torch.ones(shape).long())


def test_pictures_are_what_was_scored_under_the_images_names(tmp_path):
    images = torch.stack([torch.full((3, 2, 2), 0.2), torch.full((3, 2, 2), 1.0)])
    clean = images.clone()
    clean[0, :, 0, 0] -= 0.02
    clean[0, :, 1, 1] += 0.01
    pictures = Pictures(tmp_path / "out", Pair(), ["left", "right"], count=2)
    assert pictures.lacks("pgd", "left") and pictures.lacks("pgd", "right")
    pictures.write("pgd", pictures.draw(scored(images, clean)))
    assert not pictures.lacks("pgd", "left") and not pictures.lacks("pgd", "right")
    drawn = {path.stem: np.array(Image.open(path)) for path in (tmp_path / "out" / "pgd").iterdir()}
    assert {name: picture[0, 1, 0] for name, picture in drawn.items()} == {
        "right_image": 51, "right_target": 0, "right_pred": 100, "right_overlay": 85, "right_perturbation": 128,
        "left_image": 255, "left_target": 0, "left_pred": 100, "left_overlay": 146, "left_perturbation": 128}
    assert drawn["right_perturbation"][..., 0].tolist() == [[255, 128], [128, 64]]  # +0.02 white, -0.01 half-way down


def test_pictures_are_of_as_many_images_as_asked_for(tmp_path):
    images = torch.rand(2, 3, 2, 2)
    for count, expected in ((0, set()), (1, {"left"}), (5, {"left", "right"})):
        pictures = Pictures(tmp_path / str(count), Pair(), ["left", "right"], count=count)
        pictures.write("clean", pictures.draw(scored(images)))
        assert {path.name.split("_")[0] for path in (tmp_path / str(count)).rglob("*.png")} == expected
        assert not pictures.lacks("clean", "left") and not pictures.lacks("clean", "right")


@pytest.mark.parametrize(("length", "count", "places"), [
    (10, 3, [0, 4, 9]), (3, 3, [0, 1, 2]), (2, 5, [0, 1]), (7, 1, [0]), (7, 0, []), (101, 4, [0, 33, 66, 100])])
def test_evenly_spaced(length, count, places):
    assert choose_evenly(length, count) == places


class Recorder:
    enabled = True

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *args, **kwargs: self.calls.append((name, args, kwargs))


def test_samples_are_image_target_prediction_side_by_side():
    dashboard = Recorder()
    Samples(dashboard, Pair(), 8)(scored(torch.ones(2, 3, 4, 5)))
    assert [args[0] for _, args, _ in dashboard.calls] == ["Sample 1", "Sample 0"]
    picture = dashboard.calls[0][1][1]
    assert picture.shape == (3, 4, 15)
    assert (picture[:, :, :5] == 255).all() and (picture[:, :, 5:10] == 0).all() and (picture[:, :, 10:] == 100).all()


def test_robustness_lines_start_at_clean():
    dashboard = Recorder()
    show_robustness(dashboard, rows())
    (what, (window, lines), _), = dashboard.calls
    assert (what, window) == ("curves", "Robust Mean IoU")
    assert lines == {"fgsm linf": [(0.0, 0.125), (pytest.approx(2), 0.125)],
                     "pgd-js l2": [(0.0, 0.125), (0.7, 0.125)],
                     "worst case linf": [(0.0, 0.125), (pytest.approx(2), 0.125)]}


def test_samples_under_attack_are_a_few_of_the_images_that_have_pictures(tmp_path):
    """--save_val_results writes pictures of all images, of which a dashboard would show thousands."""
    names = [f"img_{k:02}" for k in range(30)]
    table = [{**row, "settings": {**row, "target": None}, "records": [row["attack"]], "members": [],
              "Class IoU": {"a": 0.5}, "Overall Acc": 0.5, "Image IoU": 0.5, "Mean IoU lower": None}
             for row in rows()[:2]]
    for level, row in enumerate(table):
        (tmp_path / row["records"][0]).mkdir()
        for name in names[3:]:
            for k, kind in enumerate(("image", "target", "pred", "perturbation")):
                Image.new("RGB", (5, 4), (level, k, 0)).save(tmp_path / row["records"][0] / f"{name}_{kind}.png")
    dashboard = Recorder()
    show_results(dashboard, table, tmp_path, names)
    shown = [(args[0], args[1]) for what, args, _ in dashboard.calls if what == "image"]
    assert len(shown) == 8 and shown[0][0] == "img_03: fgsm linf 2/255" and shown[-1][0].startswith("img_29: ")
    picture = shown[0][1]
    assert picture.shape == (3, 4, 25)
    assert picture[0, 0, ::5].tolist() == [0, 0, 0, 1, 1] and picture[1, 0, ::5].tolist() == [0, 1, 2, 2, 3]
