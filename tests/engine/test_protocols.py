"""--protocol: the flags that it stands for, and no others."""
import json

import pytest

from attacks import APGD, PGD
from engine.evaluation.plan import plan_attacks
from engine.options import PROTOCOLS, read_call, resolve
from main import main

SMALL_EPS = [0.25 / 255, 0.5 / 255, 1 / 255, 2 / 255]


def plan(*flags):
    options = resolve(read_call(["--test_only", *flags]))
    return options, plan_attacks(options, num_classes=5)


@pytest.mark.parametrize(("name", "attacks", "steps", "eps"), [
    ("smoke", {"fgsm": 1, "pgd": 10}, 10, SMALL_EPS), ("standard", dict.fromkeys(["pgd", "segpgd", "cospgd"], 20), 20,
                                                      SMALL_EPS),
    ("strong", {"ensemble": None}, 300, [*SMALL_EPS, 4 / 255])])
def test_a_protocol_is_what_reviewers_ask_for(name, attacks, steps, eps):
    options, planned = plan("--protocol", name)
    assert options.protocol == name and options.steps == steps and list(options.attack) == list(attacks)
    assert [(attack.name, attack.eps) for attack in planned] == [(kind, radius) for kind in attacks for radius in eps]
    assert {attack.norm for attack in planned} == {"linf"}
    for attack in planned:
        for member in attack.members or [attack]:
            assert member.steps == (attacks[attack.name] or 300)
            assert isinstance(member, APGD) == (name == "strong") and getattr(member, "red_eps", True)
            assert not isinstance(member, PGD) or member.best_iterate == (name == "standard")
    plain, same = plan(*PROTOCOLS[name].split())
    assert {**plain.to_dict(), "protocol": name} == options.to_dict()
    assert [attack.settings() for attack in planned] == [attack.settings() for attack in same]


@pytest.mark.parametrize(("flags", "named"), [
    (["smoke", "--steps", "5"], "--steps: --protocol smoke is --attack fgsm pgd --steps 10"),
    (["strong", "--eps", "0.1", "--attack", "pgd"], "--attack, --eps: --protocol strong is --attack ensemble"),
    (["standard", "--no-best_iterate"], "--best_iterate: --protocol standard is"),
    (["smoke", "--attack_norm", "l2"], "--attack_norm: --protocol smoke is"),
    (["hard"], "--protocol: invalid choice: 'hard' (choose from smoke, standard, strong)"),
    (["smoke", "--verify"], "leave out --protocol"), (["smoke", "--report", "."], "leave out --protocol"),
    (["strong", "--target_class", "1"], "--target_class: for ")])
def test_flags_that_contradict_a_protocol_are_refused_by_name(refused, flags, named):
    assert named in refused(["--test_only", "--protocol", *flags])


def test_other_flags_stand_beside_it():
    options, planned = plan("--protocol", "smoke", "--restarts", "2", "--attack_seed", "3")
    assert all(attack.restarts == 2 for attack in planned) and planned[-1].step_size == pytest.approx(2 / 255 / 4)
    assert options.attack_seed == 3


def test_a_run_shows_the_flags_and_keeps_the_name(trained, tmp_path, capsys):
    best, = (trained / "exp").glob("best_*.pth")
    argv = ["--test_only", "--ckpt", str(best), "--output_dir", str(tmp_path), "--num_workers", "0", "--val_images",
            "2", "--sheet_images", "0"]
    results = main([*argv, "--protocol", "smoke"])
    out = capsys.readouterr().out
    assert out.count("--protocol smoke is --attack fgsm pgd --steps 10 --alpha eps/4 --attack_norm linf ") == 1
    written = json.loads((tmp_path / "exp" / "results.json").read_text())["options"]
    assert written["protocol"] == "smoke" and written["steps"] == 10 and written["attack"] == ["fgsm", "pgd"]
    assert [row["eps"] for row in results["results"] if row["attack"] == "pgd"] == pytest.approx(SMALL_EPS)
    assert out.count("pgd linf 0.5/255: 10 gradients per image, 2 images") == 1
    assert out.count("fgsm linf 2/255: 1 gradient per image, 2 images") == 1 and "about" not in out


def test_a_training_repeats_the_flags_not_the_protocol(train, tmp_path, monkeypatch):
    """Beside --options another --attack may stand, which the protocol is not."""
    monkeypatch.setattr("engine.evaluation.plan.sweep_planned", lambda setup: setup.options.to_dict())
    first = train(tmp_path, "--protocol", "smoke")
    assert first["protocol"] == "smoke" and first["attack"] == ["fgsm", "pgd"]
    again = main(["--options", str(tmp_path / "exp" / "opts.txt"), "--exp_name", "again"])
    assert again["protocol"] is None and again["attack"] == ["fgsm", "pgd"] and again["eps"] == first["eps"]
