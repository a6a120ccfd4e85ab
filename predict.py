"""Segment images: a file or a folder in, label maps and overlays out.

    python predict.py --input photos --exp_name sam                     the run's best checkpoint
    python predict.py --input a.jpg --ckpt best.pth --model deeplabv3plus_resnet101 --dataset voc

Writes <name>.png, the classes as a palette PNG, and <name>_overlay.png; sub-folders of the input are kept. Model, data
set (for classes and colours) and the like are the checkpoint's unless given; --ckpt, --exp_name, --model, --dataset,
--gpu_id and so on are main.py's flags, see its --help.
"""
import argparse
from pathlib import Path

import torch
from PIL import Image

from datasets import DATASETS
from datasets.files import read_image
from datasets.names import images_in
from engine import build, options, report
from engine.errors import reported_errors
from engine.precision import precise
from engine.resume import load_checkpoint
from engine.run import Run
from utils.errors import UserError
from utils.logging import logger
from utils.modes import eval_mode


def predict(argv=None) -> list[Path]:
    """Segment what argv names; returns the label maps' paths."""
    parser = argparse.ArgumentParser("predict.py", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, type=Path, help="an image, or a folder that is searched throughout")
    parser.add_argument("--save_val_results_to", default="predictions", type=Path,
                        help="folder for the results (default: predictions)")
    own, flags = parser.parse_known_args(argv)
    with reported_errors():
        opts = options.parse_options(["--test_only", *flags])
        images = with_targets(find_images(own.input), own.save_val_results_to)
        checkpoint = load_checkpoint(opts, Run(opts))
        options.complete(opts)
        dataset = DATASETS[opts.dataset]
        opts.num_classes = dataset.num_classes
        model = build.build_network(opts, build.choose_device(opts.gpu_id), checkpoint=checkpoint)
        model = precise(model, amp=opts.amp)
        logger.info("Model restored from %s", opts.ckpt)
        written, problems = [], []
        for path, target in images:
            try:
                written.append(segment(model, path, target, dataset))
            except UserError as problem:  # the others are worth having
                problems.append(problem)
                logger.warning("Left out: %s", problem)
        logger.info("%d label maps and overlays written to %s", len(written), own.save_val_results_to)
        if problems:
            raise UserError(f"{len(problems)} of {len(images)} images can't be read: {problems[0]}")
    return written


def find_images(source: Path) -> list[tuple[Path, Path]]:
    """(image, its path relative to `source`) for a file or for all images below a folder."""
    if not source.exists():
        raise UserError(f"--input {source}: no such file or folder")
    if source.is_file():
        return [(source, Path(source.name))]
    folders = [source, *sorted(path for path in source.rglob("*") if path.is_dir())] if source.is_dir() else []
    images = [(path, path.relative_to(source)) for folder in folders for path in images_in(folder)]
    if not images:
        raise UserError(f"--input {source}: no PNG or JPEG there")
    return images


def with_targets(images: list[tuple[Path, Path]], folder: Path) -> list[tuple[Path, Path]]:
    """(image, the label map it becomes); no label map may be written over an image or over another one."""
    targets = {}
    for path, name in images:
        target = folder / name.with_suffix(".png")
        if target in targets.values() or target.resolve() in {path.resolve() for path, _ in images}:
            raise UserError(f"{path} would be written to {target}, which is another image's: rename one, or choose "
                            "another --save_val_results_to")
        targets[path] = target
    return list(targets.items())


@torch.no_grad()
def segment(model, path: Path, target: Path, dataset) -> Path:
    """Write the label map `target` and the overlay of one image, upright and at its own size; returns `target`."""
    image = read_image(path, upright=True).as_subclass(torch.Tensor).float().div(255)  # [3, H, W]
    with eval_mode(model):
        pred = model(image[None].to(next(model.parameters()).device)).argmax(1)[0].byte().cpu().numpy()  # [H, W]
    label_map = Image.fromarray(pred, mode="P")
    label_map.putpalette(dataset.palette.tobytes())
    target.parent.mkdir(parents=True, exist_ok=True)
    label_map.save(target)
    colours = report.overlay(report.to_uint8(image), dataset.decode_target(pred))
    Image.fromarray(colours).save(target.with_name(f"{target.stem}_overlay.png"))
    return target


if __name__ == "__main__":
    predict()
