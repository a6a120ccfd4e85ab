"""Scores from counts per image and class, and the worst that an ensemble of attacks can make of them.

K members (attacks; the clean image may be one), N images, S classes. Over an image's labelled pixels, void ones never
counted, `pixels` of a class are those labelled as it, `intersection` those also predicted as it, and `union` is
pixels + predicted - intersection. Scores are in [0, 1], nan where nothing defines them.
"""
import numpy as np

from metrics.stream_metrics import mean_of_defined, pooled_scores, ratio

ROUNDING = 1e-14  # a swap that lowers the mean IoU by less may be rounding alone


def scores(intersection, union, pixels, *, background: int | None = None) -> dict:
    """The scores of one member, from integer arrays [N, S]: those of StreamSegMetrics.get_results and two more.

    "Image IoU" is the mean over images of the image's own mean IoU over classes with a union in it; images without any
    are left out. "Foreground IoU", where the class `background` is given, is Mean IoU without that class.
    Raises ValueError where the arrays are no counts.
    """
    intersection, union, pixels = _counts(2, intersection, union, pixels)
    results = pooled_scores(*(count.sum(0) for count in (intersection, union, pixels)))
    results["Image IoU"] = mean_of_defined(_mean_iou(intersection, union))
    if background is not None:
        iou = list(results["Class IoU"].values())
        if not 0 <= background < len(iou):
            raise ValueError(f"background {background} is outside the {len(iou)} classes")
        results["Foreground IoU"] = mean_of_defined(np.delete(iou, background))
    return results


def worst_case(intersection, union, pixels, *, background: int | None = None) -> dict:
    """The scores where an adversary picks a member for every image; integer arrays [K, N, S], `pixels` [N, S].

    "Overall Acc" and "Image IoU" are the exact minima over all K^N selections, as each image adds to them by itself.
    In the pooled mean IoU images interact, so its minimum is bracketed: no selection is below "Mean IoU lower", and
    "Mean IoU" is that of the lowest selection `greedy_selection` finds. "selection" is this one, a list of N members,
    and the scores not named here are taken at it. Raises ValueError where the arrays are no counts.
    """
    intersection, union, pixels = _counts(3, intersection, union, pixels)
    selection, _ = greedy_selection(intersection, union)
    images = np.arange(len(selection))
    results = scores(intersection[selection, images], union[selection, images], pixels, background=background)
    fewest_right = intersection.sum(2).min(0)  # [N]
    lowest_iou = np.fmin.reduce(_mean_iou(intersection, union), axis=0)  # [N]
    return {
        **results,
        "Overall Acc": float(ratio(fewest_right.sum(), pixels.sum())),
        "Image IoU": mean_of_defined(lowest_iou),
        "Mean IoU lower": lower_bound(intersection, union),
        "selection": selection.tolist(),
    }


def greedy_selection(intersection, union) -> tuple[np.ndarray, float]:
    """A member for every image [N] that makes the pooled mean IoU low, and that mean IoU; integer arrays [K, N, S].

    Coordinate descent, from every member as the start (all images at it): images in turn, each takes the member that
    lowers the mean IoU most, until a round changes nothing. The lowest end is returned (on ties that of the first
    start), so no member alone is below it. After SEA (Croce et al., ECCV 2024), which starts from the lowest member
    only. Raises ValueError where the arrays are no counts.
    """
    counts = np.stack(_counts(3, intersection, union)).transpose(2, 0, 1, 3).copy()  # [N, 2, K, S]
    starts = np.arange(counts.shape[2])  # there are as many starts as members, R = K
    selection = np.tile(starts, (len(counts), 1))  # [N, R]
    totals = counts.sum(0)  # [2, R, S], int64: exact however often they change
    lowest = _costs(totals)  # [R]
    moved = True
    while moved:
        moved = False
        for image, count in enumerate(counts):
            without = totals - count[:, selection[image]]  # [2, R, S]
            swapped = without[:, :, None] + count[:, None]  # [2, R, K, S]
            costs = _costs(swapped)  # [R, K]
            better = np.flatnonzero(costs.min(1) < lowest - ROUNDING)  # the starts that swap
            if better.size:
                moved = True
                member = costs[better].argmin(1)
                selection[image, better] = member
                totals[:, better] = swapped[:, better, member]
                lowest[better] = costs[better, member]
    best = lowest.argmin()
    return selection[:, best], mean_of_defined(ratio(*totals[:, best]))


def lower_bound(intersection, union) -> float:
    """A mean IoU that no selection of members is below: the class mean of sum_i min_k I / sum_i max_k U; [K, N, S].

    Any selection has at least this intersection and at most this union in every class. The mean is over all classes
    that some selection has a union in. A selection with no union in one of them (never labelled, and predicted by other
    members only) leaves it out of its own mean, but the bound counts a 0 there, which only lowers it. Raises
    ValueError where the arrays are no counts.
    """
    intersection, union = _counts(3, intersection, union)
    return mean_of_defined(ratio(intersection.min(0).sum(0), union.max(0).sum(0)))


def _mean_iou(intersection: np.ndarray, union: np.ndarray) -> np.ndarray:
    """Mean over the last axis of intersection / union where there is a union; nan where there is none at all."""
    iou = intersection / np.maximum(union, 1)  # 0 without union, as the intersection is within it
    return ratio(iou.sum(-1), (union > 0).sum(-1))


def _costs(totals: np.ndarray) -> np.ndarray:
    """Mean IoU of totals [2, ..., S], intersections and unions; inf, so never sought, where it is undefined."""
    return np.fmin(_mean_iou(*totals), np.inf)


def _counts(ndim: int, intersection, union, pixels=None) -> list[np.ndarray]:
    """The arrays as int64, `pixels` only where given; ValueError naming what is wrong where they cannot be counts."""
    given = {"intersection": intersection, "union": union, "pixels": pixels}
    arrays = {name: np.asarray(array) for name, array in given.items() if array is not None}
    axes, shape = ("members", "images", "classes")[-ndim:], arrays["intersection"].shape
    if len(shape) != ndim:
        raise ValueError(f"intersection {list(shape)} is not [{', '.join(axes)}]")
    for axis, size in zip(axes, shape, strict=True):
        if size == 0:
            raise ValueError(f"no {axis}: intersection is {list(shape)}")
    for name, array in arrays.items():
        expected = shape[-2:] if name == "pixels" else shape
        if array.shape != expected:
            raise ValueError(f"{name} {list(array.shape)} is not {list(expected)} as intersection {list(shape)} asks")
        if not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"{name} holds {array.dtype}, not integers")
        _refuse(array < 0, f"{name} is negative")
    _refuse(arrays["intersection"] > arrays["union"], "intersection is above union")
    if pixels is not None:
        _refuse(arrays["intersection"] > arrays["pixels"], "intersection is above pixels")
        _refuse(arrays["pixels"] > arrays["union"], "pixels are above union")
    return [array.astype(np.int64) for array in arrays.values()]


def _refuse(wrong: np.ndarray, what: str):
    if wrong.any():
        raise ValueError(f"{what} at {np.argwhere(wrong)[0].tolist()} of {list(wrong.shape)}")
