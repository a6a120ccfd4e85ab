"""Write what a Segmenter yields, and say what was done."""
from datasets.image_lists import to_one_line
from engine.prediction.outputs import Outputs
from engine.prediction.segment import LABEL_MAP, Segmenter
from utils.device import device_of
from utils.logging import logger


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
