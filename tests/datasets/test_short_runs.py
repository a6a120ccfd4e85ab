"""One short run on each loader: its scores, clean and attacked, are computed again from its PNGs and the tree's files.

The trees are generated in their authors' layouts; of each data set five classes appear, drawn as rectangles.
The scores of docs/data.md are what `pytest -s` on this file shows.
"""
import re

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix

from datasets import describe
from datasets.voc_aug import main as build_voc_aug
from main import main
from tests import thin

pytestmark = pytest.mark.slow
SIZE, TRAIN, VAL = (66, 98), 24, 6
COLOURS = np.array([(100, 100, 100), (200, 60, 60), (60, 200, 60), (60, 60, 200), (200, 200, 60)])


def draw(number, ids, ignored):
    """Return an image, uint8 [H, W, 3], and its labels by the data set's own ids."""
    random = np.random.default_rng(number)
    label = np.zeros(SIZE, dtype=np.int64)
    for kind in random.permutation(np.arange(1, 5)):
        top, left = random.integers(0, SIZE[0] - 24), random.integers(0, SIZE[1] - 24)
        label[top:top + random.integers(24, 56), left:left + random.integers(24, 56)] = kind
    image = COLOURS[label] + random.integers(-50, 51, (*SIZE, 3))
    label = np.array(ids)[label]
    label[:2] = ignored
    return image.astype(np.uint8), label


def save(pixels, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def cityscapes(root, ids, ignored):
    """Road, sky, car, building and person; id 4 is ignored."""
    for split, numbers in (("train", range(TRAIN)), ("val", range(TRAIN, TRAIN + VAL))):
        for number in numbers:
            image, label = draw(number, ids, ignored)
            name = f"ulm_{number:06d}_000019"
            save(image, root / "leftImg8bit" / split / "ulm" / f"{name}_leftImg8bit.png")
            save(label.astype(np.uint8), root / "gtFine" / split / "ulm" / f"{name}_gtFine_labelIds.png")


def iccv09(root, ids, ignored):
    """Sky to water; -1 is ignored. The loader chooses the 70 % that train."""
    for number in range(TRAIN + VAL):
        image, label = draw(number, ids, ignored)
        save(image, root / "images" / f"{number:07d}.jpg", quality=95)
        (root / "labels").mkdir(exist_ok=True)
        np.savetxt(root / "labels" / f"{number:07d}.regions.txt", label, fmt="%d")


def voc_aug(root, ids, ignored):
    """Background, aeroplane to bottle: half of the training masks come from SBD."""
    savemat = pytest.importorskip("scipy.io").savemat
    voc, sbd = root / "VOCdevkit" / "VOC2012", root / "SBD"
    (sbd / "dataset" / "cls").mkdir(parents=True)
    lists = {"train": [], "val": []}
    for number in range(TRAIN + VAL):
        image, label = draw(number, ids, ignored)
        name = f"2008_{number:06d}"
        save(image, voc / "JPEGImages" / f"{name}.jpg", quality=95)
        if number % 2 and number < TRAIN:
            savemat(sbd / "dataset" / "cls" / f"{name}.mat", {"GTcls": {"Segmentation": label.astype(np.uint8)}})
        else:
            save(label.astype(np.uint8), voc / "SegmentationClass" / f"{name}.png")
            lists["train" if number < TRAIN else "val"].append(name)
    for split, names in lists.items():
        path = voc / "ImageSets" / "Segmentation" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(names) + "\n")
    build_voc_aug(["--sbd", str(sbd), "--data_root", str(root)])


# The tree, flags, the ids of the five classes and of what is ignored, the numbers that these classes have in a network.
TREES = {"cityscapes": (cityscapes, [], [7, 23, 26, 11, 24], 4, [0, 10, 13, 2, 11]),
         "iccv09": (iccv09, [], [0, 1, 2, 3, 4], -1, [0, 1, 2, 3, 4]),
         "voc": (voc_aug, ["--year", "2012_aug"], [0, 1, 2, 3, 5], 255, [0, 1, 2, 3, 5])}


@pytest.mark.parametrize("dataset", TREES)
def test_scores_clean_and_attacked(dataset, tmp_path, one_thread):
    write, flags, ids, ignored, classes = TREES[dataset]
    write(tmp_path / "data", ids, ignored)
    with thin.installed():
        content = main([
            "--dataset", dataset, "--data_root", str(tmp_path / "data"), *flags, "--no-pretrained_backbone", "--lr",
            "0.1", "--backbone_lr_mult", "1", "--bn_momentum", "0.1", "--crop_size", "65", "--batch_size", "8",
            "--total_itrs", "300", "--model", thin.NAME, "--num_workers", "0", "--attack", "pgd", "--eps", "4/255",
            "16/255", "--save_val_results", "--output_dir", str(tmp_path / "runs")])
    clean, *attacked = (row["Mean IoU"] for row in content["results"])
    for row, kind in zip(content["results"], ("clean", "pgd_linf_4-255", "pgd_linf_16-255"), strict=True):
        folder, = (tmp_path / "runs" / "exp" / "val_results").glob(f"{kind}_*")
        wanted, found = [], []
        for name in content["images"]:
            _, label = draw(int(re.search(r"\d{5,}", name)[0]), ids, ignored)
            wanted.append(label.ravel())
            with Image.open(folder / f"{name}_pred.png") as picture:
                found.append(np.array(picture.convert("RGB")).reshape(-1, 3))
        wanted, found = np.concatenate(wanted), np.concatenate(found)
        number = {tuple(colour): k for k, colour in enumerate(describe(dataset).palette.tolist())}
        found = np.array([number[tuple(colour)] for colour in found.tolist()])
        valid = wanted != ignored
        matrix = confusion_matrix([classes[ids.index(k)] for k in wanted[valid]], found[valid])
        union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
        assert row["Mean IoU"] == pytest.approx((matrix.diagonal() / union).mean(), abs=1e-9)
    assert clean > 0.5 and clean > attacked[0] > attacked[1]
