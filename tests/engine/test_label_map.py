"""--label_map and --ignore_label, from the command line to a data set."""
import pytest

from engine.options import as_text
from engine.setup import find_source
from tests.calls import options_of
from utils.errors import UserError
from utils.label_pairs import read_label_map

CAMVID = ("--dataset", "camvid")


def source_of(*flags, saved=None):
    return find_source(options_of(*CAMVID, *flags, saved=saved), None)["label_map"]


def test_a_file_becomes_part_of_the_options(tmp_path):
    (tmp_path / "map.txt").write_text("\ufeff0 4\r\n\n255\t1\n", encoding="utf-8")
    options = options_of(*CAMVID, "--label_map", str(tmp_path / "map.txt"))
    assert options.label_map == "0:4,255:1" and "label_map: 0:4,255:1\n" in as_text(options)
    assert read_label_map(options.label_map) == {0: 4, 255: 1}
    again = options_of(*CAMVID, "--test_only", saved=options.to_dict())
    assert again.label_map == options.label_map


@pytest.mark.parametrize(("flags", "expected"), [
    ((), {}), (("--ignore_label", "0"), {0: 255}), (("--label_map", "0:0,3:1", "--ignore_label", "255"), {3: 1}),
    (("--label_map", "255:1"), {255: 1}), (("--label_map", "7:255", "--ignore_label", "7"), {7: 255})])
def test_what_a_data_set_gets(flags, expected):
    assert source_of(*flags) == expected


def test_contradictions_are_refused():
    with pytest.raises(UserError, match="--ignore_label 3: --label_map makes it 1"):
        source_of("--label_map", "3:1", "--ignore_label", "3")
    with pytest.raises(UserError, match="--label_map: for --dataset voc or .* or folder, this run has synthetic"):
        options_of("--dataset", "synthetic", "--label_map", "3:1")


@pytest.mark.parametrize(("text", "words"), [("0 x\n", "'0 x'"), ("1 2 3\n", "'1 2 3'"), ("1 2\n1 3\n", "mapped twice"),
                                             ("1 70000\n", "'1 70000'"), ("-1 2\n", "'-1 2'"), ("", "is not a pair")])
def test_a_file_with_a_wrong_line_is_refused(tmp_path, capsys, text, words):
    (tmp_path / "map.txt").write_text(text)
    with pytest.raises(SystemExit) as stop:
        options_of(*CAMVID, "--label_map", str(tmp_path / "map.txt"))
    assert stop.value.code == 2 and words in capsys.readouterr().err
