"""Segment images: files, folders or lists in, label maps and overlays out; see --help.

    python predict.py --input photos --exp_name sam                     with the run's best checkpoint
    python predict.py --input a.jpg --ckpt best.pth --model deeplabv3plus_resnet101 --dataset voc
    python predict.py --input photos --exp_name sam --attack pgd        attacked as well

Writes NAME.png, the classes as a palette PNG, and NAME_overlay.png (docs/predict.md).
"""
from pathlib import Path

from engine.options import Call, read_call
from engine.run.exits import reported_errors
from engine.run.interrupts import held_signals


def predict(argv=None) -> list[Path]:
    """Segment the images that argv names; return the label maps' paths. Exits with code 1 if some can't be read."""
    with reported_errors():
        return run(read_call(argv, entry="predict.py"))


def run(call: Call) -> list[Path]:
    """Do what predict() says, without catching errors."""
    with held_signals():  # here, once the flags are right, as importing torch takes seconds
        from datasets import make_mask_reader
        from engine.evaluation.plan import weigh_classes
        from engine.prediction.inputs import find_images, find_masks, read_sizes
        from engine.prediction.outputs import Outputs
        from engine.prediction.segment import Segmenter
        from engine.prediction.write import log_end, log_start, segment
        from engine.setup import prepare

    setup = prepare(call)
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


if __name__ == "__main__":
    predict()
