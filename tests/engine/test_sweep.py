"""sweep() on any module and any Dataset: as docs/python.md shows it, and what it refuses."""
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.models import segmentation

from attacks import FGSM, PGD
from engine.evaluation import sweep
from engine.records.store import read
from main import main
from network import NormalizedModel, modeling
from tests.conftest import ROOT, Toy

SCORES = ("Overall Acc", "Mean Acc", "FreqW Acc", "Mean IoU", "Image IoU", "loss", "radius", "forwards", "backwards")


def run_documented(folder) -> dict:
    """Run the code of docs/python.md in a folder, and return its names."""
    code, _ = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.S)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        names = {"__name__": "documented"}
        exec(compile(code, "docs/python.md", "exec"), names)
    return names


@pytest.fixture(scope="module")
def documented(tmp_path_factory):
    """(names, folder) of the documented lines as they stand, with torchvision's network."""
    folder = tmp_path_factory.mktemp("documented")
    return run_documented(folder), folder


class Dict(nn.Module):
    """Our network with the output that torchvision's has."""

    def __init__(self, num_classes):
        super().__init__()
        self.inner = modeling.deeplabv3_mobilenet(num_classes, output_stride=16, pretrained_backbone=False)
        for _ in range(20):  # statistics with which the logits depend on the image
            self.inner(torch.randn(4, 3, 65, 65))

    def forward(self, images):
        return {"out": self.inner(images)}


def test_the_documented_lines_give_the_numbers_of_main(tmp_path, monkeypatch):
    """The same network through main.py's --ckpt, the same images as PNG files of the CamVid layout."""
    monkeypatch.setattr(segmentation, "deeplabv3_resnet50", lambda *, num_classes, **_: Dict(num_classes))
    names = run_documented(tmp_path)
    torch.save(names["model"].net.inner.state_dict(), tmp_path / "ours.pth")
    for sub in ("val", "valannot"):
        (tmp_path / "data" / sub).mkdir(parents=True)
    for i in range(4):
        image, label = names["dataset"][i]
        Image.fromarray((255 * image).round().byte().permute(1, 2, 0).numpy()).save(tmp_path / f"data/val/{i}.png")
        Image.fromarray(label.byte().numpy()).save(tmp_path / f"data/valannot/{i}.png")
    rows = main(["--test_only", "--ckpt", str(tmp_path / "ours.pth"), "--model", "deeplabv3_mobilenet", "--dataset",
                 "camvid", "--data_root", str(tmp_path / "data"), "--num_workers", "0", "--val_batch_size", "2",
                 "--output_dir", str(tmp_path), "--attack", "fgsm", "pgd", "--attack_loss", "ce", "mce", "--eps",
                 "4/255", "--steps", "3"])["results"]
    theirs = {(row["attack"], row["attack_loss"]): row for row in rows if not row["members"]}
    ours = {(row["attack"], row["attack_loss"]): row for row in names["results"]["results"] if not row["members"]}
    assert ours.keys() == {("none", None), ("fgsm", "ce"), ("pgd", "mce")}
    for kind, row in ours.items():
        assert {score: row[score] for score in SCORES} == {score: theirs[kind][score] for score in SCORES}, kind
        iou = dict(zip(map(str, range(11)), theirs[kind]["Class IoU"].values(), strict=True))
        np.testing.assert_equal(row["Class IoU"], iou)
    assert ours["fgsm", "ce"]["loss"] > ours["none", None]["loss"]  # else this would compare little


@pytest.mark.slow
def test_the_documented_lines_leave_records_named_by_index(documented):
    _, folder = documented
    written = json.loads((folder / "my_network" / "results.json").read_text())
    assert written["images"] == ["0", "1", "2", "3"] and written["complete"] is True
    assert [row["attack"] for row in written["results"]] == ["none", "fgsm", "pgd", "worst case"]
    header, lines = read(next((folder / "my_network" / "records").glob("clean_*.jsonl")))
    assert list(lines) == ["0", "1", "2", "3"] and header["class_names"] == [str(k) for k in range(11)]


class Plain(Dataset):
    """Six images of noise in 4 classes."""

    def __init__(self, seed=1):
        generator = torch.Generator().manual_seed(seed)
        self.images = torch.rand(6, 3, 12, 10, generator=generator)
        self.labels = torch.randint(0, 4, (6, 12, 10), generator=generator)

    def __len__(self):
        return 6

    def __getitem__(self, i):
        return self.images[i], self.labels[i]


def test_it_continues_where_it_stopped_and_mixes_nothing(tmp_path, toy, monkeypatch):
    data, attacks = Plain(), [FGSM(eps=0.1), PGD(eps=0.1, steps=2)]
    whole = sweep(toy, DataLoader(data, 2), data, attacks, folder=tmp_path / "whole", num_classes=4)
    attempt, seen = PGD.attempt, []

    def fail_in_the_second_batch(attack, problem, initial):
        seen.append(attack.name)
        if seen.count("pgd") == 2:
            raise KeyboardInterrupt
        return attempt(attack, problem, initial)

    monkeypatch.setattr(PGD, "attempt", fail_in_the_second_batch)
    with pytest.raises(KeyboardInterrupt):
        sweep(toy, DataLoader(data, 2), data, attacks, folder=tmp_path / "cut", num_classes=4)
    part = json.loads((tmp_path / "cut" / "results.json").read_text())
    assert part["complete"] is False and [row["attack"] for row in part["results"]] == ["none", "fgsm"]
    monkeypatch.setattr(PGD, "attempt", lambda attack, *args: seen.append("again") or attempt(attack, *args))
    again = sweep(toy, DataLoader(data, 2), data, attacks, folder=tmp_path / "cut", num_classes=4)
    assert seen.count("again") == 2 and again["results"] == whole["results"]  # two batches of PGD were left
    for path in (tmp_path / "whole" / "records").iterdir():
        assert path.read_bytes() == (tmp_path / "cut" / "records" / path.name).read_bytes()
    other = Plain(seed=2)
    sweep(toy, DataLoader(other, 2), other, [], folder=tmp_path / "cut", num_classes=4)
    torch.manual_seed(5)
    sweep(Toy().eval(), DataLoader(data, 2), data, [], folder=tmp_path / "cut", num_classes=4)
    assert len(list((tmp_path / "cut" / "records").glob("clean_*.jsonl"))) == 3  # other images, other weights


def test_without_a_folder_nothing_is_written(tmp_path, toy, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = Plain()
    results = sweep(toy, DataLoader(data, 3), data, [FGSM(eps=0.1)], num_classes=4)
    assert len(results["results"]) == 2 and list(tmp_path.iterdir()) == []


def test_pictures_of_images_without_names_and_colours(tmp_path, toy):
    data = Plain()
    sweep(toy, DataLoader(data, 2), data, [FGSM(eps=0.1)], folder=tmp_path, num_classes=4, pictures=2)
    (folder,) = (tmp_path / "val_results").glob("fgsm_*")
    assert {path.name.split("_")[0] for path in folder.iterdir()} == {"0", "5"}


def test_any_module_also_one_without_weights(batch):
    class Brightest(nn.Module):
        def forward(self, images):
            return torch.cat([images, images.mean(1, keepdim=True)], dim=1)

    data = Plain()
    row = sweep(Brightest(), DataLoader(data, 2), data, [], num_classes=4)["results"][0]
    preds = torch.stack([torch.cat([image, image.mean(0, keepdim=True)]).argmax(0) for image, _ in data])
    assert row["Overall Acc"] == pytest.approx((preds == data.labels).double().mean().item(), abs=1e-12)


@pytest.mark.parametrize(("loader", "words"), [
    (lambda data: DataLoader(data, 2, shuffle=True), "in order"),
    (lambda data: DataLoader(data, None), "in order"),
    (lambda data: DataLoader(Plain(), 2), "another data set"),
    (lambda data: DataLoader(data, 2, collate_fn=lambda items: items), "collates in its own way"),
])
def test_loaders_that_cannot_be_right_are_refused(toy, loader, words):
    data = Plain()
    with pytest.raises(ValueError, match=words):
        sweep(toy, loader(data), data, [], num_classes=4)


class Named(Plain):
    """Items with an id of their own, all called the same."""

    def __getitem__(self, i):
        return *super().__getitem__(i), 100 - i

    def name(self, i):
        return "twin"


def test_what_else_an_item_holds_is_left_out(toy):
    class Ids(Plain):
        def __getitem__(self, i):
            return *super().__getitem__(i), 100 - i

    plain, ids = Plain(), Ids()
    one, other = (sweep(toy, DataLoader(data, 2), data, [], num_classes=4)["results"][0] for data in (plain, ids))
    assert one["Class IoU"] == other["Class IoU"] and one["loss"] == other["loss"]


def test_images_of_one_name_are_an_error(toy):
    data = Named()
    with pytest.raises(ValueError, match="two images are called twin"):
        sweep(toy, DataLoader(data, 2), data, [], num_classes=4)


def test_models_of_one_state_dict_never_share_records(tmp_path, toy):
    """Normalisation may be in buffers that a state_dict leaves out, or in the layers themselves."""
    data, found = Plain(), []
    for mean in ([0.2] * 3, [0.7] * 3):
        model = NormalizedModel(toy.body, mean, [0.2] * 3).eval()
        found.append(sweep(model, DataLoader(data, 2), data, [], folder=tmp_path, num_classes=4)["results"][0])
    assert found[0]["loss"] != found[1]["loss"] and found[0]["records"] != found[1]["records"]
    with pytest.raises(ValueError, match="no weights to tell it by"):
        sweep(nn.Identity(), DataLoader(data, 2), data, [], folder=tmp_path, num_classes=3)


def test_labels_of_other_integer_types(toy):
    class Bytes(Plain):
        def __getitem__(self, i):
            image, label = super().__getitem__(i)
            return image, label.byte()

    rows = [sweep(toy, DataLoader(one, 2), one, [FGSM(eps=0.1)], num_classes=4)["results"]
            for one in (Plain(), Bytes())]
    assert [row["Mean IoU"] for row in rows[0]] == [row["Mean IoU"] for row in rows[1]]


def test_classes_must_be_given(toy):
    data = Plain()
    with pytest.raises(ValueError, match="give class_names or num_classes"):
        sweep(toy, DataLoader(data, 2), data, [])
    with pytest.raises(ValueError, match="num_classes 3, but 2 class_names"):
        sweep(toy, DataLoader(data, 2), data, [], class_names=["a", "b"], num_classes=3)


def test_a_part_of_a_data_set_is_a_data_set(toy):
    part = Subset(Plain(), [4, 1])
    assert sweep(toy, DataLoader(part, 1), part, [], num_classes=4)["images"] == ["0", "1"]
