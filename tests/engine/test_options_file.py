"""--options: an opts.txt repeats its run, other flags win, and what isn't one is refused."""
import pytest
import torch

from engine.options import as_flags, as_text, read_call, resolve
from main import main
from tests.calls import options_of
from utils import checkpoint
from utils.errors import UserError

LONG = ["--optimizer", "SAM", "--rho", "0.1", "--adv", "--train_eps", "1/255", "--attack", "pgd", "fgsm", "--eps",
        "3/255", "0.1", "--lr", "0.012345678901234567", "--crop_val", "--no-pretrained_backbone",
        "--data_root", "a folder: of data", "--sam_start_itr", "1/3", "--alpha", "eps/3", "--exp_name", "first one"]


def written(tmp_path, *argv: str):
    """The opts.txt of a run with these flags."""
    path = tmp_path / "opts.txt"
    path.write_text(as_text(options_of(*argv)))
    return path


@pytest.mark.parametrize("argv", [[], LONG, ["--ckpt", "some file.pth"], ["--tensorboard"],
                                  ["--tensorboard", "a folder"]])
def test_the_file_has_every_option_exactly(tmp_path, argv):
    first = options_of(*argv)
    again = options_of("--options", str(written(tmp_path, *argv)))
    expected = {**first.to_dict(), "options": str(tmp_path / "opts.txt")}
    assert again.to_dict() == expected


def test_typed_flags_win(tmp_path):
    again = options_of("--lr", "0.5", "--no-crop_val", "--attack", "noise", "--exp_name", "again", "--options",
                       str(written(tmp_path, *LONG)))
    assert (again.lr, again.crop_val, again.attack, again.exp_name, again.rho) == (0.5, False, ("noise",), "again", 0.1)


def test_defaults_that_depend_on_other_flags_are_completed_anew(tmp_path):
    """What nobody typed must not come back as if it had been typed: 8/255 would be next to nothing in l2."""
    opts = ["--options", str(written(tmp_path, "--adv"))]
    assert options_of(*opts, "--attack", "pgd", "--attack_norm", "l2").eps == (0.5, 1.0, 2.0)
    assert options_of(*opts, "--optimizer", "adam").lr == 5e-4
    assert options_of(*opts, "--model", "deeplabv3_hrnetv2_32").output_stride == 4
    assert options_of(*opts, "--norm", "l2").train_eps == 0.5
    saved = options_of("--adv").to_dict()
    assert options_of("--continue_training", "--norm", "l2", saved=saved).train_eps == 0.5
    typed = ["--options", str(written(tmp_path, "--adv", "--train_eps", "0.25", "--lr", "0.3"))]
    assert options_of(*typed, "--norm", "l2").train_eps == 0.25 and options_of(*typed, "--optimizer", "adam").lr == 0.3


def test_a_default_that_was_typed_to_change_a_checkpoints_option_is_kept(tmp_path):
    path = written(tmp_path, "--continue_training", "--ckpt", "a.pth", "--lr_policy", "poly")
    assert read_call(["--options", str(path)]).given["lr_policy"] == "poly"


def test_values_that_begin_with_a_dash(tmp_path):
    assert options_of("--options", str(written(tmp_path, "--data_root=-odd"))).data_root == "-odd"
    assert as_flags({"vis_env": "-x y"}) == ["--vis_env=-x y"]


@pytest.mark.parametrize(("text", "line"), [
    ("------------ Options -------------\nadv: true\n", "--adv: 'true': write True or False"),
    ("", "doesn't hold options"), ("lr: 0.1\n", "doesn't hold options"),
    ("------------ Options -------------\nlearning rate is 5\n-------------- End ----------------\n", "not a line of"),
    ("------------ Options -------------\nlr: 0.1\nunknown: 5\n", "'unknown: 5' is not a line of"),
])
def test_what_is_no_options_file_is_one_line(tmp_path, text, line):
    (tmp_path / "opts.txt").write_text(text)
    with pytest.raises(UserError, match=line):
        read_call(["--options", str(tmp_path / "opts.txt")])


def test_a_missing_file_a_bad_value_and_a_test_are_refused(tmp_path, refused):
    assert "can't be read" in refused(["--options", str(tmp_path / "none.txt")])
    path = written(tmp_path)
    path.write_text(path.read_text().replace("total_itrs: 30000", "total_itrs: many"))
    assert "--total_itrs: 'many' is not a number" in refused(["--options", str(path)])
    assert "--test_only trains nothing: leave out --options" in refused(["--test_only", "--options", str(path)])
    assert "give only one of them" in refused(["--continue_training", "--options", str(path)])


def test_a_run_that_was_continued_otherwise_names_what_changed(tmp_path):
    path = written(tmp_path, "--lr", "0.1", "--exp_name", "a")
    path.write_text(path.read_text() + as_text(options_of("--continue_training", "--lr", "0.2", "--num_workers", "5")))
    with pytest.raises(UserError, match="continued with another --lr, so no single command repeats it"):
        read_call(["--options", str(path)])
    assert resolve(read_call(["--options", str(path), "--lr", "0.3"])).lr == 0.3


def test_a_run_is_repeated_to_the_same_weights(tmp_path, train, capsys):
    """Also where it was stopped and continued between; the same command may not write over the first run."""
    flags = ["--optimizer", "SAM", "--rho", "0.1", "--random_seed", "5", "--attack", "fgsm", "--eps", "2/255"]
    first = train(tmp_path, *flags, itrs=2)
    main(["--continue_training", "--output_dir", str(tmp_path), "--num_workers", "0"])
    opts = str(tmp_path / "exp" / "opts.txt")
    with pytest.raises(SystemExit):
        main(["--options", opts])
    assert "holds an earlier run" in capsys.readouterr().err
    again = main(["--options", opts, "--exp_name", "again"])
    states = [checkpoint.load(next((tmp_path / name).glob("latest_*.pth"))) for name in ("exp", "again")]
    for key, value in states[0]["model_state"].items():
        assert torch.equal(value, states[1]["model_state"][key]), key
    assert states[0]["best_score"] == states[1]["best_score"]
    assert again["results"][0] == first["results"][0] and again["results"][1]["attack"] == "fgsm"
