"""Scores from pixel counts per image and class, and their worst case over an ensemble of attacks.

Sizes: K members (attacks; the clean images may be one), N images, S classes. Only labelled pixels count. Of a class,
`pixels` is the number labelled as it, `intersection` the number also predicted as it, and `union` is
pixels + predicted - intersection. Scores are in [0, 1], or nan if undefined (a division by zero).
"""
import numpy as np

from metrics.stream_metrics import mean_of_defined, pooled_scores, ratio

ROUNDING = 1e-14  # a smaller decrease of the mean IoU may be a rounding error


def scores(intersection, union, pixels, *, background: int | None = None) -> dict:
    """Return one member's scores from integer arrays [N, S]: those of StreamSegMetrics.get_results and two more.

    "Image IoU" is the mean over images of each image's own mean IoU, taken over the classes with a union in it; images
    without such a class are left out. "Foreground IoU", only with `background`, is Mean IoU without that class.
    Raises ValueError if the arrays are not valid counts or `background` is not a class.
    """
    intersection, union, pixels = _check_counts(2, intersection, union, pixels)
    results = pooled_scores(*(count.sum(0) for count in (intersection, union, pixels)))
    results["Image IoU"] = mean_of_defined(_mean_iou(intersection, union))
    if background is not None:
        iou = list(results["Class IoU"].values())
        if not 0 <= background < len(iou):
            raise ValueError(f"background {background}: must be a class, 0 to {len(iou) - 1}")
        results["Foreground IoU"] = mean_of_defined(np.delete(iou, background))
    return results


def worst_case(intersection, union, pixels, *, background: int | None = None) -> dict:
    """Return the scores if an adversary selects the worst member for each image.

    intersection, union: integer arrays [K, N, S]; pixels: [N, S]. "Overall Acc" and "Image IoU" are the exact minima
    over all K^N selections, because each image contributes to them independently. That is not so for the pooled mean
    IoU, whose minimum is bracketed: no selection has less than "Mean IoU lower", and "Mean IoU" is the lowest that
    `greedy_selection` finds. "selection" is that selection, a list of N member indices; all other scores are computed
    from it. background: see scores().
    Raises ValueError if the arrays are not valid counts.
    """
    intersection, union, pixels = _check_counts(3, intersection, union, pixels)
    selection, _ = greedy_selection(intersection, union)
    images = np.arange(len(selection))
    results = scores(intersection[selection, images], union[selection, images], pixels, background=background)
    fewest_correct = intersection.sum(2).min(0)  # [N]
    lowest_iou = np.fmin.reduce(_mean_iou(intersection, union), axis=0)  # [N]
    return {
        **results,
        "Overall Acc": float(ratio(fewest_correct.sum(), pixels.sum())),
        "Image IoU": mean_of_defined(lowest_iou),
        "Mean IoU lower": lower_bound(intersection, union),
        "selection": selection.tolist(),
    }


def greedy_selection(intersection, union) -> tuple[np.ndarray, float]:
    """Search for the selection of members [N] with the lowest pooled mean IoU; return it and its mean IoU.

    intersection, union: integer arrays [K, N, S]. Coordinate descent: for one image after another, switch to the member
    that lowers the mean IoU most, until a round over all images changes nothing. There are K starts, each with one
    member for all images, so the result is at most every single member's mean IoU; on ties the first start wins.
    Source: SEA (Croce et al., ECCV 2024), which starts from the lowest member only. Raises ValueError if the arrays are
    not valid counts.
    """
    counts = np.stack(_check_counts(3, intersection, union)).transpose(2, 0, 1, 3).copy()  # [N, 2, K, S]
    starts = np.arange(counts.shape[2])  # one start per member, R = K
    selection = np.tile(starts, (len(counts), 1))  # [N, R]
    totals = counts.sum(0)  # [2, R, S]; int64, so that updates stay exact
    lowest = _compute_costs(totals)  # [R]
    changed = True
    while changed:
        changed = False
        for image, count in enumerate(counts):
            without = totals - count[:, selection[image]]  # [2, R, S]
            swapped = without[:, :, None] + count[:, None]  # [2, R, K, S]
            costs = _compute_costs(swapped)  # [R, K]
            better = np.flatnonzero(costs.min(1) < lowest - ROUNDING)  # the starts that switch
            if better.size:
                changed = True
                member = costs[better].argmin(1)
                selection[image, better] = member
                totals[:, better] = swapped[:, better, member]
                lowest[better] = costs[better, member]
    best = lowest.argmin()
    return selection[:, best], mean_of_defined(ratio(*totals[:, best]))


def lower_bound(intersection, union) -> float:
    """Return a lower bound of every selection's mean IoU: the class mean of sum_i min_k I / sum_i max_k U.

    intersection I, union U: integer arrays [K, N, S]. In every class, any selection has at least this intersection and
    at most this union. The bound averages over all classes in which some selection has a union. A class that is never
    labelled, and that a selection doesn't predict, is missing from that selection's mean but counts 0 in the bound,
    which only lowers it. Raises ValueError if the arrays are not valid counts.
    """
    intersection, union = _check_counts(3, intersection, union)
    return mean_of_defined(ratio(intersection.min(0).sum(0), union.max(0).sum(0)))


def _mean_iou(intersection: np.ndarray, union: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis of intersection / union, of classes with a union; nan if there are none."""
    iou = intersection / np.maximum(union, 1)  # 0 without a union, as the intersection is then 0 too
    return ratio(iou.sum(-1), (union > 0).sum(-1))


def _compute_costs(totals: np.ndarray) -> np.ndarray:
    """Return the mean IoU of totals [2, ..., S], intersections and unions; inf if undefined, so never selected."""
    return np.fmin(_mean_iou(*totals), np.inf)


def _check_counts(ndim: int, intersection, union, pixels=None) -> list[np.ndarray]:
    """Return the arrays as int64, `pixels` only if given; raise ValueError if they are not valid counts."""
    given = {"intersection": intersection, "union": union, "pixels": pixels}
    arrays = {name: np.asarray(array) for name, array in given.items() if array is not None}
    axes, shape = ("members", "images", "classes")[-ndim:], arrays["intersection"].shape
    if len(shape) != ndim:
        raise ValueError(f"intersection has shape {list(shape)}: expected [{', '.join(axes)}]")
    for axis, size in zip(axes, shape, strict=True):
        if size == 0:
            raise ValueError(f"no {axis}: intersection has shape {list(shape)}")
    for name, array in arrays.items():
        expected = shape[-2:] if name == "pixels" else shape
        if array.shape != expected:
            raise ValueError(f"{name} has shape {list(array.shape)}: expected {list(expected)}, to match intersection")
        if not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"{name} must hold integers, got {array.dtype}")
        _raise_where(array < 0, f"{name} is negative")
    _raise_where(arrays["intersection"] > arrays["union"], "intersection exceeds union")
    if pixels is not None:
        _raise_where(arrays["intersection"] > arrays["pixels"], "intersection exceeds pixels")
        _raise_where(arrays["pixels"] > arrays["union"], "pixels exceeds union")
    return [array.astype(np.int64) for array in arrays.values()]


def _raise_where(wrong: np.ndarray, what: str):
    """Raise ValueError saying `what`, with the index of the first True in `wrong`."""
    if wrong.any():
        raise ValueError(f"{what} at index {np.argwhere(wrong)[0].tolist()} of shape {list(wrong.shape)}")
