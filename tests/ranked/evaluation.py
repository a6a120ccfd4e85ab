"""What tests/engine/test_torchrun.py runs on several ranks, and on one to compare with."""
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from attacks import FGSM, PGD
from datasets import SegmentationDataset, build_loaders
from engine.evaluation import sweep
from engine.evaluation.evaluate import evaluate
from engine.records.store import Records
from metrics import StreamSegMetrics
from tests.conftest import Toy
from utils import distributed


class Noise(SegmentationDataset):
    """Seven images [3, 12, 10] of noise in 4 classes."""

    class_names, num_classes = ["a", "b", "c", "d"], 4
    palette = torch.arange(768).view(256, 3).byte().numpy()

    def __init__(self):
        self.crop_size = 12
        generator = torch.Generator().manual_seed(1)
        self.images = torch.rand(7, 3, 12, 10, generator=generator)
        self.labels = torch.randint(0, 4, (7, 12, 10), generator=generator)

    def __len__(self):
        return 7

    def name(self, i):
        return f"noise_{i}"

    def __getitem__(self, i):
        return self.images[i], self.labels[i]


class Normalized(nn.Module):
    """A network as sweep knows it."""

    normalization = "none"

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model = Toy()

    def forward(self, images):
        return self.model(images)


def loader_of(data) -> DataLoader:
    return build_loaders(None, data, batch_size=1, val_batch_size=2, num_workers=0, seed=1)[1]  # batches of 2, 2, 2, 1


def matrices() -> dict:
    """Clean and attacked scores, and the images that a callback here sees."""
    found, seen = {}, []
    for attack in (None, PGD(eps=0.1, steps=2)):
        metrics = StreamSegMetrics(4)
        results = evaluate(Normalized(), loader_of(Noise()), metrics, attack,
                           on_batch=lambda scored: seen.append(scored.indices))
        found[str(attack)] = metrics.confusion_matrix.tolist(), results
    return {**found, "seen": seen}


def record(folder: str, *, attacks=None, warm_start=False) -> dict:
    """Clean, and two radii of PGD, with pictures of every image."""
    attacks = attacks or [PGD(eps=eps, steps=2, seed=3) for eps in (0.05, 0.1)]
    data = Noise()
    return sweep(Normalized(), loader_of(data), data, attacks, folder=Path(folder), warm_start=warm_start,
                 pictures=None)


def record_all(folder: str) -> list[dict]:
    """Records in folder/plain and folder/warm, folder/halved gone on with, and what matrices() gives."""
    return [record(f"{folder}/plain"), record(f"{folder}/warm", warm_start=True),
            record(f"{folder}/halved", warm_start=True), matrices()]


class Failing(FGSM):
    """An attack that finds no gradient in some images, on the rank that has them."""

    def __init__(self, *images: int):
        super().__init__(eps=0.1)
        self.images = images

    def run(self, model, images, labels, *, image_ids=None, start=None):
        if set(image_ids) & set(self.images):
            raise FloatingPointError(f"no gradient on rank {distributed.rank()}")
        return super().run(model, images, labels, image_ids=image_ids, start=start)


def fail_all(folder: str) -> dict[str, str]:
    """How it ends here where one rank fails: in an attack, in a scored batch, in reading and in writing a record."""
    ends = {"third batch": _end(record, f"{folder}/attack", attacks=[Failing(6)]),
            "both": _end(record, f"{folder}/both", attacks=[Failing(0, 2)]),
            "evaluate": _end(evaluate, Normalized(), loader_of(Noise()), StreamSegMetrics(4), Failing(2)),
            "no indices": _end(evaluate, Normalized(), DataLoader(TensorDataset(Noise().images, Noise().labels)),
                               StreamSegMetrics(4))}
    append = Records.append
    Records.append = _full
    ends["writing"] = _end(record, f"{folder}/writing")
    Records.append = append
    if distributed.is_main():
        next(Path(f"{folder}/writing/records").iterdir()).write_text("no header\n")
    ends["reading"] = _end(record, f"{folder}/writing")
    return ends


def _full(*_):
    raise OSError(f"disk full on rank {distributed.rank()}")


def _end(call, *args, **settings) -> str:
    try:
        call(*args, **settings)
    except Exception as error:
        return str(error)
    return "no error"
