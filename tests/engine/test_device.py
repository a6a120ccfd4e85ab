"""Which device a run computes on, and that one without float64 gets none."""
import json
import os
from contextlib import suppress

import pytest
import torch

from engine.options.types import device_name
from main import main
from tests.calls import options_of
from tests.pretended_mps import PretendedMps
from utils import launch
from utils.device import choose_device
from utils.errors import UserError


@pytest.mark.parametrize(("given", "env", "expected"), [
    (None, None, "0"), (None, "3", "3"), (None, "", ""), ("1,2", None, "1,2"), ("1,2", "3", "1,2")])
def test_gpu_id_overrides_the_environment_only_when_given(monkeypatch, given, env, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if env is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", env)
    assert choose_device("auto", given) == torch.device("cpu")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == expected


def test_a_gpu_that_is_not_there_is_an_error_where_there_are_gpus(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(launch, "NVIDIA_GPUS", tmp_path)
    with pytest.raises(UserError, match="--gpu_id 7: no such GPU"):
        choose_device("auto", "7")


def test_fewer_gpus_than_asked_for_is_an_error(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="--gpu_id 0,1,2,3: found 2 of these 4 GPUs"):
        choose_device("cuda", "0,1,2,3")


@pytest.fixture
def machine(monkeypatch):
    """A function (CUDA GPUs, whether there is Apple's): pretend to be on such a machine."""
    def pretend(gpus=0, mps=False, visible=None):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    return pretend


@pytest.mark.parametrize(("gpus", "mps", "asked", "expected"), [
    (1, False, "auto", "cuda"), (1, True, "auto", "cuda"), (0, True, "auto", "mps"), (0, False, "auto", "cpu"),
    (1, True, "cpu", "cpu"), (1, True, "mps", "mps"), (1, False, "cuda", "cuda"), (1, False, "cuda:0", "cuda")])
def test_auto_is_cuda_then_mps_then_the_cpu_and_what_is_asked_for_is_taken(machine, gpus, mps, asked, expected, caplog):
    machine(gpus, mps)
    assert choose_device(asked) == torch.device(expected)


@pytest.mark.parametrize(("asked", "line"), [
    ("cuda", "--device cuda: no GPU is visible"), ("cuda:1", "--device cuda:1: no GPU is visible"),
    ("mps", "--device mps: .* no Metal GPU")])
def test_a_device_that_is_absent_is_refused(machine, monkeypatch, tmp_path, asked, line):
    machine()
    monkeypatch.setattr(launch, "NVIDIA_GPUS", tmp_path / "none")
    with pytest.raises(UserError, match=line):
        choose_device(asked)


@pytest.mark.parametrize(("asked", "visible", "expected"), [
    ("cuda:1", None, "1"), ("cuda:1", "2,3", "3"), ("cuda", "2,3", "2,3"), ("cuda", None, "0")])
def test_a_number_counts_the_gpus_that_are_visible(machine, asked, visible, expected):
    machine(gpus=1, visible=visible)
    choose_device(asked)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == expected


def test_a_number_beyond_the_visible_gpus_is_refused(machine):
    machine(gpus=1, visible="5")
    with pytest.raises(UserError, match="--device cuda:1: CUDA_VISIBLE_DEVICES is .5., its GPUs"):
        choose_device("cuda:1")


@pytest.mark.parametrize(("flags", "fits"), [
    (["--device", "cuda", "--gpu_id", "0,1"], True), (["--device", "cuda:1", "--gpu_id", "1"], True),
    (["--gpu_id", "1"], True), (["--device", "cuda:0", "--gpu_id", "1"], False),
    (["--device", "cpu", "--gpu_id", "0"], False), (["--device", "mps", "--gpu_id", "0"], False)])
def test_gpu_id_and_device_must_mean_the_same(monkeypatch, flags, fits):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if fits:
        options_of(*flags)
        return
    with pytest.raises(UserError, match="--gpu_id: --device names another one"):
        options_of(*flags)


@pytest.mark.parametrize("text", ["gpu", "cuda:", "cuda:-1", "cuda:0,1", "CPU", "xla"])
def test_names_of_devices(text):
    with pytest.raises(ValueError, match="give auto, cpu, cuda"):
        device_name(text)


@pytest.mark.parametrize("asked", ["mps", "cuda:1"])
def test_under_torchrun_each_process_has_its_own_device(monkeypatch, asked):
    for name in launch.TORCHRUN:
        monkeypatch.setenv(name, "1")
    with pytest.raises(UserError, match=f"--device {asked}: under torchrun give cpu or cuda"):
        choose_device(asked)


@pytest.fixture
def apple(machine, monkeypatch):
    """A machine that pretends to have Apple's GPU (tests.pretended_mps)."""
    machine(mps=True)
    monkeypatch.setattr(torch.mps, "get_rng_state", torch.get_rng_state)
    monkeypatch.setattr(torch.mps, "set_rng_state", torch.set_rng_state)
    with PretendedMps():
        yield


def test_the_pretended_gpu_refuses_what_apples_refuses(apple):
    here = torch.ones(2, device="mps")
    assert here.device.type == "mps" and here.add(1).device.type == "mps" and here.cpu().device.type == "cpu"
    with pytest.raises(TypeError, match="float64"):
        here.double()
    with pytest.raises(TypeError, match="float64"):
        torch.zeros(2, dtype=torch.float64, device="mps")
    with pytest.raises(RuntimeError, match="same device"):
        here + torch.ones(2)


MPS_ATTACKS = ["fgsm", "pgd", "apgd", "sea", "race", "min_radius", "square", "noise"]


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_on_mps_no_tensor_is_float64_and_the_results_are_the_cpus(apple, tmp_path, small):
    flags = [*small, "--total_itrs", "2", "--val_interval", "2", "--optimizer", "SAM", "--ema", "0.5", "--adv",
             "--adv_loss", "trades", "--train_step", "1", "--output_dir", str(tmp_path), "--attack", *MPS_ATTACKS,
             "--steps", "6", "--eps", "2/255"]
    found = {device: main([*flags, "--device", device, "--exp_name", device]) for device in ("mps", "cpu")}
    assert "Device: mps, as asked" in (tmp_path / "mps" / "log.txt").read_text()
    weights = [torch.load(next((tmp_path / device).glob("latest_*.pth")), weights_only=True)["trained_state"]
               for device in ("mps", "cpu")]
    for name, value in weights[1].items():
        torch.testing.assert_close(weights[0][name], value, rtol=1e-3, atol=1e-4)
    for one, other in zip(found["mps"]["results"], found["cpu"]["results"], strict=True):
        follows_gradient = one["attack"] not in ("none", "square", "uniform_noise", "sign_noise")  # signs of rounding
        assert one["attack"] == other["attack"]
        assert one["Overall Acc"] == pytest.approx(other["Overall Acc"], abs=0.02 if follows_gradient else 0.002)
    main(["--output_dir", str(tmp_path), "--exp_name", "mps", "--device", "mps", "--test_only", "--attack",
          "pgd", "race", "--attack_norm", "l2", "--steps", "6", "--num_workers", "0", "--val_images", "4"])


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("flags", [  # without lovasz: the pretended GPU doesn't carry the backward pass of sort
    "--optimizer SAM --adaptive --sam_mode micro --accumulate 2 --batch_size 4",
    "--optimizer LookSAM --loss_type dice --val_attack pgd --val_attack_images 2 --best_by robust",
    "--optimizer SAM --clip_grad 1 --loss_type ohem --label_smoothing 0.1 --lr_policy cosine --warmup_itrs 1",
    "--optimizer FriendlySAM --loss_type focal_loss --class_weights balanced --ema 0.5",
    "--adv --awp_gamma 0.005 --train_step 1"], ids=["micro", "dice", "clipped", "weighted", "AWP"])
def test_on_mps_no_option_makes_a_float64(apple, tmp_path, small, flags):
    content = main([*small, "--total_itrs", "2", "--val_interval", "2", "--output_dir", str(tmp_path), "--exp_name",
                    "run", "--device", "mps", *flags.split()])
    assert content["results"][0]["attack"] == "none" and content["complete"]
    seen = main(["--output_dir", str(tmp_path), "--exp_name", "run", "--device", "mps", "--test_only", "--tta", "flip",
                 "--attack", "pgd", "--steps", "2", "--eps", "2/255", "--num_workers", "0", "--val_images", "2"])
    assert [row["attack"] for row in seen["results"]] == ["none", "pgd"]


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_verify_on_mps(apple, tmp_path, small):
    """Its comparison with finite differences, which needs float64, is computed on the CPU."""
    main([*small, "--total_itrs", "1", "--output_dir", str(tmp_path), "--device", "mps"])
    with suppress(SystemExit):  # a network trained for one step may fail checks of its own
        main(["--verify", "--output_dir", str(tmp_path), "--device", "mps", "--num_workers", "0"])
    report = json.loads((tmp_path / "exp" / "verify.json").read_text())
    assert len(report["checks"]) == 14 and not any("float64" in str(check) for check in report["checks"])
    assert next(check for check in report["checks"] if check["name"] == "gradient")["passed"]
