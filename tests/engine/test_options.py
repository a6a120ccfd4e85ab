"""Flags: what they accept, what they refuse, what they mean."""
import dataclasses
import subprocess
import sys

import pytest

from engine.options import FLAGS, TRAIN, as_flags, read_call
from engine.options import parser as parsing
from engine.options.declare import OWN_MODES
from engine.options.types import compute_step_size
from export import export
from main import main
from predict import predict
from tests.calls import options_of
from utils import launch
from utils.errors import UserError


def test_defaults_are_vainfs_where_it_has_them():
    opts = options_of()
    assert (opts.data_root, opts.dataset, opts.year) == ("./datasets/data", "voc", "2012")
    assert (opts.model, opts.output_stride, opts.separable_conv) == ("deeplabv3plus_mobilenet", 16, False)
    assert (opts.total_itrs, opts.lr, opts.lr_policy, opts.step_size) == (30000, 0.01, "poly", 10000)
    assert (opts.batch_size, opts.val_batch_size, opts.crop_size) == (16, 4, 513)
    assert (opts.loss_type, opts.weight_decay, opts.random_seed) == ("cross_entropy", 1e-4, 1)
    assert (opts.print_interval, opts.val_interval, opts.vis_num_samples, opts.vis_port) == (10, 100, 8, 13570)
    assert (opts.optimizer, opts.rho, opts.sam_start_itr, opts.backbone_lr_mult) == ("sgd", 0.02, 0, 0.1)
    assert (opts.attack, opts.attack_norm, opts.steps, opts.alpha) == (("none",), "linf", None, "eps/4")
    assert opts.pretrained_backbone and type(opts.total_itrs) is int and opts.gpu_id is None


def test_numbers_are_read_as_people_write_them():
    opts = options_of("--total_itrs", "30e3", "--rho", "0.05", "--eps", "4/255", "0.5", "0", "0.5/255", "--lr", "1e-3",
                  "--adaptive", "--optimizer", "SAM", "--attack", "pgd")
    assert opts.total_itrs == 30000 and type(opts.total_itrs) is int
    assert opts.eps == (4 / 255, 0.5, 0.0, 0.5 / 255)
    assert opts.rho == 0.05 and opts.lr == 0.001 and opts.adaptive is True


@pytest.mark.parametrize(("alpha", "size"), [("eps/4", 0.02), ("eps", 0.08), ("eps/2.5", 0.032), ("1/255", 1 / 255),
                                             ("0.01", 0.01)])
def test_alpha_is_a_share_of_eps_or_a_number(alpha, size):
    options = options_of("--attack", "pgd", "--alpha", alpha)
    assert compute_step_size(options.alpha, 0.08) == pytest.approx(size, rel=1e-12)


@pytest.mark.parametrize(("flags", "line"), [
    (["--total_itrs", "1.5"], "1.5 is not a whole number"),
    (["--total_itrs", "0"], "0 is out of bounds: 1 or more"),
    (["--total_itrs", "many"], "'many' is not a number"),
    (["--lr", "0"], "0 is out of bounds: above 0"),
    (["--lr", "nan"], "'nan' is not a number"),
    (["--rho", "-0.1"], "-0.1 is out of bounds: 0 or more"),
    (["--crop_size", "64"], "64 is out of bounds: 65 to 16384"),
    (["--eps", "1e400"], "1e400 is out of bounds: at most 1e+18"),
    (["--random_seed", "4294967296"], "0 to 4294967295"),
    (["--exp_name", ""], "'' is empty: give a value"),
    (["--exp_name", "../mine"], "give a name for a folder"),
    (["--exp_name", "/tmp/mine"], "give a name for a folder"),
    (["--eps", "4/0"], "'4/0' is not a number"),
    (["--eps=-4/255"], "-4/255 is out of bounds: 0 or more"),
    (["--alpha", "eps*2"], "write a share of eps such as eps/4"),
    (["--alpha", "0"], "write a share of eps such as eps/4"),
    (["--alpha", "eps/0"], "write a share of eps such as eps/4"),
    (["--vis_port", "70000"], "1 to 65535"),
    (["--model", "deeplabv4"], "deeplabv3plus_mobilenet"),
    (["--attack", "psd"], "choose from none, fgsm, pgd"),
    (["--attack"], "expected at least one argument"),
    (["--optimizer", "sam"], "choose from sgd, adam, adamw, SAM"),
    (["--batchsize", "4"], "unrecognized arguments: --batchsize 4 (did you mean --batch_size?)"),
    (["--total", "4"], "unrecognized arguments: --total 4 (did you mean --total_itrs?)"),
    (["--zzz", "4"], "unrecognized arguments: --zzz 4 (--help lists all flags)"),
])
def test_a_bad_value_is_named_with_its_remedy(flags, line, capsys):
    with pytest.raises(SystemExit) as stop:
        read_call(flags)
    (said,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and said.startswith("error: ") and line in said


def test_of_several_processes_one_says_what_is_wrong(monkeypatch, capsys):
    for name in launch.TORCHRUN:
        monkeypatch.setenv(name, "1")  # this is rank 1
    waited = []
    monkeypatch.setattr(parsing.time, "sleep", waited.append)
    with pytest.raises(SystemExit) as stop:
        read_call(["--lr", "0"])
    assert (stop.value.code, waited, capsys.readouterr().err) == (2, [launch.RANK0_REPORTS_FIRST_SECONDS], "")


@pytest.mark.parametrize(("flags", "line"), [
    (["--attack", "pgd", "--eps", "64"], "--eps 64: for linf at most 1.*64/255"),
    (["--attack", "pgd", "--alpha", "2"], "--alpha 2: for linf at most 1.*2/255"),
    (["--model", "deeplabv3_hrnetv2_32", "--output_stride", "8"], "--output_stride 8: deeplabv3_hrnetv2_32 takes 4"),
    (["--output_stride", "4"], "takes 8 or 16"),
    (["--test_only", "--continue_training"], "--test_only trains nothing: leave out --continue_training"),
    (["--test_only", "--overwrite"], "--test_only trains nothing"),
    (["--verify", "--overwrite"], "--verify trains nothing"),
    (["--test_only", "--options", "x", "--input", "y"], "--test_only trains nothing: leave out --input, --options"),
    (["--report", "x", "--lr", "1"], "--report only reads records: leave out --lr"),
    (["--vis_port", "28333"], "--vis_port: for the visdom dashboard: add --enable_vis"),
    (["--attack_seed", "3", "--input", "x"], "--input is for predict.py: leave it out of a training"),
    (["--overwrite", "--continue_training"], "--continue_training keeps the run that --overwrite would delete"),
    (["--val_images", "3"], "--val_images is for --test_only or --verify"),
    (["--report_dir", "x"], "--report_dir is for --report"),
    (["--eps", "4/255"], "--eps: for --attack, which is not given; the radius in training is --train_eps"),
    (["--test_only", "--attack_norm", "l2"], "--attack_norm: for --attack, which is not given"),
    (["--verify", "--attack", "pgd", "--steps", "3"], "--verify .* of its own: leave out --attack, --steps"),
    (["--verify", "--attack_norm", "l2"], "--verify .* leave out --attack_norm"),
    (["--verify", "--eps", "0"], "--eps 0: --verify checks attacks at a radius above 0"),
    (["--dataset", "camvid", "--year", "2012"], "--year: for --dataset voc, this run has camvid"),
    (["--dataset", "synthetic", "--download"], "--download: for --dataset voc, this run has synthetic"),
    (["--optimizer", "SAM", "--sam_start_itr", "10000", "--total_itrs", "10000"], "SAM would never run"),
])
def test_a_contradiction_is_named(flags, line):
    with pytest.raises(UserError, match=line):
        options_of(*flags)


def test_defaults_that_hang_on_other_flags():
    assert options_of("--model", "deeplabv3_hrnetv2_48").output_stride == 4
    assert options_of("--optimizer", "adam").lr == 5e-4 and options_of("--optimizer", "adam", "--lr", "0.1").lr == 0.1
    l2 = ["--attack", "pgd", "--attack_norm", "l2"]
    assert options_of().eps == (2 / 255, 4 / 255, 8 / 255) and options_of(*l2).eps == (0.5, 1.0, 2.0)
    assert options_of(*l2, "--eps", "64").eps == (64.0,)
    assert options_of("--no-pretrained_backbone").pretrained_backbone is False


@pytest.mark.parametrize("argv", [
    "--model deeplabv3plus_mobilenet --enable_vis --vis_port 28333 --gpu_id 0 --year 2012_aug --crop_val --lr 0.01 "
    "--crop_size 513 --batch_size 16 --output_stride 16",
    "--model deeplabv3plus_mobilenet --enable_vis --vis_port 28333 --gpu_id 0 --year 2012_aug --crop_val --lr 0.01 "
    "--crop_size 513 --batch_size 16 --output_stride 16 --ckpt best.pth --test_only --save_val_results",
    "--model deeplabv3plus_mobilenet --enable_vis --vis_port 28333 --gpu_id 0,1 --year 2012_aug --crop_val --lr 0.01 "
    "--crop_size 513 --batch_size 16 --output_stride 16 --ckpt latest.pth --continue_training",
])
def test_what_vainfs_readme_types_is_accepted(argv):
    assert options_of(*argv.split()).vis_port == 28333


def test_in_a_test_options_of_training_say_how_the_network_was_trained():
    saved = {"lr": 0.1, "batch_size": 8}
    options = options_of("--test_only", "--optimizer", "SAM", "--rho", "0.1", "--lr", "0.3", saved=saved)
    assert {name: options.to_dict()[name] for name in ("optimizer", "rho", "lr", "batch_size")} == {
        "optimizer": "SAM", "rho": 0.1, "lr": 0.3, "batch_size": 8}
    with pytest.raises(UserError, match="--rho: for --optimizer SAM"):
        options_of("--test_only", "--rho", "0.1")


def test_given_is_what_argv_sets_even_to_the_default():
    given = read_call(["--lr", "0.01", "--attack", "none", "--no-pretrained_backbone"]).given
    assert given == {"lr": 0.01, "attack": ("none",), "pretrained_backbone": False}


def test_a_flag_given_twice_has_its_last_value():
    options = options_of("--lr", "0.1", "--attack", "pgd", "fgsm", "--crop_val", "--lr", "0.2", "--attack", "noise",
                         "--no-crop_val")
    assert (options.lr, options.attack, options.crop_val) == (0.2, ("noise",), False)


def test_finished_options_are_frozen():
    options = options_of()
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.lr = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        del options.lr
    assert all(not isinstance(getattr(options, name), list) for name in FLAGS)


@pytest.mark.parametrize(("typed", "ours"), [
    ("--epochs 10", "--total_itrs"), ("--batch-size 4", "--batch_size"), ("--learning_rate 0.1", "--lr"),
    ("--learning-rate=0.1", "--lr"), ("--workers 4", "--num_workers"), ("--epsilon 4/255", "--eps"),
    ("--seed 1", "--random_seed"), ("--data-root x", "--data_root"), ("--Epochs 3", "--total_itrs")])
def test_flags_of_other_code_bases_name_ours(typed, ours, capsys):
    for entry in ("main.py", "predict.py"):
        with pytest.raises(SystemExit) as stop:
            read_call(typed.split(), entry)
        (line,) = capsys.readouterr().err.splitlines()
        assert stop.value.code == 2 and typed.split("=")[0].split()[0] in line and ours in line


@pytest.mark.parametrize(("call", "argv", "flag"), [
    (predict, "--crop_val", "--crop_val"), (predict, "--verify", "--verify"),
    (predict, "--total_itrs 5", "--total_itrs"),
    (predict, "--test_only", "--test_only"), (main, "--report x --lr 1", "--lr"), (main, "--input x", "--input"),
    (main, "--test_only --continue_training", "--continue_training"), (main, "--verify --steps 2", "--steps")])
def test_every_entry_refuses_by_name_what_its_mode_has_no_use_for(call, argv, flag, refused):
    line = refused([*argv.split(), *(["--input", "x"] if call is predict else [])], call=call)
    assert flag in line and "x" not in line.split()


def test_every_flag_is_refused_in_the_modes_that_its_row_leaves_out(refused, tmp_path, monkeypatch):
    """From the table alone: each mode with each flag that is not for it."""
    monkeypatch.chdir(tmp_path)
    calls = {"train": (main, []), "test": (main, ["--test_only"]), "verify": (main, ["--verify"]),
             "report": (main, ["--report", "x"]), "about": (main, ["--list", "models"]),
             "predict": (predict, ["--input", "x"]), "export": (export, ["--format", "onnx", "--output", "x.onnx"])}
    tried = 0
    for flag in FLAGS.values():
        values = {"alpha": "eps", "train_alpha": "eps", "exp_name": "a", "gpu_id": "0", "target_class": "0"}
        value = [] if flag.kind is bool else [str(flag.choices[-1]) if flag.choices else values.get(flag.name, "65")]
        for mode, (call, argv) in calls.items():
            # these choose the mode themselves
            if mode in flag.modes or (call is main and flag.name in parsing.CHOOSING):
                continue
            assert f"--{flag.name}" in refused([*argv, f"--{flag.name}", *value], call=call), (flag.name, mode)
            tried += 1
    assert tried > 150


def test_reading_a_command_line_takes_no_torch(root):
    code = """import sys
from engine.options import read_call, resolve
resolve(read_call(["--optimizer", "SAM", "--rho", "0.1"]))
try:
    read_call(["--lr", "0"])
except SystemExit:
    print("torch" in sys.modules, "numpy" in sys.modules)"""
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("typed", ["main.py --help", "main.py --optimzer SAM", "main.py --lr 0", "main.py --rho 0.1",
                                   "main.py --adv --train_eps 4", "predict.py --help", "predict.py --input nowhere",
                                   "main.py --list attacks", "main.py --list networks",
                                   "export.py --help", "export.py --format onnx --output README.md",
                                   "export.py --format onnx --output README.md/x.onnx"])
def test_help_and_mistakes_are_answered_before_torch_is_imported(root, typed):
    code = f"""import runpy, sys
sys.argv = {typed.split()!r}
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
    code = 0
except SystemExit as stop:
    code = stop.code or 0
heavy = {{"torch", "torchvision", "numpy", "PIL", "matplotlib"}} & sys.modules.keys()
print(code, *heavy, file=sys.stderr)"""
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == ("0" if "--help" in typed or "attacks" in typed else "2")


@pytest.mark.parametrize(("dataset", "crop_size", "val_batch_size"), [
    ("voc", 513, 4), ("cityscapes", 768, 1), ("camvid", 513, 4), ("iccv09", 513, 4), ("folder", 513, 4),
    ("synthetic", 513, 4)])
def test_a_data_set_has_its_own_usual_sizes(dataset, crop_size, val_batch_size):
    """Cityscapes' crops are VainF's; one of its images at a time is scored within 6 GB, four are not."""
    from datasets import DATASETS

    options = options_of("--dataset", dataset)
    cls = DATASETS[dataset]
    assert (options.crop_size, options.val_batch_size) == (crop_size, val_batch_size) == (
        cls.usual_crop_size, cls.usual_val_batch_size), "read from its source"
    given = options_of("--dataset", dataset, "--crop_size", "129", "--val_batch_size", "2")
    assert (given.crop_size, given.val_batch_size) == (129, 2)


def test_choices_are_the_registries():
    from attacks import ATTACKS, LOSSES, NORMS
    from datasets import DATASETS
    from datasets.voc import YEARS
    from network import MODELS
    from network.export import FORMATS
    from optim import BASE_OPTIMIZERS, OPTIMIZERS, SCHEDULERS
    from optim import LOSSES as CRITERIA

    for name, known in {
            "model": MODELS, "dataset": DATASETS, "attack": ["none", *ATTACKS], "attack_loss": LOSSES,
            "attack_norm": NORMS, "norm": NORMS, "year": YEARS, "base_optimizer": BASE_OPTIMIZERS,
            "lr_policy": SCHEDULERS, "loss_type": CRITERIA,
            "optimizer": [name for name in OPTIMIZERS if name != "AWP"], "format": FORMATS}.items():
        assert list(FLAGS[name].choices) == list(known), name


def test_a_test_takes_what_describes_the_run_from_the_checkpoint_unless_given():
    saved = {**options_of().to_dict(), "model": "deeplabv3_resnet50", "dataset": "camvid", "lr": 0.3, "eps": [0.9]}
    saved |= {"random_seed": 7, "crop_val": True, "optimizer": "SAM"}
    options = options_of("--test_only", "--dataset", "voc", "--no-crop_val", saved=saved)
    assert (options.model, options.lr, options.random_seed, options.optimizer) == ("deeplabv3_resnet50", 0.3, 7, "SAM")
    assert options.dataset == "voc" and options.eps == options_of().eps and options.crop_val is False


def test_options_are_written_as_one_would_type_them():
    values = {"crop_val": True, "adaptive": False, "lr": 0.1, "eps": (0.1, 0.2), "ckpt": None}
    assert as_flags(values) == ["--crop_val", "--no-adaptive", "--lr", "0.1", "--eps", "0.1", "0.2"]


def test_a_continued_run_takes_all_but_what_belongs_to_one_call():
    saved = options_of().to_dict()
    saved |= {"lr": 0.3, "optimizer": "adam", "batch_size": 4, "eps": [0.9], "overwrite": True}
    options = options_of("--continue_training", "--batch_size", "6", saved=saved)
    assert (options.lr, options.optimizer, options.batch_size) == (0.3, "adam", 6)
    assert options.eps == options_of().eps and options.overwrite is False


def test_an_unknown_saved_option_is_not_taken():
    options = options_of("--continue_training", saved={"future_flag": 1})
    assert options.mode == TRAIN and not hasattr(options, "future_flag")


def test_help_shows_each_default_and_the_flags_of_the_entry_alone(capsys):
    for entry, other in (("main.py", "--input"), ("predict.py", "--total_itrs"), ("export.py", "--window")):
        with pytest.raises(SystemExit):
            read_call(["--help"], entry)
        text = " ".join(capsys.readouterr().out.split())
        assert other not in text
        for flag in FLAGS.values():
            shown = OWN_MODES[entry] in flag.modes if entry in OWN_MODES else flag.is_for_main
            if shown and flag.default not in (None, False):
                default = f"default: {parsing.format_value(flag.default)}"
                assert f"({default})" in text or f"({default}; {flag.bounds})" in text, flag.name
    with pytest.raises(SystemExit):
        read_call(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--sam_start_itr SAM_START_ITR plain steps before this iteration; below 1 it is a share" in text
    assert "deeplabv3plus_hrnetv2_48" in text


def test_the_page_of_flags_is_made_from_the_table(root):
    made = subprocess.run([sys.executable, "docs/make_flags.py"], cwd=root, capture_output=True, text=True, check=True,
                          env={"PYTHONPATH": str(root)})
    assert made.stdout == (root / "docs" / "flags.md").read_text()
