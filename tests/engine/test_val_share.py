"""Which images of --dataset folder validate: those of a checkpoint's run, a share of the training images, or val."""
import pytest

from engine.run.resume import Loaded, find_source
from tests.calls import options_of
from utils.errors import UserError

NAMES = ["03", "07"]


@pytest.fixture
def loaded(tmp_path):
    """The checkpoint of a run in tmp_path/own, whose validation images were drawn."""
    (tmp_path / "own" / "train").mkdir(parents=True)
    saved = {"dataset": "folder", "data_root": str(tmp_path / "own"), "val_share": 0.2, "model": "deeplabv3_resnet50"}
    return Loaded("a.pth", {"options": saved, "val_names": NAMES})


def source_of(loaded, *flags):
    return find_source(options_of(*flags, saved=loaded.content["options"]), loaded)


@pytest.mark.parametrize("mode", ["--test_only", "--continue_training"])
def test_the_images_of_the_run_validate(loaded, tmp_path, mode):
    assert source_of(loaded, mode)["val_names"] == NAMES
    assert source_of(loaded, mode, "--val_share", "0.2")["val_names"] == NAMES  # as the run had it
    assert source_of(loaded, mode, "--data_root", f"{tmp_path}/x/../own")["val_names"] == NAMES
    with pytest.raises(UserError, match="--val_share 0.5: .* a.pth names.*leave out"):
        source_of(loaded, mode, "--val_share", "0.5")


def test_in_another_folder_they_are_drawn_anew(loaded, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("engine.run.resume.logger.propagate", True)
    caplog.set_level("INFO")
    source = source_of(loaded, "--test_only", "--data_root", str(tmp_path / "other"), "--val_share", "0.5")
    assert source["val_names"] is None and source["val_share"] == 0.5
    assert f"drawn anew, a share of 0.5: --data_root is {tmp_path / 'other'}, and those of a.pth" in caplog.text


@pytest.mark.parametrize("flags", [("--dataset", "folder"), ("--test_only",)], ids=["new", "of a checkpoint"])
def test_a_share_beside_a_folder_of_validation_images_is_refused(loaded, tmp_path, flags, caplog, monkeypatch):
    monkeypatch.setattr("engine.run.resume.logger.propagate", True)
    root = tmp_path / "own"
    (root / "val").mkdir()
    call = ("--data_root", str(root), *flags)
    assert source_of(loaded, *call)["val_names"] is None
    said = f"the validation images are those in {root / 'val'}, not those that a.pth drew" in caplog.text
    assert said == ("--test_only" in flags)
    with pytest.raises(UserError, match=f"--val_share 0.2: {root / 'val'} holds .*leave out --val_share, or move"):
        source_of(loaded, *call, "--val_share", "0.2")
