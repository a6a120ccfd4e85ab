"""Flags: what they accept, what they refuse, what they mean."""
import argparse

import pytest

from engine import flags, options
from utils import distributed
from utils.errors import UserError


def parsed(*argv):
    return options.complete(options.parse_options(list(argv)))


def test_defaults_are_vainfs_where_it_has_them():
    opts = parsed()
    assert (opts.data_root, opts.dataset, opts.year) == ("./datasets/data", "voc", "2012")
    assert (opts.model, opts.output_stride, opts.separable_conv) == ("deeplabv3plus_mobilenet", 16, False)
    assert (opts.total_itrs, opts.lr, opts.lr_policy, opts.step_size) == (30000, 0.01, "poly", 10000)
    assert (opts.batch_size, opts.val_batch_size, opts.crop_size) == (16, 4, 513)
    assert (opts.loss_type, opts.weight_decay, opts.random_seed) == ("cross_entropy", 1e-4, 1)
    assert (opts.print_interval, opts.val_interval, opts.vis_num_samples, opts.vis_port) == (10, 100, 8, 13570)
    assert (opts.optimizer, opts.rho, opts.sam_start_itr, opts.backbone_lr_mult) == ("sgd", 0.02, 0, 0.1)
    assert (opts.attack, opts.attack_norm, opts.steps, opts.alpha) == (["none"], "linf", None, "eps/4")
    assert opts.pretrained_backbone and type(opts.total_itrs) is int and opts.gpu_id is None


def test_numbers_are_read_as_people_write_them():
    opts = parsed("--total_itrs", "30e3", "--rho", "0.05", "--eps", "4/255", "0.5", "0", "0.5/255", "--lr", "1e-3",
                  "--adaptive", "--optimizer", "SAM", "--attack", "pgd")
    assert opts.total_itrs == 30000 and type(opts.total_itrs) is int
    assert opts.eps == [4 / 255, 0.5, 0.0, 0.5 / 255]
    assert opts.rho == 0.05 and opts.lr == 0.001 and opts.adaptive is True


@pytest.mark.parametrize(("alpha", "size"), [("eps/4", 0.02), ("eps", 0.08), ("eps/2.5", 0.032), ("1/255", 1 / 255),
                                             ("0.01", 0.01)])
def test_alpha_is_a_share_of_eps_or_a_number(alpha, size):
    assert options.step_size(parsed("--attack", "pgd", "--alpha", alpha).alpha, 0.08) == pytest.approx(size, rel=1e-12)


@pytest.mark.parametrize(("flags", "line"), [
    (["--total_itrs", "1.5"], "1.5 is not a whole number"),
    (["--total_itrs", "0"], "0 is out of bounds: 1 or more"),
    (["--total_itrs", "many"], "'many' is no number"),
    (["--lr", "0"], "0 is out of bounds: above 0"),
    (["--lr", "nan"], "'nan' is no number"),
    (["--rho", "-0.1"], "-0.1 is out of bounds: 0 or more"),
    (["--crop_size", "64"], "64 is out of bounds: 65 to 16384"),
    (["--eps", "1e400"], "1e400 is out of bounds: at most 1e+18"),
    (["--random_seed", "4294967296"], "0 to 4294967295"),
    (["--exp_name", ""], "'' is empty: give a value"),
    (["--exp_name", "../mine"], "a name for a folder"),
    (["--exp_name", "/tmp/mine"], "a name for a folder"),
    (["--eps", "4/0"], "'4/0' is no number"),
    (["--eps=-4/255"], "-4/255 is out of bounds: 0 or more"),
    (["--alpha", "eps*2"], "write a share of eps such as eps/4"),
    (["--alpha", "0"], "write a share of eps such as eps/4"),
    (["--alpha", "eps/0"], "write a share of eps such as eps/4"),
    (["--vis_port", "70000"], "1 to 65535"),
    (["--model", "deeplabv4"], "deeplabv3plus_mobilenet"),
    (["--attack", "psd"], "'none', 'fgsm', 'pgd'"),
    (["--attack"], "expected at least one argument"),
    (["--optimizer", "sam"], "'sgd', 'adam', 'SAM'"),
    (["--batchsize", "4"], "unrecognized arguments: --batchsize 4 (did you mean --batch_size?)"),
    (["--total", "4"], "unrecognized arguments: --total 4 (did you mean --total_itrs?)"),
    (["--zzz", "4"], "unrecognized arguments: --zzz 4 (--help lists all flags)"),
])
def test_a_bad_value_is_named_with_its_remedy(flags, line, capsys):
    with pytest.raises(SystemExit) as stop:
        options.parse_options(flags)
    (said,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and said.startswith("error: ") and line in said


def test_of_several_processes_one_says_what_is_wrong(monkeypatch, capsys):
    for name in distributed.TORCHRUN:
        monkeypatch.setenv(name, "1")  # this is rank 1
    waited = []
    monkeypatch.setattr(flags.time, "sleep", waited.append)
    with pytest.raises(SystemExit) as stop:
        options.parse_options(["--lr", "0"])
    assert (stop.value.code, waited, capsys.readouterr().err) == (2, [flags.TURN], "")


@pytest.mark.parametrize(("flags", "line"), [
    (["--eps", "64"], "--eps 64: for linf at most 1.*64/255"),
    (["--alpha", "2"], "--alpha 2: for linf at most 1.*2/255"),
    (["--model", "deeplabv3_hrnetv2_32", "--output_stride", "8"], "--output_stride 8: deeplabv3_hrnetv2_32 takes 4"),
    (["--output_stride", "4"], "takes 8 or 16"),
    (["--test_only", "--continue_training"], "--test_only trains nothing: leave out --continue_training"),
    (["--test_only", "--overwrite"], "--test_only trains nothing"),
    (["--verify", "--overwrite"], "--verify trains nothing"),
    (["--overwrite", "--continue_training"], "--continue_training keeps the run that --overwrite would delete"),
    (["--val_images", "3"], "--val_images is for --test_only and --verify"),
    (["--report_dir", "x"], "--report_dir is where --report writes"),
    (["--eps", "4/255"], "--eps is for --attack, which is not given; a training's own is --train_eps"),
    (["--test_only", "--attack_norm", "l2"], "--attack_norm is for --attack, which is not given"),
    (["--verify", "--attack", "pgd", "--steps", "3"], "--verify runs attacks of its own: leave out --attack, --steps"),
    (["--verify", "--attack_norm", "l2"], "--verify checks linf attacks .* leave out --attack_norm"),
    (["--verify", "--eps", "0"], "--eps 0: --verify checks attacks at a radius above 0"),
    (["--num_classes", "20"], "--num_classes 20: voc has 21"),
    (["--dataset", "camvid", "--year", "2012"], "--year: for --dataset voc, this run has camvid"),
    (["--dataset", "synthetic", "--download"], "--download: for --dataset voc, this run has synthetic"),
    (["--optimizer", "SAM", "--sam_start_itr", "10000", "--total_itrs", "10000"], "SAM would never run"),
])
def test_a_contradiction_is_named(flags, line):
    with pytest.raises(UserError, match=line):
        parsed(*flags)


def test_defaults_that_hang_on_other_flags():
    assert parsed("--model", "deeplabv3_hrnetv2_48").output_stride == 4
    assert parsed("--optimizer", "adam").lr == 5e-4 and parsed("--optimizer", "adam", "--lr", "0.1").lr == 0.1
    l2 = ["--attack", "pgd", "--attack_norm", "l2"]
    assert parsed().eps == [2 / 255, 4 / 255, 8 / 255] and parsed(*l2).eps == [0.5, 1.0, 2.0]
    assert parsed(*l2, "--eps", "64").eps == [64.0]
    assert parsed("--no-pretrained_backbone").pretrained_backbone is False


@pytest.mark.parametrize("argv", [
    "--model deeplabv3plus_mobilenet --enable_vis --vis_port 28333 --gpu_id 0 --year 2012_aug --crop_val --lr 0.01 "
    "--crop_size 513 --batch_size 16 --output_stride 16",
    "--model deeplabv3plus_mobilenet --enable_vis --vis_port 28333 --gpu_id 0 --year 2012_aug --crop_val --lr 0.01 "
    "--crop_size 513 --batch_size 16 --output_stride 16 --ckpt best.pth --test_only --save_val_results",
    "--model deeplabv3plus_mobilenet --enable_vis --vis_port 28333 --gpu_id 0,1 --year 2012_aug --crop_val --lr 0.01 "
    "--crop_size 513 --batch_size 16 --output_stride 16 --ckpt latest.pth --continue_training",
])
def test_what_vainfs_readme_types_is_accepted(argv):
    assert parsed(*argv.split()).vis_port == 28333


def test_given_is_what_argv_sets_even_to_the_default():
    opts = options.parse_options(["--lr", "0.01", "--test_only", "--attack", "none", "--no-pretrained_backbone"])
    assert opts.given == {"lr", "test_only", "attack", "pretrained_backbone"}


def test_a_test_takes_what_describes_the_run_from_the_checkpoint_unless_given():
    saved = {**options.to_dict(parsed()), "model": "deeplabv3_resnet50", "dataset": "camvid", "lr": 0.3, "eps": [0.9]}
    saved |= {"random_seed": 7, "crop_val": True, "optimizer": "SAM"}
    opts = options.parse_options(["--test_only", "--dataset", "voc", "--no-crop_val"])
    taken = options.adopt(opts, saved)
    assert taken == {"model": "deeplabv3_resnet50", "output_stride": 16, "lr": 0.3, "random_seed": 7,
                     "optimizer": "SAM"}
    assert opts.dataset == "voc" and opts.eps is None and opts.crop_val is False


def test_options_are_said_as_one_would_type_them():
    assert options.as_flags({"crop_val": True, "adaptive": False, "lr": 0.1}) == "--crop_val --no-adaptive --lr 0.1"


def test_a_continued_run_takes_all_but_what_belongs_to_one_call():
    saved = options.to_dict(parsed())
    saved |= {"lr": 0.3, "optimizer": "adam", "batch_size": 3, "eps": [0.9], "overwrite": True}
    opts = options.parse_options(["--continue_training", "--batch_size", "5"])
    options.adopt(opts, saved)
    assert (opts.lr, opts.optimizer, opts.batch_size, opts.eps, opts.overwrite) == (0.3, "adam", 5, None, False)


def test_an_unknown_saved_option_is_not_taken():
    opts = options.parse_options(["--continue_training"])
    assert "future_flag" not in options.adopt(opts, {"future_flag": 1}) and not hasattr(opts, "future_flag")


def test_help_tells_each_default_truly(capsys):
    with pytest.raises(SystemExit):
        options.parse_options(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    parser = options.build_parser()
    for action in parser._actions:
        if action.default is argparse.SUPPRESS or action.default is None or isinstance(action.default, bool):
            continue  # said in words where they say anything
        said = f"(default: {action.default if action.dest != 'attack' else 'none'}"
        assert f"{said})" in text or f"{said}; {getattr(action.type, 'bounds', None)})" in text, action.dest
    assert "--sam_start_itr SAM_START_ITR plain steps before this iteration; below 1 it is a share" in text
    assert "deeplabv3plus_hrnetv2_48" in text
