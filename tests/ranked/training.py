"""What tests/engine/test_two_ranks.py runs on several ranks, and in one process to compare with."""
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from attacks import FGSM
from engine.training.step import TrainingStep
from network import NormalizedModel, synchronize_batchnorm
from optim import BASE_OPTIMIZERS, build_loss, build_optimizer, build_scheduler
from utils import distributed

STEPS, SIZE = 5, 8


class Net(nn.Module):
    """Images [B, 3, 8, 8] -> logits [B, 4, 8, 8] through BatchNorm."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1)

    def forward(self, images):
        return self.head(torch.relu(self.norm(self.conv(images))))


def batch(step: int, dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """The whole batch of a step; the first image is nearly all void, so that shares of it differ in labelled pixels."""
    generator = torch.Generator().manual_seed(step)
    images = torch.rand(SIZE, 3, 8, 8, generator=generator, dtype=torch.float64).to(dtype)
    labels = torch.randint(0, 4, (SIZE, 8, 8), generator=generator)
    void = torch.rand(SIZE, 8, 8, generator=generator) < torch.linspace(0.95, 0, SIZE).view(-1, 1, 1)
    return images, labels.masked_fill(void, 255)


def train(*, optimizer="sgd", sync="global", frozen=False, sync_bn=True, poisoned=(), adv=False, dtype=torch.float32,
          accumulate=1, micro=False, void_rank=None, share=None, trades_beta=None, clip_grad=None, loss="cross_entropy",
          class_weights=None, label_smoothing=None, schedule=None, **sam) -> dict:
    """STEPS steps on this rank's share of each batch, and what they leave. schedule: (name, warmup_itrs)."""
    torch.manual_seed(3)
    model = NormalizedModel(Net(), [0.5] * 3, [0.25] * 3).to(dtype).train()
    net, rank, ranks = model, distributed.rank(), distributed.world_size()
    if ranks > 1:
        if sync_bn:
            synchronize_batchnorm(model)
        net = DistributedDataParallel(model, broadcast_buffers=False)
    model.model.norm.train(not frozen)
    if optimizer not in BASE_OPTIMIZERS:
        sam = {"model": model, **sam}
    optimizer = build_optimizer(optimizer, [{"params": model.parameters()}], lr=0.1, weight_decay=1e-3, **sam)
    if ranks > 1 and sync == "local":
        optimizer.first_pass = net.no_sync
    scheduler = build_scheduler(schedule[0], optimizer, total_itrs=STEPS, warmup_itrs=schedule[1]) if schedule else None
    weights = None if class_weights is None else torch.tensor(class_weights)
    given = {"class_weights": weights, "label_smoothing": label_smoothing}
    criterion = build_loss(loss, **{name: value for name, value in given.items() if value is not None})
    update = TrainingStep(model, net, optimizer=optimizer, criterion=criterion, accumulate=accumulate, micro=micro,
                          attack=FGSM(eps=0.05) if adv else None, trades_beta=trades_beta, clip_grad=clip_grad)
    measured, perturbed, skipped = [], [], []
    norm_of = model.model.norm.register_forward_pre_hook(
        lambda *_: perturbed.append(model.model.head.weight.detach().clone()))
    for step in range(STEPS):
        images, labels = (part[slice(*share) if share else slice(rank, None, ranks)] for part in batch(step, dtype))
        if rank == void_rank and ranks > 1:
            labels = torch.full_like(labels, 255)
        variance = model.model.norm.running_var.clone()
        if (rank, step) in poisoned and adv:  # eval mode alone, that of the attack, sees it
            model.model.norm.running_var.fill_(float("nan"))
        elif (rank, step) in poisoned:
            images = images * float("nan")
        try:
            measured.append({name: value.item() for name, value in update(images, labels).items()})
            if scheduler:
                scheduler.step()
        except FloatingPointError:
            skipped.append(step)
            model.model.norm.running_var.copy_(variance)
    norm_of.remove()
    return {"state": {key: value.clone() for key, value in model.state_dict().items()}, "measured": measured,
            "heads": perturbed, "skipped": skipped}


def train_all(runs: list[dict]) -> list[dict]:
    """train() with each of these settings."""
    return [train(**settings) for settings in runs]
