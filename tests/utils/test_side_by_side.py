"""Commands side by side: how many at once, what is shown, and how they end."""
import os
import signal
import subprocess
import sys
import time

import pytest

from utils.side_by_side import run_side_by_side


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.mark.slow
def test_all_run_at_most_two_at_once_with_a_log_each(tmp_path, capfd):
    """Each command counts who is there with it."""
    code = f"""import os, pathlib, time
here = pathlib.Path({str(tmp_path)!r}) / f"{{os.getpid()}}.here"
here.touch()
print(len(list(here.parent.glob("*.here"))), os.environ["OMP_NUM_THREADS"])
time.sleep(0.3)
here.unlink()"""
    commands = {name: python(code) for name in "abcd"}
    run_side_by_side(commands, tmp_path / "logs", total=4, count_done=lambda name: 1, title="counting")
    said = [(tmp_path / "logs" / f"{name}.log").read_text().split() for name in commands]
    assert all(int(number) <= 2 and threads == os.environ.get("OMP_NUM_THREADS", "1") for number, threads in said)
    assert "counting: 100 %" in capfd.readouterr().err


def test_a_failure_ends_the_others_and_shows_its_last_lines(tmp_path, capfd):
    commands = {"long": python("import time; time.sleep(600)"),
                "bad": python("print('the reason'); raise SystemExit(7)"), "never": python("raise SystemExit(9)")}
    with pytest.raises(SystemExit) as stop:
        run_side_by_side(commands, tmp_path, total=1, count_done=lambda name: 0, title="failing")
    err = capfd.readouterr().err
    assert stop.value.code == 7 and "the reason" in err and str(tmp_path / "bad.log") in err
    assert not (tmp_path / "never.log").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_ends_the_commands(tmp_path):
    code = f"""import signal
from pathlib import Path
from utils.side_by_side import run_side_by_side
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore Ctrl-C
child = ["{sys.executable}", "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)"]
run_side_by_side({{"a": child}}, Path({str(tmp_path)!r}), total=1, count_done=lambda name: 0, title="waiting")"""
    process = subprocess.Popen(python(code), stderr=subprocess.DEVNULL)
    log = tmp_path / "a.log"
    while not (log.exists() and log.read_text().endswith("\n")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=600) != 0
    with pytest.raises(ProcessLookupError):
        os.kill(int(log.read_text()), 0)
