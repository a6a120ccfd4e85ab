"""Segment images: a file or a folder in, label maps and overlays out; see --help.

    python predict.py --input photos --exp_name sam                     with the run's best checkpoint
    python predict.py --input a.jpg --ckpt best.pth --model deeplabv3plus_resnet101 --dataset voc

Writes <name>.png, the classes as a palette PNG, and <name>_overlay.png; sub-folders of the input are kept.
"""
from pathlib import Path

import torch
from PIL import Image

from datasets.files import read_image
from datasets.image_lists import list_images
from engine.run.exits import reported_errors
from engine.setup import prepare
from network import precise
from utils.errors import UserError
from utils.images import overlay, to_uint8
from utils.logging import logger
from utils.modes import eval_mode


def predict(argv=None) -> list[Path]:
    """Segment the images that argv names; return the label maps' paths."""
    with reported_errors():
        setup = prepare(argv, entry="predict.py")
        options = setup.options
        images = pair_with_targets(find_images(Path(options.input)), Path(options.save_val_results_to))
        model = precise(setup.scored_model, amp=options.amp)
        logger.info("Model restored from %s", setup.checkpoint.path)
        written, problems = [], []
        for path, target in images:
            try:
                written.append(segment(model, path, target, setup.classes))
            except UserError as problem:  # the other images can still be segmented
                problems.append(problem)
                logger.warning("Skipped: %s", problem)
        logger.info("%d label maps and overlays written to %s", len(written), options.save_val_results_to)
        if problems:
            raise UserError(f"{len(problems)} of {len(images)} images can't be read: {problems[0]}")
    return written


def find_images(source: Path) -> list[tuple[Path, Path]]:
    """Return (image, its path relative to `source`) for a file or for all images below a folder."""
    if source.is_file():
        return [(source, Path(source.name))]
    folders = [source, *sorted(path for path in source.rglob("*") if path.is_dir())] if source.is_dir() else []
    images = [(path, path.relative_to(source)) for folder in folders for path in list_images(folder)]
    if not images:
        raise UserError(f"--input {source}: contains no PNG or JPEG")
    return images


def pair_with_targets(images: list[tuple[Path, Path]], folder: Path) -> list[tuple[Path, Path]]:
    """Return (image, path of its label map); raise UserError if a map would overwrite an image or another map."""
    targets = {}
    for path, name in images:
        target = folder / name.with_suffix(".png")
        if target in targets.values() or target.resolve() in {path.resolve() for path, _ in images}:
            raise UserError(f"the label map of {path} would overwrite {target}: rename one, or choose another "
                            "--save_val_results_to")
        targets[path] = target
    return list(targets.items())


@torch.no_grad()
def segment(model, path: Path, target: Path, classes) -> Path:
    """Write the label map `target` and the overlay of one image, upright and at its own size; return `target`."""
    image = read_image(path, upright=True).as_subclass(torch.Tensor).float().div(255)  # [3, H, W]
    with eval_mode(model):
        pred = model(image[None].to(next(model.parameters()).device)).argmax(1)[0].byte().cpu().numpy()  # [H, W]
    label_map = Image.fromarray(pred, mode="P")
    label_map.putpalette(classes.palette.tobytes())
    target.parent.mkdir(parents=True, exist_ok=True)
    label_map.save(target)
    colours = overlay(to_uint8(image), classes.decode_target(pred))
    Image.fromarray(colours).save(target.with_name(f"{target.stem}_overlay.png"))
    return target


if __name__ == "__main__":
    predict()
