"""Training recipes end to end on the synthetic data set: each runs, says what it does, is scored as it was asked."""
import re

import pytest
import torch

from attacks import FGSM
from engine.options import read_call
from engine.records.naming import name_attack
from engine.setup import prepare
from main import main
from metrics import StreamSegMetrics
from network import Bfloat16

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("flags", "says"), [
    ("--optimizer SAM --accumulate 2 --sam_mode micro --batch_size 4", "SAM is active from iteration 0"),
    ("--optimizer SAM --sam_start_itr 0.5 --adaptive", "SAM is active from iteration 1 (adaptive, eta=0.01)"),
    ("--optimizer LookSAM --sam_interval 2 --base_optimizer adam --lr 1e-3", "iteration 0, every 2 iterations"),
    ("--optimizer FriendlySAM --sam_perturb no_norm --adv", "training on 100 % of each batch: PGD(attack=pgd"),
    ("--optimizer GSAM --adv --adv_attack fgsm --adv_ratio 0.5", "on 50 % of each batch: FGSM(attack=fgsm"),
    ("--adv --adv_attack segpgd --train_step 1 --awp_gamma 0.01 --awp_start_itr 1",
     "Using adversarial weight perturbation, gamma=0.01, from iteration 1"),
])
def test_a_recipe_trains_and_continues(tmp_path, train, capsys, flags, says):
    lr = () if "--lr" in flags else ("--lr", "0.1")
    results = train(tmp_path, *flags.split(), "--print_interval", "1", *lr)
    out = capsys.readouterr().out
    assert says in out and len(results["results"]) == 1
    lines = [line for line in out.splitlines() if "Itrs" in line]
    climbs = ["|e|=" in line and "L(w+e)-L(w)=" in line for line in lines]
    first = "start_itr" not in flags
    assert climbs == [first, "interval" not in flags], lines
    main(["--continue_training", "--output_dir", str(tmp_path), "--total_itrs", "3", "--num_workers", "0",
          "--print_interval", "1"])
    assert "Itrs 3/3" in capsys.readouterr().out


def test_bfloat16_is_what_is_asked_for_and_one_network_is_attacked_and_scored(tmp_path, train, capsys):
    last = train(tmp_path, "--amp", "--adv", "--attack_amp", "--train_step", "1", "--attack", "fgsm", "--eps", "4/255")
    found = capsys.readouterr().out
    shares = [float(share) for share in re.findall(r"bfloat16 changes (\S+) % of the signs", found)]
    assert len(shares) == 2 and all(0 < share < 100 for share in shares)  # when training begins, and the evaluation
    assert [name_attack(row["settings"]) for row in last["results"]] == ["none-bf16", "fgsm-bf16"]
    test = ["--test_only", "--output_dir", str(tmp_path), "--num_workers", "0", "--val_images", "4", "--attack", "fgsm",
            "--eps", "4/255"]
    rows = {flag: main([*test, *flag.split()])["results"] for flag in ("", "--amp", "--attack_amp")}
    names = {flag: [name_attack(row["settings"]) for row in found] for flag, found in rows.items()}
    assert names == {"": ["none", "fgsm"], "--amp": ["none-bf16", "fgsm"], "--attack_amp": ["none", "fgsm-bf16"]}
    assert rows[""][1]["records"] == rows["--amp"][1]["records"] != rows["--attack_amp"][1]["records"]

    setup = prepare(read_call(test))
    loader, val_set, model = setup.val_loader, setup.val_set, setup.model.eval()
    for flag, number, amp in [("", 0, False), ("--amp", 0, True), ("", 1, False), ("--attack_amp", 1, True)]:
        metrics = StreamSegMetrics(val_set.num_classes)
        form = Bfloat16(model) if amp else model
        for images, labels, _ in loader:
            images = images.contiguous(memory_format=torch.channels_last)
            if number:
                images = FGSM(eps=4 / 255)(form, images, labels)
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=amp):
                metrics.update(labels, model(images).argmax(1))
        assert rows[flag][number]["Overall Acc"] == metrics.get_results()["Overall Acc"], (flag, number)
