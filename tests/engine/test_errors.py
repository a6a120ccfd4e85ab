"""What the user can mend is one line on stderr and exit code 2; anything else stays a traceback."""
import pytest
import torch

from engine.errors import reported_errors
from utils.errors import UserError


@pytest.mark.parametrize(("error", "line"), [
    (UserError("--lr: too high"), "error: --lr: too high"),
    (FloatingPointError("PGD: not finite"), "error: PGD: not finite"),
    (torch.OutOfMemoryError("CUDA out of memory\nTried to"), "error: the GPU's memory is full: lower --batch_size"),
    (UserError("Caught UserError in DataLoader worker process 0.\nOriginal Traceback:\n  File x\n"
               "utils.errors.UserError: Can't read a.png"), "error: Can't read a.png"),
])
def test_one_line_and_exit_code_2(error, line, capsys):
    with pytest.raises(SystemExit) as stop, reported_errors():
        raise error
    (said,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and said.startswith(line)


def test_ctrl_c_is_130_and_a_bug_stays_a_bug():
    with pytest.raises(SystemExit) as stop, reported_errors():
        raise KeyboardInterrupt
    assert stop.value.code == 130
    with pytest.raises(ZeroDivisionError), reported_errors():
        raise ZeroDivisionError
