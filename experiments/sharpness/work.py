"""Run the commands that are left, network by network; several processes can do so at once.

Each network has a journal <folder>/<network>.jsonl, with a line for each command that has ended. Whoever works on a
network holds its lock.
"""
import json
import time
from contextlib import closing
from pathlib import Path

import numpy
import torch
import torchvision

from engine.about.versions import ROOT, find_commit
from experiments.sharpness.plan import Job, Network, Plan
from experiments.sharpness.probes import probe
from main import main
from utils.errors import UserError
from utils.files import AppendOnly
from utils.logging import logger

SECONDS_PER_PASS = 0.35  # before anything is measured
PACKAGES = torch, torchvision, numpy


def work(plan: Plan, folder: Path, *, train: bool, attack: bool, extra: tuple[str, ...] = (),
         at_start: tuple[str, ...] = ()) -> bool:
    """Run what is left of the networks that nobody else works on; return whether all of it is done.

    extra: flags of trainings that differ between machines, such as --data_root; at_start: those that a training that
    continues doesn't take. The journal leaves both out. Raises SystemExit, as main.py does, if a command fails or is
    stopped; repeat the call to continue.
    """
    folder.mkdir(parents=True, exist_ok=True)
    left_over = []
    for network in plan.networks():
        try:
            journal = AppendOnly(folder / f"{network.name}.jsonl")
        except UserError:
            left_over.append(f"{network.name} is being worked on")
            continue
        with closing(journal):
            wanted = [plan.training(network)] * train + plan.measurements(network) * attack
            journal.truncate(journal.read().rfind(b"\n") + 1)  # a kill may have left an incomplete line
            done = {line["job"] for line in _parse(journal.read())}
            for job in wanted:
                if job.name not in done and (job.name == "train" or "train" in done):
                    logger.info("%s: %s. %s", network.name, job.name, _describe_rest(plan, folder, train, attack))
                    journal.write(json.dumps(_run(plan, network, job, folder, extra, at_start)) + "\n")
                    done.add(job.name)
            if attack and "train" not in done:
                left_over.append(f"{network.name} isn't trained")
    for line in left_over:
        logger.info("Left out: %s", line)
    return not left_over


def read_journal(folder: Path, network: Network) -> list[dict]:
    """Return {"job", "command", "seconds", "exit", "commit", "versions"} of each command that has ended."""
    path = folder / f"{network.name}.jsonl"
    return _parse(path.read_bytes()) if path.exists() else []


def _parse(content: bytes) -> list[dict]:
    return [json.loads(line) for line in content.rpartition(b"\n")[0].splitlines()]


def _describe_rest(plan: Plan, folder: Path, train: bool, attack: bool) -> str:
    """Return how many commands are left and how long they take, by the time of those that have ended."""
    seconds = passes = 0.0
    left = []
    for network in plan.networks():
        ended = {line["job"]: line["seconds"] for line in read_journal(folder, network)}
        training, measurements = plan.training(network), plan.measurements(network)
        for job in [training, *measurements]:
            if job.name in ended:
                seconds, passes = seconds + ended[job.name], passes + job.passes
            elif (train and job is training) or (attack and job is not training):
                left.append(job.passes)
    hours = sum(left) * (seconds / passes if passes else SECONDS_PER_PASS) / 3600
    return f"{len(left)} commands are left, about {hours:.1f} hours of one process"


def _run(plan: Plan, network: Network, job: Job, folder: Path, extra: tuple[str, ...],
         at_start: tuple[str, ...]) -> dict:
    """Run a job; return its line of the journal."""
    start, code = time.monotonic(), 0
    if job.name == "probe":
        probe(folder / network.name, iterations=plan.probe_iterations)
    else:
        begun = job.name == "train" and any((folder / network.name).glob("latest_*.pth"))
        place = ("--output_dir", str(folder), "--exp_name", network.name)
        of_training = () if job.name != "train" else (*extra, *(("--continue_training",) if begun else at_start))
        try:
            main([*place, *job.arguments, *of_training])
        except SystemExit as stop:
            code = stop.code
            if not (job.name == "verify" and code == 1):  # 1: a check failed, which is a result
                raise
    return {"job": job.name, "command": _describe(network, job), "seconds": round(time.monotonic() - start, 1),
            "exit": code, "commit": find_commit(ROOT),
            "versions": {package.__name__: package.__version__ for package in PACKAGES}}


def _describe(network: Network, job: Job) -> str:
    """Return the command without what differs between machines."""
    if job.name == "probe":
        return f"python -m experiments.sharpness.probes RUNS/{network.name}"
    return " ".join(["python main.py --exp_name", network.name, *job.arguments])
