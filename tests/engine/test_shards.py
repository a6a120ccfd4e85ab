"""--shard: the joined report is that of the whole evaluation."""
import json
import shutil

import pytest

from engine.options.types import shard
from main import main
from tests.calls import options_of

TEST = ["--test_only", "--num_workers", "0", "--val_batch_size", "6", "--attack", "pgd", "apgd", "min_radius",
        "--steps", "3", "--eps", "4/255"]  # six batches, the last of two images


@pytest.fixture(scope="module")
def folder(tmp_path_factory, train):
    """A folder with a trained run `exp`, evaluated whole, and a copy `parts` of it, evaluated in four shards."""
    root = tmp_path_factory.mktemp("shards")
    train(root)
    shutil.rmtree(root / "exp" / "records")  # of the training's own evaluation, with other batches
    shutil.copytree(root / "exp", root / "parts")
    evaluate(root, "exp")
    for number in (3, 1, 4, 2):
        evaluate(root, "parts", "--shard", f"{number}/4")
    return root


@pytest.fixture
def copy(folder, tmp_path):
    """A copy of that folder to change."""
    return shutil.copytree(folder, tmp_path / "copy")


def evaluate(root, name, *flags):
    return main([*TEST, "--output_dir", str(root), "--exp_name", name, *flags])


def report(root, name) -> dict:
    main(["--report", name, "--output_dir", str(root)])
    text = (root / name / "report" / "report.json").read_text()
    return json.loads(text.replace(f'"{name}"', '"the run"'))


def test_joined_shards_are_the_whole_evaluation(folder, capsys):
    whole, joined = report(folder, "exp"), report(folder, "parts")
    assert joined == whole and len(joined["images"]) == 32
    assert "missing" not in capsys.readouterr().err
    own = [json.loads((folder / "parts" / "shards" / f"{number}-of-4" / "images.json").read_text())["own"]
           for number in range(1, 5)]
    assert sorted(map(len, own)) == [6, 6, 8, 12] and len({name for names in own for name in names}) == 32
    assert not (folder / "parts" / "records").exists()


def test_a_lost_shard_is_named_and_run_again(copy, capsys):
    shutil.rmtree(copy / "parts" / "shards" / "2-of-4")
    lost = report(copy, "parts")
    captured = capsys.readouterr()
    assert "parts: missing or incomplete: --shard 2/4; run each again" in captured.out + captured.err
    assert 0 < len(lost["images"]) < 32
    evaluate(copy, "parts", "--shard", "2/4")
    assert report(copy, "parts") == report(copy, "exp")


def test_an_incomplete_shard_is_named_and_continued(copy, capsys):
    file, = (copy / "parts" / "shards" / "1-of-4" / "records").glob("apgd*")
    content = file.read_bytes()
    file.write_bytes(content[:len(content) // 2])  # as a kill leaves it
    report(copy, "parts")
    captured = capsys.readouterr()
    assert "missing or incomplete: --shard 1/4;" in captured.out + captured.err
    evaluate(copy, "parts", "--shard", "1/4")
    assert file.read_bytes() == content and report(copy, "parts") == report(copy, "exp")


def test_a_shard_without_images_ends_well(copy, capsys):
    assert evaluate(copy, "parts", "--shard", "7/9")["images"] == []
    assert "--shard 7/9 has no images" in capsys.readouterr().out


def test_what_only_the_whole_run_has_is_not_missing_in_shards(copy, capsys):
    main(["--test_only", "--num_workers", "0", "--val_batch_size", "6", "--attack", "fgsm", "--eps", "4/255",
          "--output_dir", str(copy), "--exp_name", "parts"])
    evaluate(copy, "parts", "--shard", "7/9")  # without images
    capsys.readouterr()
    report(copy, "parts")
    captured = capsys.readouterr()
    assert "missing" not in captured.out + captured.err


def test_shards_of_other_batches_are_named(copy, capsys):
    shutil.rmtree(copy / "parts" / "shards" / "4-of-4")
    evaluate(copy, "parts", "--shard", "4/4", "--val_batch_size", "3")
    report(copy, "parts")
    captured = capsys.readouterr()
    assert "the shards 1/4 to 4/4 don't have each image once: run them again with the same --val_batch_size" in (
        captured.out + captured.err)


def test_shards_of_other_images_are_refused(copy, refused):
    evaluate(copy, "parts", "--shard", "1/2", "--val_images", "8")
    line = refused(["--report", "parts", "--output_dir", str(copy)])
    assert "are of different images: delete" in line


def test_a_damaged_list_is_named(copy, refused):
    (copy / "parts" / "shards" / "3-of-4" / "images.json").write_text("{")
    assert "is missing or damaged: run --shard 3/4 again" in refused(["--report", "parts", "--output_dir", str(copy)])


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "1/2/3", "-1/2", "1.0/2"])
def test_names_of_shards(text):
    with pytest.raises(ValueError, match="such as 1/4 to 4/4"):
        shard(text)
    assert options_of("--test_only", "--shard", "02/4").shard == "2/4"
