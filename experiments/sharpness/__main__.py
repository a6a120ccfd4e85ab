"""Train, attack and compare networks trained with and without sharpness-aware minimization.

    python -m experiments.sharpness train attack --data_root CamVid     continues where it was stopped
    python -m experiments.sharpness table
    python -m experiments.sharpness restore train attack ...            not again what the results already hold

Several processes can work at once: start the command again. What it would do in all is printed with the time that is
left. Corruptions need `make extras`.
"""
import argparse
import sys
from pathlib import Path

from engine.run.exits import reported_errors
from experiments.sharpness.collect import restore
from experiments.sharpness.plan import CORE, METHODS, PLANS, QUICK, choose_methods
from experiments.sharpness.results import name_archive, write_results
from experiments.sharpness.work import work
from utils.logging import logger


def main(argv=None):
    """Do the steps; the exit code is 3 if other processes still work on some networks."""
    parser = argparse.ArgumentParser("python -m experiments.sharpness", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="+", choices=("restore", "train", "attack", "table"), metavar="STEP",
                        help="train, attack (needs trained networks), table (of the networks that are done), restore "
                        "(take those that the results hold into the folder, without their weights)")
    parser.add_argument("--plan", choices=PLANS, default="camvid", help="what is trained and measured (plan.py)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, metavar="METHOD", help="ways to train, for all steps "
                        f"(default: {' '.join(CORE)}; there are also {' '.join(sorted({*METHODS} - {*CORE}))})")
    parser.add_argument("--quick", action="store_true", help="the whole way in two minutes, on synthetic data")
    parser.add_argument("--data_root", help="folder of CamVid")
    parser.add_argument("--backbone_weights", help="file of the ImageNet backbone (default: torchvision's, downloaded)")
    parser.add_argument("--folder", type=Path, help="of the runs (default: checkpoints/sharpness_PLAN)")
    parser.add_argument("--results", type=Path, help="folder of the JSON files, tables and pictures (default: results; "
                        "with --quick FOLDER/results)")
    parser.add_argument("--page", type=Path, help="page of documentation whose tables and pictures are made new")
    args = parser.parse_args(argv)
    if "train" in args.steps and not args.quick and not args.data_root:
        parser.error("--data_root: give the folder of CamVid (docs/data.md#camvid)")
    if args.page and (args.quick or "table" not in args.steps):
        parser.error("--page: for the step table, without --quick")
    plan = QUICK if args.quick else PLANS[args.plan]
    if missing := [name for name in args.methods or () if name not in plan.methods]:
        parser.error(f"--methods: {plan.name} has no {', '.join(missing)} (it has {', '.join(plan.methods)})")
    plan = choose_methods(plan, args.methods)
    folder = args.folder or Path(f"checkpoints/sharpness_{plan.name}")
    extra, at_start = ((flag, str(Path(path).resolve())) if path else () for flag, path in (
        ("--data_root", args.data_root), ("--backbone_weights", args.backbone_weights)))
    complete = True
    results = args.results or (folder / "results" if args.quick else Path("results"))
    with reported_errors():
        if "restore" in args.steps:
            archive = name_archive(plan, results)
            logger.info("Restored from %s: %s", archive, ", ".join(restore(archive, folder)) or "nothing new")
        if {"train", "attack"} & {*args.steps}:
            complete = work(plan, folder, train="train" in args.steps, attack="attack" in args.steps, extra=extra,
                            at_start=at_start)
        if "table" in args.steps:
            write_results(plan, folder, results, page=args.page)
    return 0 if complete else 3


if __name__ == "__main__":
    sys.exit(main())
