"""Iterations and attacks during which a test sends its signals, in processes that tests/processes.py starts."""
import signal
import time

import torch

from attacks import PGD
from engine.training.trainer import Trainer


def hold_in(itr: int):
    """In the iteration `itr`, from 1, say so and wait for a signal."""
    def step(trainer, *batch):
        if trainer.cur_itrs + 1 == itr:
            print("In the iteration", flush=True)  # noqa: T201
            while trainer.interrupts.signum is None:
                time.sleep(0.01)
        return plain(trainer, *batch)

    plain, Trainer.step = Trainer.step, step


def compute_for_minutes():
    """The first iteration says so and is one call of a library from there on, during which no Python runs."""
    def step(*_):
        print("In the iteration", flush=True)  # noqa: T201
        torch.linalg.svd(torch.randn(6000, 6000, dtype=torch.float64))
        raise AssertionError("nothing ended it")

    Trainer.step = step


def stay_in_attack(number: int):
    """In the attack on batch `number`, from 1, say so and stay there."""
    def attempt(attack, *args):
        nonlocal calls
        calls += 1
        if calls == number:
            print("In the attack", flush=True)  # noqa: T201
            signal.pause()
        return plain(attack, *args)

    calls, plain = 0, PGD.attempt
    PGD.attempt = attempt
