"""--transfer_from: images made on other networks, scored on this one, and never mixed with those made on itself."""
import json
import re

import pytest
import torch
from torch.nn import functional as F

from attacks import PGD, Networks
from datasets import build_datasets
from engine.evaluation.chains import plan_chains
from engine.records.naming import make_label, name_attack
from engine.records.rows import make_rows
from engine.records.schema import check_header
from engine.records.store import Record, read
from engine.run.sources import name_source
from main import main
from network import build_model
from tests.engine.test_custom_model import NET
from utils import checkpoint
from utils.user_code import make_label as make_code_label

ATTACK = ["--attack", "pgd", "--eps", "8/255", "--steps", "3", "--num_workers", "0", "--sheet_images", "0",
          "--val_images", "4"]


@pytest.fixture
def best(trained):
    path, = (trained / "exp").glob("best_*.pth")
    return path


@pytest.fixture
def run(best, tmp_path):
    """A function (name, flags) -> results of --test_only in the run folder tmp_path / name."""
    def test(name, *flags):
        return main(["--test_only", "--ckpt", str(best), "--output_dir", str(tmp_path), "--exp_name", name, *flags])

    return test


@pytest.fixture
def make(best, tmp_path):
    """A function that writes the checkpoint with noise on its weights and these values changed; returns its path."""
    def write(name, *, seed=1, drop=(), **changed):
        saved, generator = checkpoint.load(best), torch.Generator().manual_seed(seed)
        for value in saved["model_state"].values():
            if value.is_floating_point() and value.ndim > 1:
                value += 0.5 * value.std() * torch.randn(value.shape, generator=generator)
        saved = {key: value for key, value in {**saved, **changed}.items() if key not in drop}
        path = tmp_path / f"{name}.pth"
        checkpoint.save(path, saved)
        return path

    return write


def files_of(folder):
    return {path.name: path.read_text().splitlines() for path in (folder / "records").iterdir()}


def load(path):
    saved = checkpoint.load(path)
    model = build_model("deeplabv3_mobilenet", num_classes=5, output_stride=16)
    model.model.load_state_dict(saved["model_state"])
    model.normalization = saved["normalization"]
    return model.eval().to(memory_format=torch.channels_last)


def test_from_the_network_itself_it_is_the_white_box_attack_bit_by_bit(run, best, tmp_path):
    """But recorded apart: in one folder, both ways stay."""
    flags = [*ATTACK, "--save_val_results"]
    white, transferred = run("a", *flags)["results"][1], run("a", *flags, "--transfer_from", str(best))["results"][1]
    files = files_of(tmp_path / "a")
    one, = [lines for name, lines in files.items() if name.startswith("pgd_linf")]
    other, = [lines for name, lines in files.items() if name.startswith("pgd-from-exp_linf")]
    assert one[1:] == other[1:] and len(one) == 5 and len(files) == 3
    source, = json.loads(other[0])["attack"]["transfer_from"]
    assert source["name"] == "exp" and len(source["model"]) == 16
    assert "transfer_from" not in json.loads(one[0])["attack"]
    assert {key: white[key] for key in ("Mean IoU", "loss", "radius")} == {
        key: transferred[key] for key in ("Mean IoU", "loss", "radius")}
    folders = [tmp_path / "a" / "val_results" / row["records"][0] for row in (white, transferred)]
    names = sorted(path.name for path in folders[0].iterdir())
    assert len(names) > 4 and all((folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
                                  for name in names)


@pytest.mark.parametrize("sources", [["one"], ["one", "two"]])
def test_rows_are_the_scores_of_images_made_on_the_other_networks(run, make, best, tmp_path, sources, capsys):
    """Against the attack by hand, an image at a time; the sources have another normalisation."""
    other = {"mean": [0.4, 0.5, 0.6], "std": [0.3, 0.2, 0.25]}
    paths = [make(name, seed=number, normalization=other) for number, name in enumerate(sources)]
    row = run("a", *ATTACK, "--val_batch_size", "1", "--transfer_from", *map(str, paths))["results"][1]
    model, networks = load(best), list(map(load, paths))
    _, val_set = build_datasets("synthetic", data_root="", train=False)
    right = labelled = loss = 0
    for index in (0, 10, 20, 31):
        image, label = (tensor[None] for tensor in val_set[index])
        image = image.contiguous(memory_format=torch.channels_last)
        attacked = networks[0] if len(networks) == 1 else Networks(networks)
        logits = model(PGD(eps=8 / 255, steps=3)(attacked, image, label, image_ids=[index])).detach()
        right += (logits.argmax(1) == label).sum().item()
        labelled += (label != 255).sum().item()
        loss += F.cross_entropy(logits.double(), label, ignore_index=255).item() / 4
    assert row["Overall Acc"] == pytest.approx(right / labelled, rel=1e-12) and row["loss"] == pytest.approx(loss)
    label = "+".join(sources)
    assert row["settings"]["transfer_from"][0].keys() == {"name", "model"}
    assert f"| pgd from {label} | linf | 8/255 |" in capsys.readouterr().out


def test_what_is_recorded_is_not_attacked_again_and_other_weights_of_that_name_are(run, make, tmp_path, monkeypatch):
    path = make("one")
    first = run("a", *ATTACK, "--transfer_from", str(path))
    with monkeypatch.context() as patch:
        patch.setattr(PGD, "attempt", lambda *_: pytest.fail("attacked again"))
        again = run("a", *ATTACK, "--transfer_from", str(path))
    assert again["results"][1] == first["results"][1]
    make("one", seed=2)
    run("a", *ATTACK, "--transfer_from", str(path))
    make("one", normalization={"mean": [0.4] * 3, "std": [0.2] * 3})
    run("a", *ATTACK, "--transfer_from", str(path))
    assert sum(name.startswith("pgd-from-one_") for name in files_of(tmp_path / "a")) == 3


def test_a_warm_start_is_within_one_source(run, make, tmp_path):
    flags = [*ATTACK, "--eps", "4/255", "8/255", "--best_iterate", "--warm_start"]
    run("a", *flags)
    run("a", *flags, "--transfer_from", str(make("one")))
    larger, = [json.loads(lines[0])["attack"] for name, lines in files_of(tmp_path / "a").items()
               if name.startswith("pgd-from-one_linf_8")]
    assert [link["eps"] for link in larger["warm_start"]] == [4 / 255] and larger["transfer_from"][0]["name"] == "one"


def test_unions_are_of_one_source(run, make, tmp_path):
    flags = [*ATTACK, "--attack", "sea", "--steps", "2"]
    run("a", *flags)
    results = run("a", *flags, "--transfer_from", str(make("one")))["results"]
    assert [row["attack"] for row in results] == ["none", "apgd", "apgd", "apgd", "sea", "worst case"]
    records = [Record(path, *read(path)) for path in (tmp_path / "a" / "records").iterdir()]
    rows = make_rows(records, records[0].names, class_names=records[0].header["class_names"])
    unions = [(name_attack({key: row.get(key) for key in ("attack", "transfer_from")}), row) for row in rows
              if row["members"]]
    assert sorted(name for name, _ in unions) == ["sea", "sea from one", "worst case", "worst case from one"]
    for name, row in unions:
        assert len(row["members"]) == 3
        assert all(("-from-one_" in member) == name.endswith("from one") for member in row["members"])
    main(["--report", "a", "--output_dir", str(tmp_path)])
    report = (tmp_path / "a" / "report" / "report.md").read_text()
    assert "| worst case of 3 from one |" in report and "| worst case of 3 |" in report.replace("3          ", "3 ")
    assert "| sea from one " in report and "| red-apgd from one " in report


@pytest.mark.parametrize("flags", [["--window", "65"], ["--attack_amp"]])
def test_sources_are_seen_as_the_scored_network_is(run, make, best, tmp_path, flags, capsys):
    """In windows and in bfloat16: from the network itself, the white-box attack again, also as the mean of two."""
    run("a", *ATTACK, *flags)
    for sources in ([best], [best, make("copy", model_state=checkpoint.load(best)["model_state"])]):
        run("a", *ATTACK, *flags, "--transfer_from", *map(str, sources))
    attacked = {name.partition("_linf")[0]: lines[1:] for name, lines in files_of(tmp_path / "a").items()}
    assert len(attacked) == 4
    white, from_itself, from_two = [lines for name, lines in sorted(attacked.items(), key=lambda item: len(item[0]))
                                    if name.startswith("pgd")]
    assert white == from_itself
    right = [sum(sum(json.loads(line)["intersection"]) for line in lines) for lines in (white, from_two)]
    assert right[0] == pytest.approx(right[1], rel=0.02)
    assert capsys.readouterr().out.count("of the signs of the first batch") == (4 if "--attack_amp" in flags else 0)


def test_names_of_sources():
    assert [name_source(f"runs/sgd/{kind}_deeplabv3_mobilenet_voc_os16.pth") for kind in (
        "best", "latest", "previous1")] == ["sgd", "sgd-latest", "sgd-previous1"]
    assert name_source("weights/my net.pth") == "my-net" and len(name_source("x" * 200 + ".pth")) == 40
    sources = {"transfer_from": [{"name": "x" * 40, "model": ""}] * 8}
    settings = plan_chains([PGD(eps=0.1)], warm_start=False, **sources)[1][0].settings
    assert len(make_label(settings)) < 200 and len(name_attack(settings)) > 300
    header = {"format": 1, "attack": settings, "subject": {}, "class_names": ["a", "b"]}
    assert check_header(header) == header
    for wrong in ("a", [{"name": "../a"}], [{}], ["a"], [{"name": 3}]):
        with pytest.raises(ValueError, match="transfer_from"):
            check_header({**header, "attack": {**settings, "transfer_from": wrong}})


@pytest.mark.parametrize(("changed", "says"), [
    ({"class_names": list("abcde")}, "its network has the classes a, b, c, d, e, the one that is scored background"),
    ({"class_names": ["background"]}, "its network has the classes background, the one that is scored"),
    ({"class_names": 3}, "its network has the classes ?, the one"),
    ({"options": {"model": "deeplabv3_unheard"}}, "invalid options of its network"),
    ({"options": {"model": "net.py:Net"}}, "is of the network net.py:Net, a function in a file; it is run only if"),
    ({"options": {"model": "deeplabv3_resnet50"}}, "the weights don't fit the model"),
    ({"options": {"model": "deeplabv3_mobilenet", "output_stride": 4}}, "--output_stride 4"),
    ({"options": []}, "'options' is not a dict"), ({"normalization": {"mean": [0]}}, "invalid normalization"),
    ({"model_state": {"a": torch.zeros(1)}}, "the weights don't fit the model")])
def test_what_is_refused_is_refused_by_name_before_data_is_read(best, make, refused, tmp_path, monkeypatch, changed,
                                                                says):
    path = make("other", **changed)
    monkeypatch.setattr("engine.setup.build_data", lambda *_, **__: pytest.fail("data was read"))
    line = refused(["--test_only", "--ckpt", str(best), "--output_dir", str(tmp_path), "--exp_name", "a", *ATTACK,
                    "--transfer_from", str(path)])
    assert f"--transfer_from {path}" in line and says in line and not (tmp_path / "a").exists()


def test_another_number_of_classes_is_refused_where_the_file_has_no_names(best, make, refused, tmp_path):
    state = build_model("deeplabv3_mobilenet", num_classes=7, output_stride=16).model.state_dict()
    path = make("other", model_state=state, drop=["class_names", "options"])
    line = refused(["--test_only", "--ckpt", str(best), "--output_dir", str(tmp_path), *ATTACK, "--transfer_from",
                    str(path)])
    assert f"--transfer_from {path}" in line and "the file has 7 classes, the model 5" in line


@pytest.mark.parametrize(("flags", "says"), [
    (["--test_only"], "--transfer_from: nothing is attacked, add --attack NAME"),
    ([], "--transfer_from is for --test_only or --verify: leave it out of a training"),
    (["--test_only", "--attack", "fgsm"], "no checkpoint at nowhere.pth: check the path given to --transfer_from")])
def test_a_call_that_can_not_transfer_is_refused(best, refused, tmp_path, flags, says):
    line = refused([*flags, "--ckpt", str(best), "--output_dir", str(tmp_path), "--exp_name", "a", "--dataset",
                    "synthetic", "--transfer_from", "nowhere.pth"])
    assert says in line


def test_a_file_without_options_is_of_this_network(run, make):
    settings = run("a", *ATTACK, "--transfer_from", str(make("bare", drop=["options"])))["results"][1]["settings"]
    assert settings["transfer_from"][0]["name"] == "bare"


def test_code_of_the_user_is_run_only_if_it_is_this_command_s_own(tmp_path, small, refused):
    small = [word for word in small if word != "--no-pretrained_backbone"]
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "helper_of_net.py").write_text("WIDTH = 8\n")
    model = f"{tmp_path / 'net.py'}:Net"
    main([*small, "--model", model, "--output_dir", str(tmp_path), "--exp_name", "own", "--total_itrs", "1"])
    path, = (tmp_path / "own").glob("best_*.pth")
    witness = tmp_path / "witness"
    witness.unlink()
    test = ["--test_only", "--output_dir", str(tmp_path), "--exp_name", "own", *ATTACK, "--transfer_from", str(path)]
    moved = checkpoint.load(path)
    moved["options"]["model"] = "elsewhere/net.py:Net"
    checkpoint.save(path, moved)
    assert make_code_label(model) == make_code_label("elsewhere/net.py:Net")
    row = main([*test, "--model", model])["results"][1]
    assert row["settings"]["transfer_from"][0]["name"] == "own" and witness.exists()
    moved["options"]["model"] = "net.py:Plain"
    checkpoint.save(tmp_path / "another.pth", moved)
    line = refused([*test[:-1], str(tmp_path / "another.pth"), "--model", model])
    assert "is of the network net.py:Plain, a function in a file" in line


@pytest.mark.usefixtures("one_thread")
def test_two_processes_write_what_one_writes(run, start, best, make, tmp_path):
    sources = [str(make("one", seed=1)), str(make("two", seed=2))]
    run("one", *ATTACK, "--val_batch_size", "1", "--transfer_from", *sources)
    done = start("--test_only", "--ckpt", str(best), "--output_dir", str(tmp_path), "--exp_name", "both", *ATTACK,
                 "--val_batch_size", "1", "--transfer_from", *sources, ranks=2)
    out, err = done.communicate(timeout=600)
    assert done.returncode == 0, err
    assert out.count("pgd from one+two linf 8/255: 3 gradients per image, 4 images") == 1
    assert len(re.findall(r"pgd from one\+two linf 8/255: about [\d smin]+ for 4 images", out)) == 1
    assert files_of(tmp_path / "both") == files_of(tmp_path / "one")
