"""What training flags mean together, and what they become: optimizers, attacks, parts of a batch."""
import pytest
import torch

from attacks import FGSM, PGD, SegPGD
from engine.options.types import find_start_itr
from engine.setup import build_network
from engine.training import build
from engine.training.step import is_chosen
from optim import AWP, GSAM, SAM, FriendlySAM, LookSAM
from tests.calls import options_of
from utils import launch
from utils.device import choose_device
from utils.errors import UserError
from utils.logging import start_log, stop_log


def pretend_ranks(monkeypatch, count: int):
    """Let the environment be that of rank 0 of `count` processes."""
    for name in launch.TORCHRUN:
        monkeypatch.setenv(name, {"WORLD_SIZE": str(count)}.get(name, "0"))


@pytest.mark.parametrize(("flags", "line"), [
    (["--rho", "0.05"], "--rho: for --optimizer SAM or LookSAM or GSAM or FriendlySAM, this run has sgd"),
    (["--optimizer", "adam", "--sam_interval", "2"], "--sam_interval: for --optimizer SAM"),
    (["--optimizer", "SAM", "--sam_alpha", "0.5"], "--sam_alpha: for --optimizer LookSAM or GSAM"),
    (["--optimizer", "GSAM", "--sam_mode", "micro", "--accumulate", "2"], "--sam_mode: for --optimizer SAM"),
    (["--optimizer", "GSAM", "--sam_sigma", "1"], "--sam_sigma: for --optimizer FriendlySAM"),
    (["--optimizer", "SAM", "--eta", "0.1"], "--eta: for ASAM: add --adaptive"),
    (["--optimizer", "SAM", "--sam_mode", "micro"], "--sam_mode: for a perturbation .* --accumulate"),
    (["--optimizer", "SAM", "--adaptive", "--sam_perturb", "norm"], "--adaptive has no effect on the weights"),
    (["--optimizer", "SAM", "--sam_start_itr", "30000"], "--sam_start_itr 30000 is not before .* SAM would never run"),
    (["--optimizer", "GSAM", "--sam_start_itr", "99999"], "GSAM would never run"),
    (["--optimizer", "SAM", "--sam_start_itr", "1"], None),
    (["--optimizer", "SAM", "--sam_start_itr", "1.5"], "give an iteration, or a share"),
    (["--optimizer", "SAM", "--sam_sync", "local"], "--sam_sync: for several processes"),
    (["--no-sync_bn"], "--sync_bn: for several processes"),
    (["--adv", "--adv_ratio", "0.25", "--batch_size", "2"], "--adv_ratio 0.25 of --batch_size 2 selects no images"),
    (["--train_eps", "4/255"], "--train_eps: for adversarial training: add --adv"),
    (["--awp_gamma", "0.005"], "--awp_gamma: for adversarial training: add --adv"),
    (["--adv", "--awp_start_itr", "5"], "--awp_start_itr: for weight perturbation: add --awp_gamma"),
    (["--adv", "--awp_gamma", "0.01", "--awp_start_itr", "30000"], "AWP would never run"),
    (["--adv", "--awp_gamma", "0.01", "--optimizer", "SAM"], "--awp_gamma and --optimizer SAM both perturb"),
    (["--adv", "--eps", "8/255"], "--eps: for --attack.* --train_eps"),
    (["--adv", "--train_eps", "64"], "--train_eps 64: .* write 64/255"),
    (["--adv", "--train_eps", "1"], "--train_eps 1: .* write 1/255"),
    (["--adv", "--norm", "l2", "--train_eps", "2"], None),
    (["--adv", "--train_alpha", "2"], "--train_alpha 2: .* write 2/255"),
    (["--adv", "--adv_attack", "fgsm", "--train_step", "2"], "--train_step: fgsm is one step"),
    (["--attack_amp"], "--attack_amp: nothing is attacked"),
    (["--adv", "--attack_amp"], None),
    (["--batch_size", "10", "--accumulate", "4"], "--batch_size 10 can't be cut .* a multiple of 4"),
    (["--batch_size", "4", "--accumulate", "4"], "one image for each part.* a multiple of 8"),
    (["--batch_size", "1"], "one image for each part.* a multiple of 2"),
    (["--test_only"], None),
    (["--adv", "--adv_ratio", "1e-18", "--batch_size", "1e17"], "selects no images"),  # at once, however large
    (["--optimizer", "adam", "--momentum", "0.8"], "--momentum: for sgd, or with --base_optimizer sgd"),
    (["--optimizer", "SAM", "--momentum", "0.8", "--nesterov"], None),
    (["--nesterov", "--momentum", "0"], "--nesterov: needs a --momentum above 0"),
    (["--optimizer", "SAM", "--accumulate", "2", "--sam_mode", "micro", "--clip_grad", "1"],
     "--clip_grad: not with --sam_mode micro"),
    (["--loss_type", "dice", "--class_weights", "balanced"],
     "--class_weights: for --loss_type cross_entropy or focal_loss, this run has dice"),
    (["--loss_type", "lovasz", "--label_smoothing", "0.1"],
     "--label_smoothing: for --loss_type cross_entropy or ohem, this run has lovasz"),
    (["--optimizer", "GSAM", "--clip_grad", "1"], "--clip_grad: for --optimizer sgd or adam or adamw or SAM"),
    (["--loss_type", "dice", "--label_smoothing", "0.1"], "--label_smoothing: for --loss_type cross_entropy or ohem"),
    (["--step_size", "10"], "--step_size: for --lr_policy step, this run has poly"),
    (["--step_size", "10", "--lr_policy", "step"], None),
    (["--adv_loss", "trades"], "--adv_loss: for adversarial training: add --adv"),
    (["--adv", "--trades_beta", "3"], "--trades_beta: for TRADES: add --adv_loss trades"),
    (["--adv", "--adv_loss", "trades", "--adv_ratio", "0.5"], "--adv_ratio: trades attacks every image: leave it out"),
    (["--adv", "--adv_loss", "trades", "--adv_attack", "segpgd"], "--adv_attack: trades has its own pgd"),
    (["--adv", "--adv_loss", "trades", "--no-train_rand_init"], "--train_rand_init: trades has its own pgd"),
    (["--adv", "--adv_loss", "trades", "--trades_beta", "3", "--train_step", "5"], None),
    (["--adv", "--attack", "none", "--eps", "8/255"], "--eps: for --attack"),
])
def test_flags_that_contradict_each_other_or_would_do_nothing_are_refused(flags, line):
    if line is None:
        options_of(*flags)
        return
    with pytest.raises(UserError, match=line):
        options_of(*flags)


@pytest.mark.parametrize(("batch_size", "sync_bn", "fits"), [
    (4, True, True), (2, True, True), (2, False, False), (4, False, True), (3, True, False)])
def test_two_processes_share_a_batch(monkeypatch, batch_size, sync_bn, fits):
    pretend_ranks(monkeypatch, 2)
    flags = ["--batch_size", str(batch_size), "--sync_bn" if sync_bn else "--no-sync_bn"]
    if fits:
        options_of(*flags)
    else:
        with pytest.raises(UserError, match="a multiple of"):
            options_of(*flags)


@pytest.mark.parametrize(("name", "fits"), [("SAM", True), ("GSAM", False), ("FriendlySAM", False), ("LookSAM", False)])
def test_a_first_gradient_that_the_step_keeps_must_be_the_whole_batchs(monkeypatch, name, fits):
    pretend_ranks(monkeypatch, 2)
    flags = ["--optimizer", name, "--sam_sync", "local"]
    if fits:
        options_of(*flags)
    else:
        with pytest.raises(UserError, match=f"--sam_sync local: {name} reuses the first gradient"):
            options_of(*flags)


def test_more_processes_than_gpus(monkeypatch):
    pretend_ranks(monkeypatch, 3)
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="--nproc_per_node=2"):
        choose_device()


def test_gpus_are_torchruns_business(monkeypatch):
    pretend_ranks(monkeypatch, 2)
    with pytest.raises(UserError, match="--gpu_id is for a single process"):
        options_of("--gpu_id", "0,1")


@pytest.mark.parametrize("ratio", [1, 0.5, 0.3, 1 / 3, 0.1, 0.01])
def test_a_share_that_is_no_image_is_one_that_no_place_gets(ratio):
    for batch_size in range(2, 121, 2):
        some = any(is_chosen(place, ratio) for place in range(batch_size))
        flags = ["--adv", "--adv_ratio", repr(ratio), "--batch_size", str(batch_size)]
        if some:
            options_of(*flags)
        else:
            with pytest.raises(UserError, match="selects no images"):
                options_of(*flags)


def test_a_batch_too_small_for_the_gpus_that_are_named_is_refused_before_anything_is_built(monkeypatch, tmp_path):
    monkeypatch.setattr(launch, "NVIDIA_GPUS", tmp_path)
    with pytest.raises(UserError, match="--batch_size 14 leaves a GPU with one image.* a multiple of 16"):
        options_of("--gpu_id", "0,1,2,3", "--batch_size", "14", "--accumulate", "2")
    options_of("--gpu_id", "0,1,2,3", "--batch_size", "14")
    monkeypatch.setattr(launch, "NVIDIA_GPUS", tmp_path / "none")  # on the CPU, where --gpu_id changes nothing
    options_of("--gpu_id", "0,1,2,3", "--batch_size", "7")


@pytest.mark.parametrize(("gpus", "batch_size", "accumulate", "fits"), [
    (0, 2, 1, True), (1, 2, 1, True), (4, 8, 1, True), (4, 7, 1, False), (4, 4, 1, False), (2, 5, 1, True),
    (2, 3, 1, False), (4, 10, 1, False), (4, 6, 1, True), (4, 9, 1, True), (2, 8, 2, True), (2, 4, 2, False)])
def test_a_replica_needs_two_images(monkeypatch, gpus, batch_size, accumulate, fits):
    """DataParallel cuts a batch into chunks of ceil(B / n); the last one is the smallest."""
    opts = options_of("--batch_size", str(batch_size), "--accumulate", str(accumulate))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    device = torch.device("cuda" if gpus else "cpu")
    chunks = torch.arange(batch_size // accumulate).chunk(max(gpus, 1))
    assert (len(chunks[-1]) >= 2) == fits
    if fits:
        assert build.count_replicas(opts, device) == max(gpus, 1)
    else:
        with pytest.raises(UserError, match=f"--batch_size {batch_size} .*a multiple of {2 * gpus * accumulate}"):
            build.count_replicas(opts, device)


def test_32_sam_says_when_it_starts_and_one_that_never_would_is_refused(capsys):
    start_log()
    optimizer_of("--optimizer", "SAM", "--sam_start_itr", "0.8", "--total_itrs", "600", "--sam_interval", "3")
    stop_log()
    out = capsys.readouterr().out
    assert "Using SAM optimizer, rho=0.02" in out and "SAM is active from iteration 480, every 3 iterations" in out
    with pytest.raises(UserError, match="--sam_start_itr 600 is not before --total_itrs 600: SAM would never run"):
        options_of("--optimizer", "SAM", "--sam_start_itr", "600", "--total_itrs", "600")


def test_a_start_is_an_iteration_or_a_share_of_the_run():
    flags = ["--optimizer", "SAM", "--total_itrs", "600"]
    for given, itr in [("0.8", 480), ("480", 480), ("0", 0), ("1", 1), ("0.999", 599), ("4e2", 400)]:
        found = find_start_itr(options_of(*flags, "--sam_start_itr", given).sam_start_itr, 600)
        assert found == itr and type(found) is int
    opts = options_of("--adv", "--awp_gamma", "0.01", "--awp_start_itr", "1/3", "--total_itrs", "600")
    assert find_start_itr(opts.awp_start_itr, opts.total_itrs) == 200


def test_a_share_stays_one_when_the_run_is_made_longer():
    saved = options_of("--optimizer", "SAM", "--sam_start_itr", "0.8", "--total_itrs", "600").to_dict()
    options = options_of("--continue_training", "--total_itrs", "1000", saved=saved)
    assert find_start_itr(options.sam_start_itr, options.total_itrs) == 800


@pytest.mark.parametrize(("before", "now", "back"), [
    ("--optimizer SAM --sam_mode micro --accumulate 4 --rho 0.3", "--optimizer sgd", {"sam_mode": "full", "rho": 0.02}),
    ("--optimizer LookSAM --sam_alpha 0.5 --rho 0.3", "--optimizer SAM", {"sam_alpha": None}),
    ("--adv --awp_gamma 0.01 --awp_start_itr 5 --train_eps 2/255", "--no-adv", {"awp_gamma": 0.0, "awp_start_itr": 0}),
    ("--optimizer SAM --adaptive --eta 0.5", "--no-adaptive", {"eta": 0.01}),
])
def test_a_run_that_continues_differently_forgets_what_it_has_no_use_for(before, now, back):
    saved = options_of(*before.split()).to_dict()
    options = options_of("--continue_training", *now.split(), saved=saved)
    assert {name: getattr(options, name) for name in back} == back
    if "--optimizer SAM" in now:
        assert options.rho == 0.3  # what still has a use is kept


def optimizer_of(*flags):
    options = options_of("--no-pretrained_backbone", "--model", "deeplabv3_mobilenet", *flags)
    model = build_network(options, torch.device("cpu"), num_classes=5)
    return build.build_training(options, model, model)[0], model


@pytest.mark.parametrize(("flags", "kind", "expected"), [
    ("--optimizer SAM --rho 0.3 --sam_interval 3 --sam_start_itr 7", SAM, {"interval": 3, "start_step": 7}),
    ("--optimizer LookSAM --sam_alpha 0.6", LookSAM, {"interval": 5, "alpha": 0.6}),
    ("--optimizer LookSAM --sam_interval 2", LookSAM, {"interval": 2, "alpha": 0.7}),
    ("--optimizer GSAM", GSAM, {"interval": 1, "alpha": 0.4}),
    ("--optimizer FriendlySAM --sam_sigma 0.5 --sam_decay 0.8", FriendlySAM, {"sigma": 0.5, "decay": 0.8}),
    ("--adv --awp_gamma 0.007 --awp_start_itr 9", AWP, {"start_step": 9}),
])
def test_flags_reach_the_optimizer(flags, kind, expected):
    optimizer, model = optimizer_of(*flags.split())
    assert type(optimizer) is kind and optimizer.model is model
    assert {name: getattr(optimizer, name) for name in expected} == expected
    rho = {"SAM": 0.3, "AWP": 0.007}.get(kind.__name__, 0.02)
    assert [group["rho"] for group in optimizer.param_groups] == [rho, rho]
    assert type(optimizer.base_optimizer) is torch.optim.SGD


def test_adaptive_eta_and_adam_below():
    optimizer, _ = optimizer_of("--optimizer", "SAM", "--adaptive", "--base_optimizer", "adam")
    assert [(group["adaptive"], group["eta"]) for group in optimizer.param_groups] == [(True, 0.01)] * 2
    assert type(optimizer.base_optimizer) is torch.optim.Adam and optimizer.param_groups[1]["lr"] == 5e-4
    optimizer, _ = optimizer_of("--optimizer", "SAM", "--adaptive", "--eta", "0.2")
    assert optimizer.param_groups[0]["eta"] == 0.2
    optimizer, _ = optimizer_of("--adv", "--awp_gamma", "0.01", "--optimizer", "adam")
    assert type(optimizer) is AWP and type(optimizer.base_optimizer) is torch.optim.Adam


@pytest.mark.parametrize(("perturb", "is_norm"), [("norm", True), ("no_norm", False)])
def test_what_is_perturbed_can_be_the_normalisation_layers_or_all_else(perturb, is_norm):
    optimizer, model = optimizer_of("--optimizer", "SAM", "--sam_perturb", perturb)
    norms = {p for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d) for p in module.parameters()}
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    before = {p: p.detach().clone() for p in model.parameters()}
    optimizer.first_step()
    assert {p for p in before if not torch.equal(p, before[p])} == {p for p in before if (p in norms) == is_norm}


@pytest.mark.parametrize(("flags", "kind", "expected"), [
    ("", PGD, {"eps": 4 / 255, "step_size": 2 / 255, "steps": 3, "random_start": True, "norm": "linf"}),
    ("--train_eps 2/255 --train_alpha 1/255 --train_step 7 --no-train_rand_init", PGD,
     {"eps": 2 / 255, "step_size": 1 / 255, "steps": 7, "random_start": False}),
    ("--adv_attack segpgd --norm l2 --train_eps 3", SegPGD, {"eps": 3.0, "step_size": 1.5, "norm": "l2"}),
    ("--norm l2", PGD, {"eps": 0.5, "step_size": 0.25, "norm": "l2"}),
    ("--adv_attack fgsm --train_eps 0.01", FGSM, {"eps": 0.01, "step_size": 0.01, "steps": 1, "random_start": False}),
])
def test_flags_reach_the_attack_on_training_images(flags, kind, expected):
    attack = build.build_training_attack(options_of("--adv", *flags.split()))
    assert type(attack) is kind and {name: getattr(attack, name) for name in expected} == expected
    assert build.build_training_attack(options_of()) is None


def test_a_test_is_in_float32_whatever_the_training_was():
    saved = {**options_of("--adv", "--attack_amp", "--amp").to_dict(), "eps": None}
    for flag, kept in (("--test_only", False), ("--continue_training", True)):
        options = options_of(flag, saved=saved)
        assert (options.attack_amp, options.amp) == (kept, kept)
