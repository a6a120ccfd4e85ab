"""Segmentation scores from a confusion matrix that is summed up batch by batch."""
import numpy as np
import torch

from utils.distributed import total


class StreamSegMetrics:
    """Pixel accuracy and intersection over union, pooled over all pixels seen.

    The matrix is int64 and stays on the device of the first tensors, so an update costs no transfer. Rows are true
    classes, columns predicted ones. Labels outside [0, n_classes), 255 among them, are not counted.
    """

    def __init__(self, n_classes: int):
        self.n_classes = n_classes
        self.reset()

    def reset(self):
        """Forget everything seen."""
        self.confusion_matrix = torch.zeros(self.n_classes, self.n_classes, dtype=torch.int64)

    def update(self, label_trues, label_preds):
        """Count one image or a batch: tensors or arrays of ints, [H, W] or [B, H, W], of the same shape.

        Raises ValueError where shapes differ or a counted pixel's prediction is no class.
        """
        trues, preds = _as_tensor(label_trues), _as_tensor(label_preds)
        if trues.shape != preds.shape:
            raise ValueError(f"labels {list(trues.shape)} and predictions {list(preds.shape)} differ in shape")
        counted = (trues >= 0) & (trues < self.n_classes)
        trues, preds = trues[counted].long(), preds.to(counted.device)[counted].long()
        if preds.numel() and not (preds.min() >= 0 and preds.max() < self.n_classes):
            raise ValueError(f"a prediction is outside [0, {self.n_classes})")
        cells = torch.bincount(self.n_classes * trues + preds, minlength=self.n_classes**2)
        self.confusion_matrix = self.confusion_matrix.to(cells.device) + cells.view_as(self.confusion_matrix)

    def sum_ranks(self):
        """Count what all ranks have seen; all of them call it, once."""
        self.confusion_matrix = total(self.confusion_matrix.cpu())  # a rank that saw nothing has it on the CPU anyway

    def get_results(self) -> dict:
        """Overall Acc, Mean Acc, FreqW Acc, Mean IoU as floats in [0, 1] and Class IoU as {class: float}.

        A class that is neither in the labels nor predicted has IoU nan and is left out of the mean; a class that is
        not in the labels is left out of Mean Acc. All are nan before the first counted pixel.
        """
        matrix = self.confusion_matrix.cpu().numpy().astype(np.float64)
        right, true, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)  # [n_classes] each
        return pooled_scores(right, true + predicted - right, true)

    @staticmethod
    def to_str(results: dict) -> str:
        """The scores as lines `name: value`, between blank lines; Class IoU is left to tables."""
        lines = [f"{name}: {value:f}" for name, value in results.items() if name != "Class IoU"]
        return "\n" + "\n".join(lines) + "\n"


def pooled_scores(right: np.ndarray, union: np.ndarray, true: np.ndarray) -> dict:
    """What get_results() returns, from each class's pixels: predicted as it rightly, in its union, labelled as it."""
    accuracy, iou = ratio(right, true), ratio(right, union)
    return {
        "Overall Acc": float(ratio(right.sum(), true.sum())),
        "Mean Acc": mean_of_defined(accuracy),
        "FreqW Acc": float(ratio((true[true > 0] * iou[true > 0]).sum(), true.sum())),
        "Mean IoU": mean_of_defined(iou),
        "Class IoU": dict(enumerate(iou.tolist())),
    }


def counts_per_image(labels: torch.Tensor, preds: torch.Tensor, n_classes: int) -> tuple[torch.Tensor, ...]:
    """(intersection, union, labelled pixels) of each image and class, int64 [B, n_classes]; labels, preds [B, H, W].

    Labels outside [0, n_classes) are not counted.
    """
    counted = (labels >= 0) & (labels < n_classes)
    image = torch.arange(len(labels), device=labels.device).view(-1, 1, 1).expand_as(labels)

    def per_class(classes, where):
        cells = torch.bincount((n_classes * image + classes)[where], minlength=len(labels) * n_classes)
        return cells.view(len(labels), n_classes)

    labelled, predicted = per_class(labels, counted), per_class(preds, counted)
    intersection = per_class(labels, counted & (labels == preds))
    return intersection, labelled + predicted - intersection, labelled


def _as_tensor(labels) -> torch.Tensor:
    """Tensors as they are; arrays of any integer type and stride as int64, which torch has all operations for."""
    return labels if isinstance(labels, torch.Tensor) else torch.from_numpy(np.array(labels, dtype=np.int64))


def ratio(part, whole) -> np.ndarray:
    """part / whole, nan where whole is 0, without NumPy's warning."""
    undefined = np.full_like(np.asarray(whole, dtype=np.float64), np.nan)
    return np.divide(part, whole, out=undefined, where=np.asarray(whole) > 0)


def mean_of_defined(values: np.ndarray) -> float:
    """The mean of what is not nan; nan where nothing is left."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")

