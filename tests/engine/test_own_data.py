"""--dataset folder through training, testing and prediction."""
import shutil

import numpy as np
import pytest
from PIL import Image

from main import main
from predict import predict

RNG = np.random.default_rng(0)


def put(root, name):
    """Write an image and its mask of the labels 0 to 2."""
    for kind, content in (("images", RNG.integers(0, 256, (66, 70, 3))), ("masks", RNG.integers(0, 3, (66, 70)))):
        (root / "train" / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(content.astype(np.uint8)).save(root / "train" / kind / f"{name}.png")


@pytest.mark.slow
def test_a_run_is_tested_on_the_images_that_it_did_not_train_on(tmp_path, one_thread, refused):
    root, runs = tmp_path / "own", ["--output_dir", str(tmp_path / "runs"), "--num_workers", "0"]
    for name in range(8):
        put(root, name)
    (root / "classes.txt").write_text("a 1 2 3\nb\nc\n")
    trained = main(["--dataset", "folder", "--data_root", str(root), "--val_share", "0.25", "--no-pretrained_backbone",
                    "--model", "deeplabv3_mobilenet", "--crop_size", "65", "--batch_size", "2", "--total_itrs", "1",
                    *runs])
    names = (tmp_path / "runs" / "exp" / "val_images.txt").read_text().split()
    assert len(names) == 2 and trained["images"] == names
    for name in range(100, 120):  # a new share of them would be others
        put(root, name)
    tested = main(["--test_only", *runs])
    assert tested["images"] == names and tested["results"] == trained["results"]
    assert list(tested["results"][0]["Class IoU"]) == ["a", "b", "c"]
    (root / "classes.txt").write_text("b\na 1 2 3\nc\n")
    for call, argv in ((main, ["--test_only"]), (main, ["--verify"]), (predict, ["--input", str(root)])):
        line = refused([*argv, *runs[:2]], call=call)
        assert "classes.txt has the classes b, a, c, but" in line and "was trained for a, b, c: write these" in line
    shutil.rmtree(root)
    photo = tmp_path / "photo.png"
    Image.fromarray(RNG.integers(0, 256, (66, 70, 3)).astype(np.uint8)).save(photo)
    (written,) = predict(["--input", str(photo), "--save_val_results_to", str(tmp_path / "out"), *runs[:2]])
    with Image.open(written) as label_map:
        assert label_map.getpalette()[:3] == [1, 2, 3]
