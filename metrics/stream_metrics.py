"""Segmentation scores from a confusion matrix that is accumulated batch by batch."""
import numpy as np
import torch

from utils.distributed import sum_over_ranks


class StreamSegMetrics:
    """Pixel accuracy and intersection over union, pooled over all pixels seen.

    The confusion matrix [n_classes, n_classes] is int64, with rows for true and columns for predicted classes. It stays
    on the device of the tensors, so that an update needs no transfer. Labels outside [0, n_classes), such as 255, are
    not counted.
    """

    def __init__(self, n_classes: int):
        self.n_classes = n_classes
        self.reset()

    def reset(self):
        """Discard all counts."""
        self.confusion_matrix = torch.zeros(self.n_classes, self.n_classes, dtype=torch.int64)

    def update(self, label_trues, label_preds):
        """Count one image or a batch: tensors or arrays of ints, [H, W] or [B, H, W], of the same shape.

        Raises ValueError if the shapes differ or a counted pixel's prediction is not in [0, n_classes).
        """
        trues, preds = _as_tensor(label_trues), _as_tensor(label_preds)
        if trues.shape != preds.shape:
            raise ValueError(f"labels {list(trues.shape)} and predictions {list(preds.shape)} must have the same shape")
        counted = (trues >= 0) & (trues < self.n_classes)
        trues, preds = trues[counted].long(), preds.to(counted.device)[counted].long()
        if preds.numel() and not (preds.min() >= 0 and preds.max() < self.n_classes):
            raise ValueError(f"a prediction is outside [0, {self.n_classes}): use a model with these classes")
        cells = torch.bincount(self.n_classes * trues + preds, minlength=self.n_classes**2)
        self.confusion_matrix = self.confusion_matrix.to(cells.device) + cells.view_as(self.confusion_matrix)

    def sum_ranks(self):
        """Add up the counts of all ranks; every rank must call this, once."""
        matrix = self.confusion_matrix.cpu()  # a rank without updates has it on the CPU
        self.confusion_matrix = sum_over_ranks(matrix)

    def get_results(self) -> dict:
        """Return Overall Acc, Mean Acc, FreqW Acc, Mean IoU as floats in [0, 1] and Class IoU as {class: float}.

        A class that is neither labelled nor predicted has IoU nan and is left out of Mean IoU; a class that is not
        labelled is left out of Mean Acc. Without any counted pixel all are nan.
        """
        matrix = self.confusion_matrix.cpu().numpy().astype(np.float64)
        correct, true, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)  # [n_classes] each
        return pooled_scores(correct, true + predicted - correct, true)

    @staticmethod
    def to_str(results: dict) -> str:
        """Return the scores as lines `name: value` between blank lines, without Class IoU.

        If Mean IoU leaves out classes, a last line says so.
        """
        lines = [f"{name}: {value:f}" for name, value in results.items() if name != "Class IoU"]
        class_iou = results.get("Class IoU", {})
        if (defined := count_defined(class_iou)) < len(class_iou):
            lines.append(f"Mean IoU is over {defined} of {len(class_iou)} classes: the others are in no label and no "
                         "prediction")
        return "\n" + "\n".join(lines) + "\n"


def pooled_scores(correct: np.ndarray, union: np.ndarray, true: np.ndarray) -> dict:
    """Return get_results()'s dict from each class's pixels [n_classes]: correctly predicted, in the union, labelled."""
    accuracy, iou = ratio(correct, true), ratio(correct, union)
    return {
        "Overall Acc": float(ratio(correct.sum(), true.sum())),
        "Mean Acc": mean_of_defined(accuracy),
        "FreqW Acc": float(ratio((true[true > 0] * iou[true > 0]).sum(), true.sum())),
        "Mean IoU": mean_of_defined(iou),
        "Class IoU": dict(enumerate(iou.tolist())),
    }


def count_defined(class_iou: dict) -> int:
    """Return over how many classes Mean IoU is: those in a label or a prediction. class_iou: {class: IoU or nan}."""
    return sum(iou == iou for iou in class_iou.values())


def counts_per_image(labels: torch.Tensor, preds: torch.Tensor, n_classes: int) -> tuple[torch.Tensor, ...]:
    """Return (intersection, union, labelled pixels) of each image and class, int64 [B, n_classes] each.

    labels, preds: int [B, H, W]. Labels outside [0, n_classes) are not counted.
    """
    counted = (labels >= 0) & (labels < n_classes)
    image = torch.arange(len(labels), device=labels.device).view(-1, 1, 1).expand_as(labels)

    def count_classes(classes, where):
        cells = torch.bincount((n_classes * image + classes)[where], minlength=len(labels) * n_classes)
        return cells.view(len(labels), n_classes)

    labelled, predicted = count_classes(labels, counted), count_classes(preds, counted)
    intersection = count_classes(labels, counted & (labels == preds))
    return intersection, labelled + predicted - intersection, labelled


def _as_tensor(labels) -> torch.Tensor:
    """Return tensors unchanged, and arrays of any integer type and stride as int64, which torch fully supports."""
    return labels if isinstance(labels, torch.Tensor) else torch.from_numpy(np.array(labels, dtype=np.int64))


def ratio(part, whole) -> np.ndarray:
    """Return part / whole, nan where whole is 0, without NumPy's warning."""
    undefined = np.full_like(np.asarray(whole, dtype=np.float64), np.nan)
    return np.divide(part, whole, out=undefined, where=np.asarray(whole) > 0)


def mean_of_defined(values: np.ndarray) -> float:
    """Return the mean of the values that are not nan; nan if there are none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")

