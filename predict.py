"""Segment images: files, folders or lists in, label maps and overlays out; see --help.

    python predict.py --input photos --exp_name sam                     with the run's best checkpoint
    python predict.py --input a.jpg --ckpt best.pth --model deeplabv3plus_resnet101 --dataset voc
    python predict.py --input photos --exp_name sam --attack pgd        attacked as well

Writes NAME.png, the classes as a palette PNG, and NAME_overlay.png (docs/predict.md).
"""
from pathlib import Path

from engine.evaluation.plan import weigh_classes
from engine.prediction.inputs import find_images, find_masks
from engine.prediction.outputs import Outputs
from engine.prediction.segment import LABEL_MAP, Segmenter
from engine.run.exits import reported_errors
from engine.setup import prepare
from utils.logging import logger


def predict(argv=None) -> list[Path]:
    """Segment the images that argv names; return the label maps' paths. Exits with code 1 if some can't be read."""
    with reported_errors():
        setup = prepare(argv, entry="predict.py")
        options = setup.options
        weigh_classes(setup)
        outputs = Outputs(Path(options.save_val_results_to))
        images = find_images(list(map(Path, options.input)), is_own=outputs.is_own)
        masks = find_masks(images, Path(options.masks)) if options.masks else {}
        segmenter = Segmenter(
            setup.scored_model, setup.classes, amp=options.amp, attack=next(iter(setup.attacks), None), masks=masks,
            save_logits=options.save_logits, overlay_alpha=options.overlay_alpha)
        targets = outputs.plan(images, segmenter.endings, kept=masks.values(), overwrite=options.overwrite)
        log_start(setup.checkpoint.path, segmenter)
        written = segment(segmenter, images, outputs, targets, batch_size=options.val_batch_size,
                          checkpoint=setup.checkpoint.path)
        log_end(written, outputs, segmenter, total=len(images))
    return [written[image] for image in images]


def segment(segmenter: Segmenter, images: list, outputs: Outputs, targets: dict, *, batch_size: int,
            checkpoint: str) -> dict:
    """Segment the images and write their files; return {image: its label map}."""
    how = {"checkpoint": checkpoint, "attack": segmenter.attack.settings() if segmenter.attack else None}
    written = {}
    with outputs.recorded():
        for image, files, described in segmenter.run(images, batch_size=batch_size):
            target = targets[image]
            outputs.write(target, files, {**described, **how})
            written[image] = target.with_name(target.name + LABEL_MAP)
    return written


def log_start(checkpoint: str, segmenter: Segmenter):
    """Log the weights and the attack with its labels."""
    logger.info("Model restored from %s", checkpoint)
    if segmenter.attack is not None:
        logger.info("Attack: %s, on %s as labels", segmenter.attack,
                    "the masks" if segmenter.masks else "the clean predictions")


def log_end(written: dict, outputs: Outputs, segmenter: Segmenter, *, total: int):
    """Log what was written; name the images that weren't, and exit with code 1 if there are any."""
    logger.info("%d label maps and overlays written to %s", len(written), outputs.folder)
    if segmenter.problems:
        for problem in segmenter.problems:
            logger.error("not segmented: %s", problem)
        logger.error("error: %d of %d images can't be segmented, see the lines above; the others are written",
                     len(segmenter.problems), total)
        raise SystemExit(1)


if __name__ == "__main__":
    predict()
