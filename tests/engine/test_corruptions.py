"""--corrupt from the command line: records, the table, ratios to another run, --report, and what is refused."""
import json

import numpy as np
import pytest

from main import main

pytest.importorskip("imagecorruptions", reason="an extra: make extras")
COMMON = ["--num_workers", "0", "--sheet_images", "0", "--val_images", "4"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder with two hardly trained runs, `one` and `other`."""
    folder = tmp_path_factory.mktemp("runs")
    for name, seed in (("one", "1"), ("other", "2")):
        main(["--output_dir", str(folder), "--exp_name", name, "--dataset", "synthetic", "--model",
              "deeplabv3_mobilenet", "--no-pretrained_backbone",
              "--crop_size", "65", "--batch_size", "4", "--total_itrs", "2", "--random_seed", "1", "--lr", "0.05",
              *(["--optimizer", "adam"] if seed == "2" else []), *COMMON[:4]])
    return folder


def evaluate(runs, *flags, name="one"):
    return main(["--test_only", "--output_dir", str(runs), "--exp_name", name, *COMMON, *flags])





def errors_in(folder, corruption):
    """1 - mIoU by severity, from the record files alone."""
    found = {}
    for path in (folder / "records").glob(f"{corruption}_severity_*"):
        header, *lines = map(json.loads, path.read_text().splitlines())
        inside, whole = (np.sum([line[key] for line in lines], 0) for key in ("intersection", "union"))
        found[int(header["attack"]["eps"])] = 1 - np.mean(inside[whole > 0] / whole[whole > 0])
    return found


def test_the_table_the_records_and_the_ratio(runs, capsys):
    flags = ["--corrupt", "contrast", "gaussian_noise", "--severity", "1", "5"]
    base = evaluate(runs, *flags, name="other")["corruptions"]
    assert base["mean ratio"] is None
    capsys.readouterr()
    content = evaluate(runs, *flags, "--corrupt_baseline", "other")
    assert [row["attack"] for row in content["results"]] == ["none", *["gaussian_noise"] * 2, *["contrast"] * 2]
    found = content["corruptions"]
    ratios = []
    for name, described in found["corruptions"].items():
        mine, theirs = errors_in(runs / "one", name), errors_in(runs / "other", name)
        assert mine.keys() == theirs.keys() == {1, 5}
        for severity, error in mine.items():
            assert described["mIoU"][str(severity) if str(severity) in described["mIoU"] else severity] == (
                pytest.approx(1 - error))
        ratios.append(sum(mine.values()) / sum(theirs.values()))
        assert described["ratio"] == pytest.approx(ratios[-1])
    assert found["mean ratio"] == pytest.approx(np.mean(ratios))
    printed = capsys.readouterr()
    assert "Severity 5" in printed.out + printed.err and "Errors / baseline's" in printed.out + printed.err
    table = [line for line in (printed.out + printed.err).splitlines() if line.startswith("| ")]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    start = next(place for place, cells in enumerate(table) if cells[0] == "Corruption")
    lines = {cells[0]: cells for cells in table[start + 1:] if set(cells[0]) - {"-", ":"}}
    assert [name for name in lines if name in {*found["corruptions"], "mean"}] == ["gaussian_noise", "contrast", "mean"]
    for name, described in found["corruptions"].items():
        assert float(lines[name][-2]) == pytest.approx(described["mean"], abs=1e-4)


def test_the_batch_does_not_matter_and_what_is_recorded_is_not_done_again(runs, capsys):
    one = evaluate(runs, "--corrupt", "shot_noise", "--severity", "3", "--val_batch_size", "1")
    capsys.readouterr()
    other = evaluate(runs, "--corrupt", "shot_noise", "--severity", "3", "--val_batch_size", "4")
    assert one["results"] == other["results"]
    assert "already in" in "".join(capsys.readouterr())


def test_a_report_holds_them_like_attacks(runs):
    evaluate(runs, "--corrupt", "fog", "--severity", "2", "--attack", "fgsm", "--eps", "2/255")
    content = main(["--report", "one", "--output_dir", str(runs), "--corrupt", "fog"])
    assert {row["attack"] for row in content["rows"]} == {"none", "fog"}
    content = main(["--report", "one", "--output_dir", str(runs)])
    assert {"none", "fog", "fgsm"} <= {row["attack"] for row in content["rows"]}
    assert not any(row["members"] for row in content["rows"]), "no worst case over corruptions"
    assert (runs / "one" / "report" / "curves.png").is_file()
    evaluate(runs, "--corrupt", "shot_noise", "--severity", "1", "--attack", "noise", "--eps", "2/255")
    content = main(["--report", "one", "--output_dir", str(runs), "--attack", "noise"])
    assert {row["attack"] for row in content["rows"] if not row["members"]} == {"none", "sign_noise", "uniform_noise"}


@pytest.mark.parametrize(("flags", "says"), [
    (["--corrupt", "rain"], "choose from all, gaussian_noise, shot_noise"),
    (["--corrupt", "fog", "--severity", "6"], "--severity: 6 is out of bounds: 1 to 5"),
    (["--severity", "3"], "--severity: for corruptions: add --corrupt"),
    (["--corrupt", "fog", "--corrupt_baseline", "nothing"], "--corrupt_baseline: no folder nothing"),
    (["--corrupt", "fog", "--attack", "fgsm", "--transfer_from", "x.pth"], "leave out --transfer_from")])
def test_bad_flags(runs, flags, says, capsys):
    with pytest.raises(SystemExit) as stop:
        evaluate(runs, *flags)
    assert stop.value.code == 2 and says in capsys.readouterr().err
