"""Write a network to a file that runs without this program, as ONNX or torch.export's archive; see --help.

    python export.py --exp_name sam --format onnx --output sam.onnx           the run's best checkpoint
    python export.py --ckpt best.pth --model deeplabv3_resnet101 --dataset voc --format torch_export --output a.pt2

The file is written only if its logits are those of the network (docs/export.md).
"""
import json
from pathlib import Path

from engine.options import Call, read_call
from engine.run.exits import reported_errors
from engine.run.interrupts import held_signals
from utils.logging import logger
from utils.output_file import check_output, write_output
from utils.user_code import make_label

PROGRAM = "robust-segmentation export.py"  # in the metadata of every file, by which its own files are known


def export(argv=None) -> Path:
    """Write the file that argv names; return its path. Exits with code 1 if its logits are not the network's."""
    with reported_errors():
        return run(read_call(argv, entry="export.py"))


def run(call: Call) -> Path:
    """Do what export() says, without catching errors."""
    rules = {"flag": "--output", "mark": PROGRAM.encode(), "overwrite": call.given.get("overwrite", False)}
    check_output(Path(call.given["output"]), **rules)
    with held_signals():  # here, once the flags are right, as importing torch takes seconds
        from engine.setup import prepare
        from network.export import check_weights, compare, encode, find_smallest_size, load_packages, trace

    load_packages(call.given["format"])
    setup = prepare(call)
    options = setup.options
    logger.info("Model restored from %s", setup.checkpoint.path)
    check_weights(setup.model, format=options.format)
    program = trace(setup.model, size=(options.height, options.width) if options.height else None)
    smallest = find_smallest_size(program)
    content = encode(program, format=options.format, metadata=describe(options, setup.classes, smallest=smallest))
    check_difference(list(compare(content, setup.model, format=options.format, sizes=choose_sizes(options))))
    write_output(path := Path(options.output), content, **rules)
    logger.info("Written to %s, %.1f MB, for images of %s", path, len(content) / 1e6,
                "{}x{}".format(*smallest) + (" (height x width)" if options.height else " or more (height x width)"))
    return path


def describe(options, classes, *, smallest: tuple[int, int]) -> dict[str, str]:
    """Return the metadata of the file; what is no text is JSON."""
    return {"program": PROGRAM, "model": make_label(options.model), "dataset": options.dataset,
            "class_names": json.dumps(list(classes.names)),
            "class_colours": json.dumps(classes.palette[:classes.num_classes].tolist()),
            "smallest_size": json.dumps(smallest)}


def choose_sizes(options) -> tuple[tuple[int, int, int], ...]:
    """Return the sizes to compare: two, or the fixed one in two batches."""
    from network.export import SIZES

    return SIZES if options.height is None else tuple((batch, options.height, options.width) for batch in (1, 2))


def check_difference(differences: list):
    """Log the differences from the network; exit with code 1 if one is above the bound."""
    from network.export import BOUND

    for difference in differences:
        logger.info("Difference from the network: %s", difference)
    if not all(difference.is_small for difference in differences):
        logger.error("error: a difference above %g of the largest logit: nothing is written "
                     "(docs/export.md#the-comparison)", BOUND)
        raise SystemExit(1)


if __name__ == "__main__":
    export()
