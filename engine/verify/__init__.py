"""--verify: can attack results on this network be trusted? Checks on a few images, each passed or failed."""
import time
from pathlib import Path

from torch import Tensor, nn
from tqdm import tqdm

from datasets import list_batches
from engine.records.naming import format_radius
from engine.records.summary import write_results
from engine.verify import contract, gradient, strength
from engine.verify.bench import FEW, Bench, Finding
from utils.device import deterministic_sums
from utils.errors import UserError
from utils.images import choose_evenly
from utils.logging import logger
from utils.memory import is_out_of_memory
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
    "losses": strength.losses,
    "eps monotone": strength.eps_monotone,
    "unbounded": strength.unbounded,
    "black box": strength.black_box,
    "transfer": strength.transfer,  # with other networks only
    "model untouched": contract.model_untouched,  # last: it finds what all others changed
}


def verify(model: nn.Module, loader, dataset, *, folder: Path, eps: float = EPS, every_image: bool = False,
           seed: int = 1, transfer_from: dict[str, nn.Module] | None = None, described: dict | None = None) -> dict:
    """Check attacks on `model` with images of the validation loader; return what <folder>/verify.json holds.

    Uses IMAGES images, evenly spaced, or with every_image all. eps: linf radius, above 0. transfer_from: {name:
    network}, of the check "transfer". described: the "options" of verify.json. Raises SystemExit(1) after writing the
    file if a check fails.
    """
    indices = [index for batch in list_batches(loader) for index in batch]
    if not every_image:
        indices = [indices[place] for place in choose_evenly(len(indices), IMAGES)]
    names = [dataset.name(index) for index in indices]
    logger.info("Verifying at eps %s on %s (slow checks: on the first %d labelled ones)",
                format_radius({"eps": eps, "norm": "linf"}), ", ".join(names), FEW)
    images, labels = zip(*(dataset[index] for index in indices), strict=True)
    checks = run_checks(model, images, labels, eps=eps, seed=seed, transfer_from=transfer_from)
    results = {"options": described or {}, "images": names, "eps": eps, "checks": checks}
    write_results(folder / "verify.json", results)
    failed = [check["name"] for check in checks if not check["passed"]]
    logger.info("%d of %d checks passed%s", len(checks) - len(failed), len(checks),
                f"; failed: {', '.join(failed)} (docs/verify.md)" if failed else "")
    if failed:
        raise SystemExit(1)
    return results


def run_checks(model: nn.Module, images: list[Tensor], labels: list[Tensor], *, eps: float, class_weights=None,
               seed: int = 1, only=None, transfer_from: dict[str, nn.Module] | None = None) -> list[dict]:
    """Run CHECKS, or those named in `only`, and log a line for each; a check that raises an error has failed.

    images: float [3, H, W] in [0, 1], of any sizes; labels: int64 [H, W]. eps: linf radius in (0, 1]. class_weights:
    [C] for mce_bal (default: from `labels`). transfer_from: {name: network}, without which the check "transfer" is left
    out. Returns {name, passed, figures, tolerance, why, seconds} for each check.
    """
    if not 0 < eps <= 1:
        raise UserError(f"eps {eps:g}: --verify needs a radius above 0, at most 1")
    if only is None:
        only = [name for name in CHECKS if name != "transfer" or transfer_from]
    results = []
    with deterministic_sums(), tqdm(only, unit="check", leave=False, disable=None) as bar:
        bench, finding = _call_safely(Bench, model, images, labels, eps=eps, class_weights=class_weights, seed=seed,
                                      transfer_from=transfer_from)
        if finding is not None:
            return [_log_check("clean images", finding, 0.0)]
        bench.on_attack = bar.set_postfix_str
        for name in bar:
            bar.set_description(f"checking {name}")
            begun = time.monotonic()
            finding, error = _call_safely(CHECKS[name], bench)
            bar.clear()
            results.append(_log_check(name, error or finding, time.monotonic() - begun))
    return results


def format_check(check: dict) -> str:
    """Return a check's log line; a failed check's ends with the section of the documentation that explains it."""
    figures = ", ".join(f"{name} {format_figure(value)}" for name, value in check["figures"].items())
    text = f"{'pass' if check['passed'] else 'FAIL'}  {check['name']}: {figures} ({check['tolerance']})"
    page = "docs/verify.md" + f"#{check['name'].replace(' ', '-')}" * (check["name"] in CHECKS)
    return text if check["passed"] else f"{text}: {check['why'].rstrip('.')} ({page})"


def _call_safely(call, *args, **settings) -> tuple:
    """Return (the call's result, None), or (None, a failed Finding) if it raises an error that a model can cause."""
    try:
        return call(*args, **settings), None
    except (FloatingPointError, ValueError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        return None, Finding(False, {}, "runs without an error", f"{type(error).__name__}: {error}")


def _log_check(name: str, finding: Finding, seconds: float) -> dict:
    check = {"name": name, **vars(finding), "seconds": round(seconds, 1)}
    logger.info("%s", format_check(check))
    return check
