"""What can't be is refused in one line that names the flag, before anything is built, downloaded or written."""
import pytest
import torch

from datasets import voc
from engine import setup
from engine.options import FLAGS
from engine.options.declare import OWN_MODES
from engine.options.parser import build_parser
from main import main
from network import pretrained
from utils import checkpoint, distributed

TWO_PROCESSES = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
# Name -> (command line, what its error says).
BAD = {
    "an unknown flag": ("--learning_rate 0.1", "--learning_rate 0.1 (here it is --lr)"),
    "a misspelt flag": ("--batchsize=4", "--batchsize=4 (did you mean --batch_size?)"),
    "an abbreviated flag": ("--total 4", "--total 4 (did you mean --total_itrs?)"),
    "a word too many": ("train", "unrecognized arguments: train"),
    "no value": ("--lr", "--lr: expected one argument"),
    "no values": ("--attack pgd --eps", "--eps: expected at least one argument"),
    "an unknown model": ("--model deeplabv3plus_resnet18", "--model: invalid choice: 'deeplabv3plus_resnet18'"),
    "an unknown data set": ("--dataset imagenet", "--dataset: invalid choice: 'imagenet'"),
    "a year without VOC": ("--year 2013", "--year: invalid choice: '2013'"),
    "a misspelt optimizer": ("--optimizer sam", "--optimizer: invalid choice: 'sam' (choose from sgd, adam, adamw"),
    "a misspelt attack": ("--attack psd", "--attack: invalid choice: 'psd' (choose from none, fgsm, pgd"),
    "a list with commas": ("--attack pgd --eps 2/255,4/255", "--eps: '2/255,4/255' is not a number"),
    "another stride": ("--output_stride 32", "--output_stride: invalid choice: '32' (choose from 4, 8, 16)"),
    "a stride that ResNet has not": ("--output_stride 4", "--output_stride 4: deeplabv3plus_mobilenet takes 8 or 16"),
    "a stride that HRNet has not": ("--model deeplabv3_hrnetv2_48 --output_stride 16",
                                    "--output_stride 16: deeplabv3_hrnetv2_48 takes 4"),
    "half an iteration": ("--total_itrs 10.5", "--total_itrs: 10.5 is not a whole number"),
    "no learning rate": ("--lr 0", "--lr: 0 is out of bounds: above 0"),
    "a negative radius": ("--optimizer SAM --rho -1", "--rho: -1 is out of bounds: 0 or more"),
    "a share above 1": ("--adv --adv_ratio 1.5", "--adv_ratio: 1.5 is out of bounds: above 0, at most 1"),
    "a port that isn't": ("--enable_vis --vis_port 70000", "--vis_port: 70000 is out of bounds: 1 to 65535"),
    "a seed too large": ("--random_seed 1e10", "--random_seed: 1e10 is out of bounds: 0 to 4294967295"),
    "a number beyond all": ("--total_itrs 1e30", "--total_itrs: 1e30 is out of bounds: at most 1e+18"),
    "a number that fills the memory": ("--lr 1e-999999999", "--lr: '1e-999999999' is not a number"),
    "not a number": ("--weight_decay nan", "--weight_decay: 'nan' is not a number"),
    "a step that is no share": ("--attack pgd --alpha eps*2", "--alpha: 'eps*2': write a share of eps such as eps/4"),
    "a crop smaller than the network takes": ("--crop_size 64", "--crop_size: 64 is out of bounds: 65 to 16384"),
    "epochs": ("--epochs 10", "--epochs 10 (here it is --total_itrs, which counts iterations)"),
    "dashes": ("--batch-size 4", "--batch-size 4 (did you mean --batch_size?)"),
    "a training that exports": ("--format onnx", "--format is for export.py: leave it out of a training"),
    "a training that predicts": ("--input photos", "--input is for predict.py: leave it out of a training"),
    "the same in a test": ("--test_only --crop_val --crop_size 64", "--crop_size: 64 is out of bounds: 65 to 16384"),
    "eps in grey levels": ("--attack pgd --eps 8", "--eps 8: for linf at most 1, as pixels are in [0, 1]; write 8/255"),
    "eps just above 1": ("--test_only --attack fgsm --eps 1.01", "--eps 1.01: for linf at most 1"),
    "a step above 1": ("--attack pgd --alpha 2", "--alpha 2: for linf at most 1"),
    "training eps in grey levels": ("--adv --train_eps 4", "--train_eps 4: pixels are in [0, 1]; write 4/255"),
    "no GPU number": ("--gpu_id a", "--gpu_id: 'a': give GPU numbers, such as 0 or 0,1,2,3"),
    "a GPU twice": ("--gpu_id 0,0", "--gpu_id: '0,0' names a GPU twice"),
    "a gap between GPUs": ("--gpu_id 0,,1", "--gpu_id: '0,,1': give GPU numbers"),
    "a name outside": ("--exp_name ../mine", "--exp_name: '../mine': give a name for a folder in --output_dir"),
    "a name that is no folder": ("--exp_name .", "--exp_name: '.': give a name for a folder in --output_dir"),
    "a name too long": (["--exp_name", "x" * 256], "--exp_name: 'xxxxxxxxxxxxxxxxxxxx...' is too long"),
    "a name of two lines": (["--exp_name", "a\nb"], r"--exp_name: 'a\nb' contains control characters"),
    "a NUL byte": (["--output_dir", "a\0b"], r"--output_dir: 'a\x00b' contains control characters"),
    "no folder": (["--data_root", ""], "--data_root: '' is empty"),
    "no file": (["--ckpt", ""], "--ckpt: '' is empty"),
    "no run": (["--report", ""], "--report: '' is empty"),
    "a missing checkpoint": ("--ckpt nowhere.pth", "no checkpoint at nowhere.pth: check the path given to --ckpt"),
    "a test of nothing": ("--test_only", "no best_*.pth in checkpoints/exp: train first, or name weights with --ckpt"),
    "nothing to go on with": ("--continue_training", "no latest_*.pth in checkpoints/exp: train first, or name weights "
                                                     "with --ckpt"),
    "a report on nothing": ("--report nowhere", "--report: no folder nowhere"),
    "a report that trains": ("--report nowhere --lr 0.1", "--report only reads records: leave out --lr"),
    "a folder for no report": ("--report_dir here", "--report_dir is for --report"),
    "test and continue": ("--test_only --continue_training", "--test_only trains nothing: leave out --continue"),
    "test and overwrite": ("--test_only --overwrite", "--test_only trains nothing"),
    "verify and continue": ("--verify --continue_training", "attacks of its own: leave out --continue_training"),
    "continue and overwrite": ("--continue_training --overwrite", "--continue_training keeps the run that --overwrite"),
    "verify and attack": ("--verify --attack pgd", "runs attacks of its own: leave out --attack"),
    "verify without a radius": ("--verify --eps 0", "--eps 0: --verify checks attacks at a radius above 0"),
    "verify in l2": ("--verify --attack_norm l2", "leave out --attack_norm"),
    "a radius for no attack": ("--eps 4/255", "--eps: for --attack, which is not given"),
    "a radius for training": ("--adv --eps 4/255", "the radius in training is --train_eps"),
    "steps of fgsm": ("--attack fgsm --steps 3", "--steps: for pgd, segpgd, cospgd, apgd"),
    "a seed of nothing random": ("--test_only --attack min_radius --attack_seed 3", "--attack_seed: for fgsm, pgd"),
    "a warm start from nothing": ("--attack pgd --eps 0.1 --warm_start", "--warm_start starts from the result of a"),
    "an attack without this norm": ("--attack square --attack_norm l2", "--attack: square"),
    "a class that isn't": ("--attack pgd --target_class 21", "--target_class 21: voc has the classes 0 to 20"),
    "a target that isn't": ("--attack pgd --target_class no.png", "--target_class: 'no.png': give a class number, or"),
    "some images of a training": ("--val_images 5", "--val_images is for --test_only or --verify"),
    "other classes": ("--num_classes 19", "--num_classes 19: voc has 21"),
    "a download of nothing": ("--dataset camvid --download", "--download: for --dataset voc, this run has camvid"),
    "a year of CamVid": ("--dataset camvid --year 2012", "--year: for --dataset voc, this run has camvid"),
    "a batch of one": ("--batch_size 1", "--batch_size 1 leaves one image for each part"),
    "parts of one": ("--batch_size 4 --accumulate 4", "--batch_size 4 leaves one image for each part"),
    "unequal parts": ("--batch_size 10 --accumulate 4", "--batch_size 10 can't be cut into equal parts"),
    "no image to attack": ("--adv --adv_ratio 0.1 --batch_size 8", "--batch_size 8 selects no images"),
    "SAM that never runs": ("--optimizer SAM --sam_start_itr 30000", "--sam_start_itr 30000 is not before"),
    "rho without SAM": ("--rho 0.05", "--rho: for --optimizer SAM or LookSAM or GSAM or FriendlySAM"),
    "two perturbations": ("--adv --awp_gamma 0.01 --optimizer SAM", "--awp_gamma and --optimizer SAM both perturb"),
    "steps of another schedule": ("--step_size 100", "--step_size: for --lr_policy step, this run has poly"),
    "torchrun's flag without it": ("--no-sync_bn", "--sync_bn: for several processes: start them with torchrun"),
}
# The same for two processes of torchrun.
BAD_TOGETHER = {
    "GPUs": ("--gpu_id 0,1", "--gpu_id is for a single process"),
    "unequal shares": ("--batch_size 3", "--batch_size 3 can't be cut into equal parts for 2 processes"),
    "shares of one": ("--batch_size 2 --no-sync_bn", "--batch_size 2 leaves one image for each part"),
    "parts of one": ("--batch_size 4 --accumulate 2 --no-sync_bn", "--batch_size 4 leaves one image for each part"),
    "verify": ("--verify", "--verify runs in one process"),
    "report": ("--report .", "--report runs in one process"),
    "a flag": ("--lr 0", "--lr: 0 is out of bounds: above 0"),
}


@pytest.fixture
def idle(monkeypatch, tmp_path):
    """An empty folder to be in, where nothing expensive may begin."""
    def begun(*args, **kwargs):
        raise AssertionError("something expensive began")

    monkeypatch.chdir(tmp_path)
    for place, name in ((setup, "choose_device"), (setup, "build_data"), (setup, "build_network"),
                        (voc, "fetch_folder"), (pretrained, "load_pretrained"), (torch, "load"),
                        (torch.hub, "load_state_dict_from_url"), (checkpoint, "save"), (distributed, "join_group")):
        monkeypatch.setattr(place, name, begun)
    return tmp_path


def assert_refused(command, said, capsys, folder):
    with pytest.raises(SystemExit) as stop:
        main(command.split() if isinstance(command, str) else command)
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and out == ""
    assert err.count("\n") == 1 and err.startswith("error: ") and said in err
    assert list(folder.iterdir()) == []  # nothing was written


@pytest.mark.parametrize("name", BAD)
def test_a_bad_command_line_is_one_line_and_nothing_is_begun(name, capsys, idle):
    assert_refused(*BAD[name], capsys, idle)


@pytest.mark.parametrize("name", BAD_TOGETHER)
def test_so_it_is_for_several_processes(name, capsys, idle, monkeypatch):
    for variable, value in TWO_PROCESSES.items():
        monkeypatch.setenv(variable, value)
    assert_refused(*BAD_TOGETHER[name], capsys, idle)


def test_a_good_command_line_begins(idle):
    """Else the tests above would pass for a fixture that does nothing."""
    with pytest.raises(AssertionError, match="something expensive began"):
        main(["--batch_size", "2"])


def numeric_flags():
    return {f"--{name}": flag for name, flag in FLAGS.items() if flag.bounds}


def test_every_flag_is_a_number_in_bounds_a_choice_a_switch_or_one_of_these():
    others = {name for name, flag in FLAGS.items() if not (flag.bounds or flag.choices or flag.kind is bool)}
    # Paths, names and labels, the device, the GPUs' numbers, and a class or a file, which --dataset bounds.
    assert others == {"data_root", "label_map", "ckpt", "backbone_weights", "output_dir", "exp_name", "options",
                      "report", "report_dir", "vis_env", "device", "gpu_id", "shard", "target_class", "input",
                      "save_val_results_to", "masks", "transfer_from", "corrupt_baseline", "class_weights", "output",
                      "tensorboard"}
    assert len(numeric_flags()) >= 35


@pytest.mark.parametrize("name", numeric_flags())
def test_every_number_has_bounds_that_help_and_error_name(name, capsys):
    flag = numeric_flags()[name]
    own = {mode: entry for entry, mode in OWN_MODES.items()}
    parser = build_parser("main.py" if flag.is_for_main else own[flag.modes[0]])
    (entry,) = [text for text in parser.format_help().replace("\n  --", "\n\n  --").split("\n\n")
                if text.split()[0:1] == [name]]
    assert " ".join(entry.split()).endswith((f"; {flag.bounds})", f"; {flag.bounds}"))
    for value in outside(flag.kind):
        assert flag.bounds in error_of(parser, name, value, capsys)
    for value in ("nan", "inf", "-inf", "x", "", "1e9999"):
        assert error_of(parser, name, value, capsys).startswith(f"error: {name}: {value!r}")


def outside(kind) -> list[str]:
    """Values just beyond each bound; the largest number of all is not a flag's own bound."""
    if not hasattr(kind, "low"):
        return ["0", "-1"]  # --alpha
    values = [kind.low - 1 if kind.kind is int else kind.low - 1e-9, kind.high + 1 if kind.kind is int else
              kind.high + 1e-9, kind.above]
    return [repr(value) for value in values if abs(value) < float("inf")]


def error_of(parser, name: str, value: str, capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        parser.parse_args([f"{name}={value}"])
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    return line
