"""What tests/datasets/test_check_data.py runs on several ranks."""
from datasets import build_datasets, survey, vetting
from utils import distributed
from utils.distributed import ElsewhereError


def vet_all(root: str) -> dict:
    """What a rank is left with by --skip_bad_images, and how it ends where rank 0 fails; how many images it read."""
    read, inspect = [], survey.inspect
    survey.inspect = lambda dataset, i: read.append(i) or inspect(dataset, i)
    train, val = build_datasets("camvid", data_root=root)
    sets = vetting.vetted({"train": train, "val": val}, skip_bad=True)
    found = {"skipped": {split: dataset.skipped for split, dataset in sets.items()}, "read": len(read),
             "left": [len(dataset) for dataset in sets.values()]}
    survey.inspect = _fail
    try:
        vetting.vetted({"val": val}, check_all=True)
    except (ElsewhereError, ZeroDivisionError) as error:
        found["end"] = type(error).__name__
    distributed.barrier()
    return found


def _fail(*_):
    raise ZeroDivisionError
