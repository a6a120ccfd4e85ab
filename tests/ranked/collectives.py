"""What tests/utils/test_distributed.py runs on several ranks; as a script, what it runs under torchrun."""
import sys
import time
from pathlib import Path

import torch

from utils import distributed
from utils.distributed import OtherRankFailed


def everything() -> dict:
    """Every collective once, each with values that tell the ranks apart."""
    rank, n = distributed.rank(), distributed.world_size()
    matrix = torch.full((2, 3), rank + 1)
    summed = distributed.sum_over_ranks(matrix)
    weights = torch.arange(16.0).view(2, 2, 2, 2).mul(rank + 1)
    weights = weights.contiguous(memory_format=torch.channels_last) if rank else weights
    counter = torch.nn.Parameter(torch.tensor(rank + 5.0))
    distributed.broadcast_tensors([weights, counter])
    distributed.barrier()
    return {
        "who": (rank, n, distributed.local_rank(), distributed.is_main(), distributed.launched()),
        "total": summed.tolist(), "untouched": matrix.tolist(),
        "strided": distributed.sum_over_ranks(torch.arange(6).view(2, 3).t()).tolist(),
        "weights": weights.flatten().tolist(), "counter": counter.item(),
        "any": [distributed.any_rank(flag) for flag in (False, rank == n - 1, torch.tensor([False, rank == 0]))],
        "gathered": distributed.gather_to_main({"rank": rank}), "told": distributed.broadcast_object(f"from {rank}"),
    }


def in_order(folder: str) -> list[str]:
    """What lies in the folder when each rank gets to its block."""
    with distributed.main_first():
        found = sorted(path.name for path in Path(folder).iterdir())
        if distributed.is_main():
            time.sleep(0.3)
            (Path(folder) / "download").touch()
    return found


def failures() -> dict:
    """What each rank sees of errors: in rank 0's turn, on the last rank, on all."""
    rank, last = distributed.rank(), distributed.world_size() - 1
    return {"main first": _seen(distributed.main_first, rank == 0),
            "last": _seen(distributed.fail_together, rank == last),
            "all": _seen(distributed.fail_together, True), "none": _seen(distributed.fail_together, False)}


def _seen(context, fails: bool) -> str:
    try:
        with context():
            if fails:
                raise ValueError(f"on {distributed.rank()}")
    except (ValueError, OtherRankFailed) as error:
        return str(error)
    return "nothing"


def fail_on(rank: int):
    """One rank fails; the others go on for ever."""
    if distributed.rank() == rank:
        raise ValueError(f"rank {rank} has had enough")
    time.sleep(600)


if __name__ == "__main__":
    distributed.join_group(torch.device("cpu"))
    Path(sys.argv[1], str(distributed.rank())).write_text(str(everything()["gathered"]))
    distributed.leave_group()
