"""The plain way, as in the two older code bases: NCHW float32, Pillow one by one, gradients of all parameters, NumPy.

Written anew, for comparison only. Networks here take normalised images, as there.
"""
import random

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load(image_path, mask_path, crop_size: int, *, void_from: int = 255):
    """Return a training sample: the whole image scaled, padded, then cropped and flipped, as normalised float32."""
    image, mask = Image.open(image_path).convert("RGB"), Image.open(mask_path)
    scale = random.uniform(0.5, 2.0)
    size = [round(side * scale) for side in image.size]
    image, mask = image.resize(size, Image.BILINEAR), mask.resize(size, Image.NEAREST)
    across, down = (max(0, crop_size - side) for side in size)
    if across or down:
        frame = Image.new("RGB", (size[0] + 2 * across, size[1] + 2 * down))
        frame.paste(image, (across, down))
        labels = Image.new("L", frame.size, 255)
        labels.paste(mask.convert("L") if mask.mode != "P" else Image.fromarray(np.asarray(mask)), (across, down))
        image, mask = frame, labels
    left, top = (random.randint(0, side - crop_size) for side in image.size)
    box = left, top, left + crop_size, top + crop_size
    image, mask = image.crop(box), mask.crop(box)
    if random.random() < 0.5:
        image, mask = (each.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for each in (image, mask))
    labels = np.array(mask, dtype=np.int64)
    labels[labels >= void_from] = 255
    pixels = torch.from_numpy(np.array(image, dtype=np.float32).transpose(2, 0, 1) / 255)
    return normalise(pixels[None])[0], torch.from_numpy(labels)


def normalise(images):
    """Return [0, 1] images [B, 3, H, W] as the network takes them."""
    mean, std = (torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (images - mean) / std


def train_step(network, optimizer, images, labels) -> float:
    """Take a step of SGD; return the loss."""
    optimizer.zero_grad()
    loss = F.cross_entropy(network(images), labels, ignore_index=255)
    loss.backward()
    optimizer.step()
    return loss.detach().cpu().item()


def sam_step(network, optimizer, images, labels, *, rho: float) -> float:
    """Take a step of SAM, tensor by tensor."""
    optimizer.zero_grad()
    loss = F.cross_entropy(network(images), labels, ignore_index=255)
    loss.backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    scale = rho / (torch.norm(torch.stack([gradient.norm() for gradient in gradients])) + 1e-12)
    steps = [gradient * scale for gradient in gradients]
    with torch.no_grad():
        for parameter, step in zip(network.parameters(), steps, strict=True):
            parameter.add_(step)
    optimizer.zero_grad()
    F.cross_entropy(network(images), labels, ignore_index=255).backward()
    with torch.no_grad():
        for parameter, step in zip(network.parameters(), steps, strict=True):
            parameter.sub_(step)
    optimizer.step()
    return loss.detach().cpu().item()


def attack(network, images, labels, *, eps: float, step_size: float, steps: int):
    """Return [0, 1] images attacked with PGD, without random start; gradients of all parameters are computed too."""
    delta = torch.zeros_like(images, requires_grad=True)
    for _ in range(steps):
        loss = F.cross_entropy(network(normalise(images + delta)), labels, ignore_index=255)
        loss.backward()
        delta.data = (delta + step_size * delta.grad.sign()).clamp(-eps, eps)
        delta.data = (images + delta.data).clamp(0, 1) - images
        delta.grad.zero_()
    return (images + delta).detach()


def evaluate(network, images, labels, *, num_classes: int) -> float:
    """Return the mean IoU of images one by one, by a confusion matrix in NumPy."""
    confusion = np.zeros((num_classes, num_classes))
    with torch.no_grad():
        for image, label in zip(images, labels, strict=True):
            preds = network(normalise(image[None])).max(dim=1)[1].cpu().numpy().flatten()
            true = label.cpu().numpy().flatten()
            valid = (true >= 0) & (true < num_classes)
            confusion += np.bincount(num_classes * true[valid] + preds[valid],
                                     minlength=num_classes ** 2).reshape(num_classes, num_classes)
    found = np.diag(confusion)
    union = confusion.sum(1) + confusion.sum(0) - found
    return float(np.nanmean(np.where(union > 0, found / np.maximum(union, 1), np.nan)))
