"""The whole job in a few minutes on two CPU cores, without any files: does SAM make this network more robust?

Trains deeplabv3plus_mobilenet on the synthetic data set with SGD and with SAM through main.py, evaluates both clean,
under FGSM and under PGD, and writes the comparison (report.md), curves and pictures to ./demo.
"""
import argparse

from main import main

COMMON = ["--dataset", "synthetic", "--no-pretrained_backbone", "--crop_size", "97",
          "--batch_size", "4", "--lr", "0.1", "--backbone_lr_mult", "1", "--print_interval", "50", "--overwrite"]
RUNS = {"SGD": ["--optimizer", "sgd"], "SAM": ["--optimizer", "SAM", "--rho", "0.02"]}
ATTACK = ["--attack", "fgsm", "pgd", "--eps", "2/255", "4/255", "--steps", "10"]


def demo(argv=None) -> dict:
    """Train, attack, compare; returns what report.json holds."""
    parser = argparse.ArgumentParser("demo.py", description=__doc__)
    parser.add_argument("--output_dir", default="demo", help="folder for the runs and the report")
    parser.add_argument("--total_itrs", default="300", help="iterations of each run")
    opts = parser.parse_args(argv)
    here = ["--output_dir", opts.output_dir]
    length = ["--total_itrs", opts.total_itrs, "--val_interval", opts.total_itrs]
    for name, flags in RUNS.items():
        main([*COMMON, *length, *here, "--exp_name", name, *flags, *ATTACK])
    return main(["--report", *RUNS, *here, "--report_dir", opts.output_dir])


if __name__ == "__main__":
    demo()
