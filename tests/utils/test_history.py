"""history.csv: a run's rows, kept, cut and refused."""
import csv

import pytest

from utils.errors import UserError
from utils.history import History


@pytest.fixture
def history(tmp_path):
    return History(tmp_path / "history.csv", ["Loss", "Mean IoU", 'IoU "a, b"'])


def read(history) -> list[dict]:
    with open(history.path, newline="") as file:
        return list(csv.DictReader(file))


def fill(history, itrs):
    for itr in itrs:
        history.add("train", itr=itr, epoch=1, values={"Loss": 0.1 + 0.2})
        if itr % 2 == 0:
            history.add("val", itr=itr, epoch=1, values={"Mean IoU": float("nan"), 'IoU "a, b"': 0.25})


def test_rows_are_read_back_with_all_their_digits(history):
    history.open(itr=0, validated=0, continues=False)
    fill(history, (1, 2))
    first, second, third = read(history)
    assert first == {"Iteration": "1", "Epoch": "1", "Split": "train", "Loss": "0.30000000000000004", "Mean IoU": "",
                     'IoU "a, b"': ""}
    assert second["Iteration"] == "2" and third == {
        "Iteration": "2", "Epoch": "1", "Split": "val", "Loss": "", "Mean IoU": "nan", 'IoU "a, b"': "0.25"}


@pytest.mark.parametrize(("itr", "validated", "kept"), [
    (0, 0, []), (1, 0, ["1 train"]), (2, 0, ["1 train", "2 train"]), (2, 2, ["1 train", "2 train", "2 val"]),
    (3, 2, ["1 train", "2 train", "2 val", "3 train"]), (9, 4, ["1 train", "2 train", "2 val", "3 train", "4 train",
                                                              "4 val"])])
@pytest.mark.parametrize("torn", ["", "5,1,tra", "5,1,train,0.1"])
def test_a_continued_run_keeps_the_rows_up_to_its_checkpoint(history, itr, validated, kept, torn):
    history.open(itr=0, validated=0, continues=False)
    fill(history, (1, 2, 3, 4))
    with open(history.path, "a") as file:
        file.write(torn)
    history.open(itr=itr, validated=validated, continues=True)
    assert [f"{row['Iteration']} {row['Split']}" for row in read(history)] == kept


def test_a_history_that_is_not_the_runs_is_refused_and_kept(history, tmp_path):
    history.open(itr=0, validated=0, continues=False)
    history.open(itr=0, validated=0, continues=False)  # without rows
    fill(history, (1,))
    before = history.path.read_bytes()
    with pytest.raises(UserError, match="is the history of another run: move it away"):
        history.open(itr=0, validated=0, continues=False)
    with pytest.raises(UserError, match="is the history of another run"):
        History(tmp_path / "history.csv", ["Loss"]).open(itr=1, validated=0, continues=True)
    assert history.path.read_bytes() == before
