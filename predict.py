"""Segment images: files, folders or lists in, label maps and overlays out; see --help.

    python predict.py --input photos --exp_name sam                     with the run's best checkpoint
    python predict.py --input a.jpg --ckpt best.pth --model deeplabv3plus_resnet101 --dataset voc
    python predict.py --input photos --exp_name sam --attack pgd        attacked as well

Writes NAME.png, the classes as a palette PNG, and NAME_overlay.png (docs/predict.md).
"""
from pathlib import Path

from datasets import make_mask_reader
from datasets.image_lists import to_one_line
from engine.evaluation.plan import weigh_classes
from engine.prediction.inputs import find_images, find_masks, read_sizes
from engine.prediction.outputs import Outputs
from engine.prediction.segment import LABEL_MAP, Segmenter
from engine.run.exits import reported_errors
from engine.setup import prepare
from utils.device import device_of
from utils.logging import logger


def predict(argv=None) -> list[Path]:
    """Segment the images that argv names; return the label maps' paths. Exits with code 1 if some can't be read."""
    with reported_errors():
        setup = prepare(argv, entry="predict.py")
        options = setup.options
        weigh_classes(setup)
        outputs = Outputs(Path(options.save_val_results_to))
        images = find_images(list(map(Path, options.input)), is_own=outputs.is_own)
        sizes, problems = read_sizes(images)
        masks = find_masks(sizes, Path(options.masks)) if options.masks else None
        segmenter = Segmenter(
            setup.scored_model, setup.classes, amp=options.amp, attack=next(iter(setup.attacks), None), masks=masks,
            read_mask=make_mask_reader(options.dataset, **setup.source), save_logits=options.save_logits,
            overlay_alpha=options.overlay_alpha, problems=problems)
        targets = outputs.plan(sizes, segmenter.endings, overwrite=options.overwrite,
                               kept=[*(image.path for image in images), *(masks or {}).values()])
        log_start(setup.checkpoint.path, segmenter, gpu_id=options.gpu_id)
        written = segment(segmenter, sizes, outputs, targets, batch_size=options.val_batch_size,
                          checkpoint=setup.checkpoint.path)
        log_end(written, outputs, segmenter, total=len(images))
    return [written[image] for image in images]


def segment(segmenter: Segmenter, sizes: dict, outputs: Outputs, targets: dict, *, batch_size: int,
            checkpoint: str) -> dict:
    """Segment the images and write their files; return {image: its label map}."""
    how = {"checkpoint": checkpoint, "attack": segmenter.attack.settings() if segmenter.attack else None}
    written = {}
    with outputs.recorded():
        for image, files, described in segmenter.run(sizes, batch_size=batch_size):
            target = targets[image]
            outputs.write(target, files, {**described, **how})
            written[image] = target.with_name(target.name + LABEL_MAP)
    return written


def log_start(checkpoint: str, segmenter: Segmenter, *, gpu_id: str | None):
    """Log the weights, the attack with its labels, and which of several GPUs is used."""
    logger.info("Model restored from %s", checkpoint)
    if gpu_id and "," in gpu_id and device_of(segmenter.model).type == "cuda":
        logger.info("--gpu_id %s: predict.py uses the first of these GPUs", gpu_id)
    if segmenter.attack is not None:
        logger.info("Attack: %s, on %s as labels", segmenter.attack,
                    "the clean predictions" if segmenter.masks is None else "the masks")


def log_end(written: dict, outputs: Outputs, segmenter: Segmenter, *, total: int):
    """Log what was written; name the images that weren't, and exit with code 1 if there are any."""
    for image in written:
        if image in outputs.renamed:
            logger.info("%s", outputs.renamed[image])
    logger.info("%d label map%s and overlay%s written to %s", len(written), *["s" * (len(written) != 1)] * 2,
                to_one_line(outputs.folder))
    if segmenter.problems:
        for problem in segmenter.problems:
            logger.error("not segmented: %s", problem)
        others = "; the others are written" if written else ""
        logger.error("error: %d of %d image%s can't be segmented, see above%s", len(segmenter.problems), total,
                     "s" * (total != 1), others)
        raise SystemExit(1)


if __name__ == "__main__":
    predict()
