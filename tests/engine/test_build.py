"""From options to parts: devices, attacks, parallel replicas, checkpoints of others."""
import dataclasses
from pathlib import Path

import pytest
import torch
import torchvision

from engine import setup
from engine.evaluation import plan as planning
from engine.options import FLAGS, read_call
from engine.run.resume import Loaded, find_source, load_checkpoint
from engine.setup import Setup, build_data, build_network
from engine.training.build import build_training
from tests.calls import options_of
from utils.errors import UserError


def plan_attacks(options):
    return planning.plan_attacks(options, num_classes=21)


def test_attacks_are_every_attack_with_every_loss_at_every_eps_once():
    opts = options_of("--attack", "pgd", "none", "segpgd", "pgd", "--eps", "2/255", "4/255", "2/255", "--steps", "7",
                  "--alpha", "1/255", "--attack_seed", "5", "--attack_loss", "js", "ce", "js")
    attacks = plan_attacks(opts)
    assert [(attack.name, attack.attack_loss, attack.eps, attack.steps, attack.step_size) for attack in attacks] == [
        ("pgd", "js", 2 / 255, 7, 1 / 255), ("pgd", "js", 4 / 255, 7, 1 / 255),
        ("pgd", "ce", 2 / 255, 7, 1 / 255), ("pgd", "ce", 4 / 255, 7, 1 / 255),
        ("segpgd", "segpgd", 2 / 255, 7, 1 / 255), ("segpgd", "segpgd", 4 / 255, 7, 1 / 255)]  # its own loss
    assert attacks[0].seed == 5
    attack, *_ = plan_attacks(options_of("--attack", "pgd", "--attack_norm", "l2"))
    assert attack.norm == "l2" and attack.step_size == attack.eps / 4


def test_every_attack_has_its_own_number_of_steps_unless_told():
    names = ["pgd", "segpgd", "cospgd", "apgd", "race", "min_radius", "sea", "ensemble", "square"]
    steps = [attack.settings()["steps"] for attack in plan_attacks(options_of("--attack", *names, "--eps", "0.01"))]
    assert steps == [10, 10, 10, 100, 30, 100, 300, 300, 1000]
    asked = plan_attacks(options_of("--attack", *names, "--eps", "0.01", "--steps", "20", "--restarts", "2"))
    assert all(attack.settings()["steps"] == 20 and attack.settings()["restarts"] == 2
               for attack in asked if attack.name != "min_radius")


def test_every_flag_of_attacks_reaches_their_settings():
    """A flag that plan_attacks() forgets would be accepted and do nothing."""
    typed = {"attack_loss": ["js"], "steps": ["7"], "alpha": ["eps/9"], "best_iterate": [], "red_eps": [],
             "restarts": ["3"], "attack_seed": ["5"], "target_class": ["2"], "attack_norm": ["l2"],
             "race_aim": ["miou"], "min_radius_share": ["0.9"]}
    others = {"test_only", "attack", "eps", "warm_start", "val_images", "save_val_results", "sheet_images",
              "transfer_from", "protocol", "corrupt", "severity", "corrupt_baseline", "shard"}
    assert {name for name, flag in FLAGS.items() if flag.group == "attacked evaluation"} == typed.keys() | others
    for name, words in typed.items():
        attack = {"red_eps": "apgd", "race_aim": "race", "min_radius_share": "min_radius"}.get(name, "pgd")
        plain, other = (plan_attacks(options_of("--attack", attack, "--eps", "0.1", *flags))[0].settings()
                        for flags in ([], [f"--{name}", *words]))
        assert plain != other, name


def test_weights_are_read_for_balanced_losses_alone(monkeypatch):
    monkeypatch.setattr(planning, "build_datasets", lambda *_, **__: pytest.fail("the training set was read"))
    options = options_of("--attack", "apgd", "--attack_loss", "mce", "js", "--eps", "0.01")
    planning.weigh_classes(Setup(options, attacks=plan_attacks(options)))


def test_attacks_are_planned_once_and_get_their_class_weights_later():
    options = options_of("--dataset", "synthetic", "--test_only", "--attack", "sea", "pgd", "--eps", "0.01")
    attacks = planning.plan_attacks(options, num_classes=5)
    planning.weigh_classes(Setup(options, classes=setup.describe("synthetic"), source={"data_root": ""},
                                 attacks=attacks, val_set=()))
    sea, pgd = attacks
    (balanced,) = [member for member in sea.members if member.attack_loss == "mce_bal"]
    assert sum(balanced.class_weights) == pytest.approx(1) and len(balanced.class_weights) == 5
    assert balanced.class_weights[0] < min(balanced.class_weights[1:])  # background is the commonest class
    assert [member.class_weights for member in (*sea.members, pgd) if member is not balanced] != [
        balanced.class_weights] * 3


@pytest.mark.parametrize("flags", [[], ["--check_data"], ["--skip_bad_images"], ["--test_only", "--skip_bad_images"]])
def test_data_is_checked_as_the_flags_say(monkeypatch, flags):
    """check_and_filter() decides what is read; its data sets are the ones that the loaders have."""
    asked = {}

    def check_and_filter(sets, **settings):
        asked.update(settings, splits=list(sets))
        return {split: Subset(dataset) for split, dataset in sets.items()}

    class Subset:
        def __init__(self, dataset):
            self.dataset, self.skipped, self.same_size = dataset, ["train_0001"], True

        def __len__(self):
            return 7

    monkeypatch.setattr(setup, "check_and_filter", check_and_filter)
    test = "--test_only" in flags
    opts = options_of("--dataset", "synthetic", "--num_workers", "0", *flags, *([] if test else ["--batch_size", "2"]))
    train_loader, val_loader, val_set = build_data(
        opts, torch.device("cpu"), source=find_source(opts, None), skipped={"train": ["train_0001"]})
    assert asked == {"check_all": "--check_data" in flags, "skip_bad": "--skip_bad_images" in flags, "num_workers": 0,
                     "skipped": {"train": ["train_0001"]},
                     "splits": ["val"] if "--test_only" in flags else ["train", "val"]}
    assert val_loader.dataset.dataset is val_set and len(val_set) == 7
    assert train_loader is None if "--test_only" in flags else len(train_loader) == 3


def test_groups_are_backbone_then_classifier_at_their_rates():
    options = options_of("--no-pretrained_backbone", "--model", "deeplabv3_mobilenet", "--lr", "0.2")
    model = build_network(options, torch.device("cpu"), num_classes=5)
    optimizer, _ = build_training(options, model, model)
    backbone, classifier = optimizer.param_groups
    assert backbone["lr"] == pytest.approx(0.02) and classifier["lr"] == 0.2
    assert [group["momentum"] for group in optimizer.param_groups] == [0.9, 0.9]
    assert len(backbone["params"]) + len(classifier["params"]) == len(list(model.parameters()))
    assert {id(p) for p in classifier["params"]} == {id(p) for p in model.model.classifier.parameters()}


@pytest.mark.parametrize(("flags", "momentum"), [
    ([], 0.01), (["--bn_momentum", "0.1"], 0.1), (["--bn_momentum", "1"], 1)])
def test_the_backbones_batchnorm_has_vainfs_momentum_unless_told(flags, momentum):
    options = options_of("--no-pretrained_backbone", "--model", "deeplabv3_mobilenet", *flags)
    model = build_network(options, torch.device("cpu"), num_classes=5)
    backbone, head = ({module.momentum for module in part.modules() if hasattr(module, "running_mean")}
                      for part in (model.model.backbone, model.model.classifier))
    assert backbone == {momentum} and head == {0.1}


def test_a_checkpoint_replaces_the_download_and_brings_its_normalisation(monkeypatch):
    options = options_of("--model", "deeplabv3_mobilenet", "--ckpt", "some.pth")
    donor = build_network(dataclasses.replace(options, pretrained_backbone=False), torch.device("cpu"), num_classes=5)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: pytest.fail("a download"))
    half = {"mean": [0.5] * 3, "std": [0.5] * 3}
    saved = {"model_state": {f"module.{key}": value for key, value in donor.model.state_dict().items()},
             "normalization": half}
    model = build_network(options, torch.device("cpu"), num_classes=5, checkpoint=Loaded("some.pth", saved))
    assert model.normalization == half
    donor.normalization = half
    images = torch.rand(1, 3, 65, 65)
    assert torch.equal(model.eval()(images), donor.eval()(images))


@pytest.mark.slow
def test_torchvisions_weights_are_read_from_a_file_and_give_its_outputs(tmp_path):
    torch.manual_seed(0)
    segmentation = torchvision.models.segmentation
    theirs = segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None, aux_loss=True).eval()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    flags = ["--model", "deeplabv3_resnet50", "--ckpt", str(tmp_path / "theirs.pth"), "--test_only"]
    loaded = load_checkpoint(read_call(flags), Path("nowhere"))
    model = build_network(options_of(*flags, "--output_stride", "8"), torch.device("cpu"), num_classes=21,
                          checkpoint=loaded).eval()
    images = torch.rand(1, 3, 65, 65)
    mean, std = (torch.tensor(model.normalization[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    expected = theirs((images - mean) / std)["out"]
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)  # channels_last rounds otherwise
    with pytest.raises(UserError, match="--output_stride 8"):
        build_network(options_of(*flags), torch.device("cpu"), num_classes=21, checkpoint=loaded)
