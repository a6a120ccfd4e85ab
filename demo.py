"""The whole job in a few minutes on two CPU cores, without any files: does SAM make this network more robust?

Trains deeplabv3plus_mobilenet on the synthetic data set with SGD and with SAM through main.py, evaluates both clean,
under FGSM and under PGD, and writes the comparison and a picture to ./demo.
"""
import argparse
from pathlib import Path

from engine import report
from engine.errors import reported_errors
from engine.figures import prediction_sheet
from main import main
from utils.logging import logger

COMMON = ["--dataset", "synthetic", "--no-pretrained_backbone", "--crop_size", "97",
          "--batch_size", "4", "--lr", "0.1", "--backbone_lr_mult", "1", "--print_interval", "50", "--overwrite"]
RUNS = {"SGD": ["--optimizer", "sgd"], "SAM": ["--optimizer", "SAM", "--rho", "0.02"]}
SHOWN = "pgd_linf_4-255_10steps"  # in the picture
ATTACK = ["--attack", "fgsm", "pgd", "--eps", "2/255", "4/255", "--steps", "10", "--save_val_results"]


def demo(argv=None):
    """Train, attack, compare."""
    parser = argparse.ArgumentParser("demo.py", description=__doc__)
    parser.add_argument("--output_dir", default="demo", help="folder for the runs, the table and the picture")
    parser.add_argument("--total_itrs", default="300", help="iterations of each run")
    opts = parser.parse_args(argv)
    folder = Path(opts.output_dir)
    length = ["--total_itrs", opts.total_itrs, "--val_interval", opts.total_itrs]
    rows, runs = [], []
    for name, flags in RUNS.items():
        here = ["--output_dir", opts.output_dir, "--exp_name", name.lower()]
        results = main([*COMMON, *length, *here, *flags, *ATTACK])
        rows += results["results"]
        runs += [name] * len(results["results"])

    with reported_errors():
        table = report.table(rows, first={"Trained with": runs})
        (folder / "comparison.md").write_text(table + "\n", encoding="utf-8")
        prediction_sheet(folder / "comparison.png", {name: folder / name.lower() / "val_results" for name in RUNS},
                         names=["val_0000", "val_0001", "val_0002"], attacked=SHOWN)
        logger.info("\n%s\n\nThe table, the picture comparison.png and both runs are in %s", table, folder.resolve())


if __name__ == "__main__":
    demo()
