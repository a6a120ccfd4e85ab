"""Runs that start from weights of other classes, or of the backbone alone; with a backbone that is not trained."""
import os
import signal

import pytest
import torch

import engine.setup
from engine.training.trainer import Trainer
from main import main
from tests import thin
from tests.calls import options_of
from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")
LAST = ["classifier.classifier.4.weight", "classifier.classifier.4.bias"]


@pytest.fixture
def foreign(tmp_path):
    """A file with the network's weights for 21 classes; synthetic has fewer."""
    torch.manual_seed(5)
    path = tmp_path / "voc.pth"
    torch.save({"state_dict": {f"model.{key}": value for key, value in thin.build(21, 16, False).state_dict().items()}},
               path)
    return path


@pytest.fixture
def train(small):
    def run(folder, *flags, itrs=2, base=("--lr", "0.1", "--backbone_lr_mult", "1")):
        return main([*small, "--output_dir", str(folder), "--total_itrs", str(itrs), "--val_interval", "2", *base,
                     *flags])

    return run


def weights(folder, kind="latest") -> dict:
    (path,) = folder.glob(f"{kind}_*.pth")
    return torch.load(path, weights_only=True)["model_state"]


def start_of(folder) -> dict:
    """The weights that a run of two iterations began with: its first checkpoint is the one before the last."""
    (path,) = folder.glob("previous1_*.pth")
    saved = torch.load(path, weights_only=True)
    assert saved["cur_itrs"] == 0
    return saved["model_state"]


def test_a_new_head_takes_everything_else_and_says_so(tmp_path, train, foreign, capsys):
    train(tmp_path, "--ckpt", str(foreign), "--new_head")
    theirs = {key.removeprefix("model."): value for key, value in torch.load(foreign)["state_dict"].items()}
    ours = start_of(tmp_path / "exp")
    assert all(torch.equal(value, ours[key]) for key, value in theirs.items() if key not in LAST)
    out = capsys.readouterr().out
    assert f"--new_head: took {len(theirs) - 2} tensors from {foreign}; new, for {len(ours[LAST[1]])} classes " in out
    assert f"instead of 21: {' and '.join(LAST)}" in out and f"Model restored from {foreign}" in out
    assert not torch.equal(weights(tmp_path / "exp")["backbone.low_level_features.0.0.weight"],
                           theirs["backbone.low_level_features.0.0.weight"])  # it is trained on


def test_without_the_flag_another_number_of_classes_names_it(tmp_path, small, foreign, refused):
    line = refused([*small, "--output_dir", str(tmp_path), "--ckpt", str(foreign)])
    assert "the file has 21 classes, the model" in line and "--new_head" in line
    assert not (tmp_path / "exp").exists()


@pytest.mark.parametrize("flags", [[], ["--optimizer", "SAM"], ["--adv", "--train_step", "1"],
                                   ["--optimizer", "SAM", "--adv", "--train_step", "1"]], ids=str)
def test_a_frozen_backbone_stays_and_the_head_is_trained(tmp_path, train, foreign, flags):
    train(tmp_path, "--ckpt", str(foreign), "--new_head", "--freeze_backbone", *flags,
          base=["--lr", "0.1"])
    before, after = start_of(tmp_path / "exp"), weights(tmp_path / "exp")
    for key, value in after.items():  # weights, BatchNorm's statistics and its counters
        assert torch.equal(value, before[key]) == key.startswith("backbone."), key


@pytest.mark.parametrize("recipe", [
    ["--optimizer", "SAM", "--adv", "--train_step", "1"], ["--freeze_backbone", "--optimizer", "adam"],
    ["--freeze_backbone", "--optimizer", "SAM", "--adv", "--train_step", "1"]], ids=" ".join)
def test_stopped_and_continued_ends_with_the_same_bits(tmp_path, train, foreign, monkeypatch, capsys, recipe):
    flags = ["--ckpt", str(foreign), "--new_head", *recipe]
    plain = Trainer.step

    def stop_at_two(trainer, *batch):
        if trainer.cur_itrs == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(trainer, *batch)

    train(tmp_path, "--exp_name", "whole", *flags, itrs=4, base=["--lr", "0.01"])
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(Trainer, "step", stop_at_two)
        train(tmp_path, "--exp_name", "cut", *flags, itrs=4, base=["--lr", "0.01"])
    assert stop.value.code == 143
    command = capsys.readouterr().out.partition("to continue: python main.py ")[2].splitlines()[0]
    assert "new_head" not in command and "ckpt" not in command
    foreign.unlink()  # the run has its weights
    main(command.split())
    whole, cut = (torch.load(next((tmp_path / name).glob("latest_*")), weights_only=True) for name in ("whole", "cut"))
    assert cut["cur_itrs"] == 4 and cut["options"]["freeze_backbone"] == ("--freeze_backbone" in recipe)
    for key, value in whole["model_state"].items():
        assert torch.equal(value, cut["model_state"][key]), key
    states = [state["optimizer_state"]["state"] for state in (whole, cut)]
    assert states[0].keys() == states[1].keys()
    for index, values in states[0].items():
        assert all(torch.equal(value, states[1][index][name]) for name, value in values.items()
                   if isinstance(value, torch.Tensor))


def test_under_torchrun_two_processes_start_alike_and_keep_the_backbone(tmp_path, start, small, foreign):
    done = start(*small, "--batch_size", "4", "--output_dir", str(tmp_path), "--ckpt", str(foreign), "--new_head",
                 "--freeze_backbone", "--optimizer", "SAM", "--total_itrs", "1", "--val_interval", "1", ranks=2)
    _, err = done.communicate(timeout=600)
    assert done.returncode == 0, err
    ours = weights(tmp_path / "exp")
    for key, value in torch.load(foreign)["state_dict"].items():
        if (name := key.removeprefix("model.")) not in LAST:
            assert torch.equal(ours[name], value) == name.startswith("backbone."), name


@pytest.mark.parametrize("prefix", ["", "backbone.", "module.backbone."])
def test_backbone_weights_are_loaded_instead_of_a_download(tmp_path, small, train, prefix, capsys):
    torch.manual_seed(6)
    state = thin.ThinBackbone(output_stride=16).state_dict()
    path = tmp_path / "imagenet.pth"
    torch.save({prefix + key: value for key, value in state.items()} | {"fc.weight": torch.ones(3, 3)}, path)
    train(tmp_path, "--backbone_weights", str(path))
    ours = start_of(tmp_path / "exp")
    assert all(torch.equal(ours["backbone." + key], value) for key, value in state.items())
    tensors = len([key for key in state if "num_batches" not in key])
    assert f"Backbone weights from {path}: {tensors} of {tensors} tensors" in capsys.readouterr().out


def test_with_published_weights_asked_for_the_file_is_still_what_is_loaded(tmp_path, monkeypatch):
    """The thin network fails if it is asked to download."""
    torch.save(thin.ThinBackbone(output_stride=16).state_dict(), tmp_path / "a.pth")
    options = options_of("--model", "deeplabv3_mobilenet", "--backbone_weights", str(tmp_path / "a.pth"))
    assert options.pretrained_backbone
    engine.setup.build_network(options, torch.device("cpu"), num_classes=3)


@pytest.mark.slow
def test_what_does_not_fit_is_refused_before_a_run_begins(tmp_path, small, refused):
    state = thin.ThinBackbone(output_stride=16).state_dict()
    key = next(iter(state))
    torch.save({"other." + name: torch.ones(3) for name in state}, tmp_path / "a.pth")
    line = refused([*small, "--output_dir", str(tmp_path), "--backbone_weights", str(tmp_path / "a.pth")])
    assert f"a.pth: 0 of the 20 tensors of the mobilenet backbone fit, at least 95% must: missing {key}" in line
    assert "no checkpoint at none.pth: check the path given to --backbone_weights" in refused(
        [*small, "--output_dir", str(tmp_path), "--backbone_weights", "none.pth"])
    assert not (tmp_path / "exp").exists()


@pytest.mark.parametrize(("argv", "message"), [
    (["--new_head"], "--new_head: takes all but the last layer from a file: give --ckpt FILE"),
    (["--ckpt", "a.pth", "--backbone_weights", "b.pth"], "--backbone_weights and --ckpt both have weights"),
    (["--continue_training", "--new_head"], "--new_head is for the start of a run"),
    (["--continue_training", "--backbone_weights", "b.pth"], "--backbone_weights is for the start of a run"),
    (["--test_only", "--new_head"], "leave out --new_head"),
    (["--freeze_backbone", "--no-pretrained_backbone"], "--freeze_backbone: for a trained backbone"),
    (["--freeze_backbone", "--model", "deeplabv3_hrnetv2_32"], "--freeze_backbone: for a trained backbone"),
    (["--freeze_backbone", "--ckpt", "a.pth", "--backbone_lr_mult", "1"], "--backbone_lr_mult: --freeze_backbone"),
    (["--freeze_backbone", "--ckpt", "a.pth", "--bn_momentum", "0.1"], "--bn_momentum: --freeze_backbone"),
])
def test_contradictions_are_refused_by_name(argv, message):
    with pytest.raises(UserError) as error:
        options_of(*argv)
    assert message in str(error.value)
