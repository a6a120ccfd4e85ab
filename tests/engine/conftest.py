"""Whole runs of main() on the synthetic data set, with a thin network; tests that need the real one ask for it."""
import pytest
import torch

from engine.training.meter import ROBUST
from engine.training.trainer import Trainer
from main import main
from tests import thin

SMALL = ["--dataset", "synthetic", "--model", "deeplabv3_mobilenet", "--no-pretrained_backbone", "--crop_size", "65",
         "--batch_size", "2", "--num_workers", "0", "--val_batch_size", "16"]


@pytest.fixture(scope="module", autouse=True)
def thin_network():
    """--model deeplabv3_mobilenet is the thin network of tests/thin.py."""
    with thin.installed():
        yield


@pytest.fixture
def real_network(thin_network):
    """--model deeplabv3_mobilenet is what it says."""
    with thin.real():
        yield


@pytest.fixture(scope="session")
def small() -> list[str]:
    return SMALL


@pytest.fixture(scope="session")
def train():
    """A function that trains in a folder for a few iterations."""
    def run(folder, *flags, itrs=2):
        return main([*SMALL, "--output_dir", str(folder), "--total_itrs", str(itrs), "--val_interval", "2",
                     "--lr", "0.1", "--backbone_lr_mult", "1", *flags])

    return run


@pytest.fixture(scope="module")
def scores():
    """{iteration: the mean IoU, clean and attacked, that the validation after it finds}; else the network's own.

    Which of two validations of a network that has hardly learnt anything is the better one, the CPU's rounding decides.
    """
    fixed, plain = {}, Trainer.validate_and_save

    def validate_and_save(trainer):
        validate = trainer.validate
        trainer.validate = lambda it: {name: fixed.get(it.cur_itrs, value) if name in ("Mean IoU", ROBUST) else value
                                       for name, value in validate(it).items()}
        plain(trainer)
        trainer.validate = validate

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "validate_and_save", validate_and_save)
        yield fixed


@pytest.fixture(scope="session")
def trained(tmp_path_factory, train):
    """A folder that holds a finished run called exp, of one thread; tests may test it, not train it."""
    folder, threads = tmp_path_factory.mktemp("runs"), torch.get_num_threads()
    torch.set_num_threads(1)  # else whichever test is the first to ask for it says how many: others find other bits
    with thin.installed():
        train(folder, itrs=4)
    torch.set_num_threads(threads)
    return folder


@pytest.fixture
def refused(capsys):
    """A function that calls main with what it must refuse, and returns its line."""
    def run(argv, call=main):
        with pytest.raises(SystemExit) as stop:
            call(argv)
        assert stop.value.code == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        return line

    return run
