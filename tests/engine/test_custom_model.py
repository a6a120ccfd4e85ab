"""--model path/to/file.py:function: whole runs with a network of the user's own, and what is refused or never run."""
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from datasets import build_datasets
from engine.records.store import read
from main import main
from predict import predict
from utils import checkpoint
from utils.user_code import load_function, make_label

NET = '''
from pathlib import Path
import torch
from torch import nn
from torch.nn.functional import interpolate
from helper_of_net import WIDTH

Path(__file__).with_name("witness").touch()


class Net(nn.Module):
    """A backbone of stride 2, a head, and an auxiliary head, as torchvision's have."""

    def __init__(self, num_classes):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, WIDTH, 3, 2, 1), nn.BatchNorm2d(WIDTH), nn.ReLU())
        self.classifier, self.aux = (nn.Conv2d(WIDTH, num_classes, 3, padding=1) for _ in range(2))

    def forward(self, images):
        features = self.backbone(images)
        return {name: interpolate(head(features), images.shape[2:], mode="bilinear")
                for name, head in (("out", self.classifier), ("aux", self.aux))}


class Plain(nn.Sequential):
    normalization = {"mean": [0.5] * 3, "std": [0.25] * 3}

    def __init__(self, num_classes):
        super().__init__(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, num_classes, 1))


class Broken(Plain):
    def __init__(self, num_classes, change):
        super().__init__(num_classes)
        self.change = change

    def forward(self, images):
        return self.change(super().forward(images))


def two_classes(num_classes): return Plain(2)
def low_resolution(num_classes): return Broken(num_classes, lambda logits: logits[..., ::2, ::2])
def detached(num_classes): return Broken(num_classes, torch.Tensor.detach)
def a_list(num_classes): return Broken(num_classes, lambda logits: [logits])
def fails(num_classes): return Broken(num_classes, lambda logits: logits + torch.zeros(7))
def no_module(num_classes): return "net"
def no_parameters(num_classes): return nn.ReLU()
def raises(num_classes): raise ValueError("no such depth")
def no_argument(): return Plain(2)
'''
SMALL = ["--dataset", "synthetic", "--crop_size", "65", "--batch_size", "2", "--num_workers", "0", "--val_batch_size",
         "16", "--total_itrs", "4", "--val_interval", "2", "--lr", "0.1"]


@pytest.fixture
def net(tmp_path):
    """The path of a file with networks, which imports another one of its folder and says when it is run."""
    folder = tmp_path / "nets"
    folder.mkdir()
    (folder / "helper_of_net.py").write_text("WIDTH = 8\n")
    (folder / "my net.py").write_text(NET)
    return folder / "my net.py"


@pytest.fixture
def best(net, tmp_path):
    """The best checkpoint of a run in tmp_path / "runs" / "exp"."""
    main([*SMALL, "--model", f"{net}:Net", "--optimizer", "SAM", "--output_dir", str(tmp_path / "runs")])
    path, = (tmp_path / "runs" / "exp").glob("best_*.pth")
    return path


@pytest.mark.slow
def test_it_trains_is_attacked_verified_continued_and_predicts_like_the_twelve(net, best, tmp_path, capsys):
    assert best.name == "best_my-net.Net_synthetic.pth"
    saved = checkpoint.load(best)
    assert saved["options"]["model"] == f"{net}:Net" and len(saved["optimizer_state"]["param_groups"]) == 2
    named = ["--model", f"{net}:Net", "--output_dir", str(tmp_path / "runs")]
    call = ["--test_only", *named, "--num_workers", "0", "--attack", "fgsm", "--eps", "8/255", "--sheet_images", "0"]
    clean, attacked = main(call)["results"]

    model = load_function(f"{net}:Net")(num_classes=5).eval()  # its own keys, without a prefix
    model.load_state_dict(saved["model_state"])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    _, val_set = build_datasets("synthetic", data_root="", train=False)
    right, labelled = 0, 0
    for image, label in val_set:
        with torch.no_grad():
            pred = model(((image - mean) / std)[None])["out"].argmax(1)[0]
        right, labelled = right + int((pred == label).sum()), labelled + int((label != 255).sum())
    assert clean["Overall Acc"] == pytest.approx(right / labelled, abs=1e-4)
    assert attacked["Overall Acc"] < clean["Overall Acc"]

    record, = (tmp_path / "runs" / "exp" / "records").glob("clean_*")
    assert read(record)[0]["subject"]["model"] == "my-net.Net" and str(tmp_path) not in record.read_text()
    net.write_text(NET + "# another forward pass may have the same weights\n")
    main(call)
    assert len(list(record.parent.glob("clean_*"))) == 2, "records of another file are not mixed"
    (net.parent / "helper_of_net.py").write_text("WIDTH = 8  # changed\n")
    main(call)
    assert len(list(record.parent.glob("clean_*"))) == 3, "nor of another version of a file that it imports"

    main(["--continue_training", *named, *SMALL, "--total_itrs", "6"])
    log = capsys.readouterr().out
    assert "the logits don't depend on 2 of its parameters (aux.weight, aux.bias)" in log and "SAM is active" in log
    Image.fromarray(np.zeros((70, 80, 3), np.uint8)).save(tmp_path / "a.png")
    path, = predict([*named, "--input", str(tmp_path / "a.png"), "--save_val_results_to", str(tmp_path / "out")])
    with Image.open(path) as label_map:
        assert label_map.size == (80, 70)


@pytest.mark.slow
def test_verify_takes_it(net, best, tmp_path):
    try:
        main(["--verify", "--model", f"{net}:Net", "--output_dir", str(tmp_path / "runs"), "--num_workers", "0"])
    except SystemExit as stop:
        assert stop.code == 1, "a network of four iterations may fail a check, but all are run"
    assert (tmp_path / "runs" / "exp" / "verify.json").is_file()


@pytest.mark.parametrize("flags", [["--output_stride", "8"], ["--separable_conv"], ["--no-pretrained_backbone"],
                                   ["--pretrained_backbone"], ["--backbone_lr_mult", "1"], ["--bn_momentum", "0.1"]])
def test_flags_that_it_has_no_use_for_are_refused_by_name(net, tmp_path, refused, flags):
    line = refused([*SMALL, "--model", f"{net}:Plain", "--output_dir", str(tmp_path), *flags])
    assert flags[0].replace("no-", "") in line


@pytest.mark.slow
def test_a_network_without_a_backbone_is_one_group_with_its_own_normalisation(net, tmp_path):
    main([*SMALL, "--model", f"{net}:Plain", "--output_dir", str(tmp_path)])
    path, = (tmp_path / "exp").glob("best_*.pth")
    saved = checkpoint.load(path)
    assert len(saved["optimizer_state"]["param_groups"]) == 1
    assert saved["normalization"] == {"mean": [0.5] * 3, "std": [0.25] * 3}


@pytest.mark.parametrize(("function", "says"), [
    ("two_classes", "it returned [1, 2, 65, 65] for 1 images and 5 classes"),
    ("low_resolution", "returned logits of 33x33 for images of 65x65: resize them"),
    ("detached", "its logits have no gradient with respect to the images"),
    ("a_list", "must return logits [B, 5, H, W] or a dict with them as 'out': it returned list"),
    ("fails", "fails on images of 65x65 (height x width): RuntimeError: The size of tensor a (65)"),
    ("no_module", "returned str, not a torch.nn.Module"), ("no_parameters", "returned ReLU, not a torch.nn.Module"),
    ("raises", "can't be built with num_classes=5: ValueError: no such depth (my net.py, line "),
    ("no_argument", "can't be built with num_classes=5: TypeError: no_argument() got an unexpected keyword argument "
                    "'num_classes'"),
    ("nothing", "my net.py has no function nothing: choose from Net, Plain, Broken, two_classes"),
])
def test_what_is_no_network_is_one_line(net, tmp_path, refused, function, says):
    line = refused([*SMALL, "--model", f"{net}:{function}", "--output_dir", str(tmp_path)])
    assert says in line and "custom.py" not in line
    assert not (tmp_path / "exp").exists()


@pytest.mark.slow
def test_a_checkpoint_of_other_classes_and_one_that_is_not_there_are_one_line(net, best, tmp_path, refused):
    own = ["--output_dir", str(tmp_path / "runs"), "--model"]
    best.unlink()
    line = refused(["--test_only", *own, f"{net}:Net"])
    assert "no best_my-net.Net_*.pth in" in line
    torch.save(load_function(f"{net}:Net")(num_classes=3).state_dict(), tmp_path / "w.pth")
    line = refused([*SMALL, *own, f"{net}:Net", "--ckpt", str(tmp_path / "w.pth"), "--exp_name", "b"])
    assert "the file is for 3 outputs, perhaps classes, the model for 5: check --dataset and --num_classes" in line


def test_a_file_that_cannot_be_run_or_found_is_one_line(net, tmp_path, refused):
    call = [*SMALL, "--output_dir", str(tmp_path), "--model"]
    net.write_text("import nothing_of_this_name\n")
    assert "my net.py can't be run: ModuleNotFoundError" in refused([*call, f"{net}:Net"])
    net.write_text("def f(:\n")
    assert refused([*call, f"{net}:Net"]).rstrip().endswith("my net.py can't be run: SyntaxError: invalid syntax (my "
                                                             "net.py, line 1)")
    assert "missing.py:Net: no such file" in refused([*call, "missing.py:Net"])
    for text in ("net.py:", "net.txt:f", "net.py:f()", "deeplabv4"):
        with pytest.raises(SystemExit) as stop:
            main([*call, text])
        assert stop.value.code == 2


@pytest.mark.slow
def test_a_checkpoint_never_makes_the_program_run_a_file(net, best, tmp_path, refused):
    """Only the command line does, and an opts.txt that it names."""
    witness, runs = net.with_name("witness"), tmp_path / "runs"
    witness.unlink()
    stranger = tmp_path / "stranger.pth"
    shutil.copy(best, stranger)
    (tmp_path / "a.png").touch()
    calls = [(main, ["--test_only"]), (main, ["--verify"]), (main, ["--continue_training"]), (main, [*SMALL]),
             (predict, ["--input", str(tmp_path / "a.png")])]
    for call, argv in calls:
        where = ["--output_dir", str(tmp_path / "theirs")] if call is main else []
        line = refused([*argv, "--ckpt", str(stranger), *where], call=call)
        assert "stranger.pth" in line and (f"--model {net}:Net" in line or "don't fit" in line)
    for call, argv in calls[:3]:
        assert f"give --model {net}:Net" in refused([*argv, "--output_dir", str(runs)], call=call)
    assert not witness.exists()
    main(["--options", str(runs / "exp" / "opts.txt"), "--exp_name", "again", "--output_dir", str(runs)])
    assert witness.exists()


@pytest.mark.parametrize(("name", "label"), [
    ("deeplabv3_resnet50", "deeplabv3_resnet50"), ("nets/unet.py:build", "unet.build"),
    ("../a b[1]*?.py:f", "a-b-1---.f"), ("~/größe.py:ü", "größe.ü")])
def test_a_label_is_a_valid_file_name_without_what_glob_expands(name, label):
    assert make_label(name) == label


def test_a_module_is_asked_for_a_gradient_once_and_keeps_its_flags_and_statistics(net):
    from network import build_model, check_custom

    model = build_model(f"{net}:Net", num_classes=3, output_stride=None)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    check_custom(model.train(), 20, 30)
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    frozen = [key for key, value in model.model.named_parameters() if not value.requires_grad]
    assert frozen == ["aux.weight", "aux.bias"]
