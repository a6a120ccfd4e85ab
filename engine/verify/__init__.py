"""--verify: can the figures of attacks on this network be trusted? Checks on a few images, each passed or failed."""
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from datasets import list_batches
from engine.records.naming import radius
from engine.records.results import write_results
from engine.verify import contract, gradient, strength
from engine.verify.bench import FEW, Bench, Finding
from utils.device import deterministic_sums
from utils.errors import UserError
from utils.images import choose_evenly
from utils.logging import logger
from utils.text import format_figure

IMAGES = 4
EPS = 4 / 255
CHECKS = {
    "eps 0": contract.eps_zero,
    "constraint": contract.constraint,
    "void invariance": contract.void_invariance,
    "batch invariance": contract.batch_invariance,
    "gradient": gradient.gradient,
    "extreme logits": gradient.extreme_logits,
    "logit scale": gradient.logit_scale,
    "step order": strength.step_order,
    "more steps": strength.more_steps,
    "loss order": strength.loss_order,
    "eps monotone": strength.eps_monotone,
    "unbounded": strength.unbounded,
    "black box": strength.black_box,
    "model untouched": contract.model_untouched,  # last, as it sees what the others left
}


def verify(model: nn.Module, loader, dataset, *, folder: Path, eps: float = EPS, every_image: bool = False,
           seed: int = 1, described: dict | None = None) -> dict:
    """Check attacks on `model` with images of the validation loader; returns what <folder>/verify.json holds.

    IMAGES of the loader's images, evenly spaced, or every_image of them. eps: of linf, above 0. described: the
    "options" of verify.json. Raises SystemExit(1), with the file written, where a check fails.
    """
    indices = [index for batch in list_batches(loader) for index in batch]
    if not every_image:
        indices = [indices[place] for place in choose_evenly(len(indices), IMAGES)]
    names = [dataset.name(index) for index in indices]
    logger.info("Verifying at eps %s on %s (checks that take many passes: the first %d with labels)",
                radius({"eps": eps, "norm": "linf"}), ", ".join(names), FEW)
    images, labels = zip(*(dataset[index] for index in indices), strict=True)
    checks = run_checks(model, images, labels, eps=eps, seed=seed)
    results = {"options": described or {}, "images": names, "eps": eps, "checks": checks}
    write_results(folder / "verify.json", results)
    failed = [check["name"] for check in checks if not check["passed"]]
    logger.info("%d of %d checks passed%s", len(checks) - len(failed), len(checks),
                f"; failed: {', '.join(failed)} (docs/verify.md)" if failed else "")
    if failed:
        raise SystemExit(1)
    return results


def run_checks(model: nn.Module, images: list[Tensor], labels: list[Tensor], *, eps: float, class_weights=None,
               seed: int = 1, only=None) -> list[dict]:
    """Run CHECKS, or those named in `only`, and log a line for each; what a check raises is a failure, and said.

    images: float [3, H, W] in [0, 1], of any sizes; labels: int64 [H, W]. eps: of linf, above 0. class_weights: [C] for
    mce_bal, without them from `labels`. Returns {name, passed, figures, tolerance, why, seconds} for each.
    """
    if not 0 < eps <= 1:
        raise UserError(f"eps {eps:g}: attacks are checked at a radius above 0, at most 1")
    results = []
    with deterministic_sums(), tqdm(CHECKS if only is None else only, unit="check", leave=False, disable=None) as bar:
        bench, finding = _tried(Bench, model, images, labels, eps=eps, class_weights=class_weights, seed=seed)
        if finding is not None:
            return [_logged("clean images", finding, 0.0)]
        bench.watch = bar.set_postfix_str
        for name in bar:
            bar.set_description(f"checking {name}")
            begun = time.monotonic()
            finding, error = _tried(CHECKS[name], bench)
            bar.clear()
            results.append(_logged(name, error or finding, time.monotonic() - begun))
    return results


def line(check: dict) -> str:
    """A check for people."""
    figures = ", ".join(f"{name} {format_figure(value)}" for name, value in check["figures"].items())
    text = f"{'pass' if check['passed'] else 'FAIL'}  {check['name']}: {figures} ({check['tolerance']})"
    return text if check["passed"] else f"{text}: {check['why']}"


def _tried(call, *args, **settings) -> tuple:
    """(what the call returns, None), or (None, a finding) where it raises what a check can be wrong with."""
    try:
        return call(*args, **settings), None
    except torch.OutOfMemoryError:
        raise
    except (FloatingPointError, ValueError, RuntimeError) as error:
        return None, Finding(False, {}, "runs without an error", f"{type(error).__name__}: {error}")


def _logged(name: str, finding: Finding, seconds: float) -> dict:
    check = {"name": name, **vars(finding), "seconds": round(seconds, 1)}
    logger.info("%s", line(check))
    return check
