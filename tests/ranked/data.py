"""What tests/datasets/test_check_data.py runs on several ranks."""
from datasets import bad_images, build_datasets, survey
from utils import distributed
from utils.distributed import OtherRankFailed


def filter_on_all_ranks(root: str) -> dict:
    """What a rank is left with by --skip_bad_images, and how it ends where rank 0 fails; how many images it read."""
    read, inspect_pair = [], survey.inspect_pair
    survey.inspect_pair = lambda dataset, i: read.append(i) or inspect_pair(dataset, i)
    train, val = build_datasets("camvid", data_root=root)
    sets = bad_images.check_and_filter({"train": train, "val": val}, skip_bad=True)
    found = {"skipped": {split: dataset.skipped for split, dataset in sets.items()}, "read": len(read),
             "left": [len(dataset) for dataset in sets.values()]}
    survey.inspect_pair = _fail
    try:
        bad_images.check_and_filter({"val": val}, check_all=True)
    except (OtherRankFailed, ZeroDivisionError) as error:
        found["end"] = type(error).__name__
    distributed.barrier()
    return found


def _fail(*_):
    raise ZeroDivisionError
