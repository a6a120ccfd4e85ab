"""The evaluations that a call asks for: clean and under every attack, recorded image by image, scored from records."""
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import cycle, islice

import torch

from attacks import Attack
from attacks.losses import Pixels
from datasets import batches_of
from engine import options, report
from engine.evaluate import Scored, progress, scored_batches, title_of
from engine.precision import precise, say_sign_differences
from engine.records import Records, canonical
from engine.rows import rows_of, without
from engine.sharing import hand_over, share_of
from metrics import counts_per_image
from utils.distributed import from_main, is_main, together
from utils.errors import UserError
from utils.logging import logger

CLEAN = {"attack": "none", "norm": None, "eps": 0.0, "steps": 0}


def evaluate_all(opts, model, loader, dataset, attacks: list[Attack], *, folder, dashboard) -> dict:
    """Evaluate clean, then under each of `attacks` or its members; returns what results.json holds.

    What <folder>/records already holds is not attacked again. Shows and writes what was found, also where an error or
    a Ctrl-C ends it half-way; called again, it goes on there. Under torchrun the ranks share the batches; rank 0 alone
    reads and writes, what a single process would.
    """
    names = [dataset.name(index) for batch in batches_of(loader) for index in batch]
    pictures = report.Pictures(folder / "val_results", dataset, names, needed=opts.save_val_results,
                               count=len(names) if opts.save_val_results else opts.sheet_images)
    clean = {**CLEAN, "amp": True} if opts.amp else CLEAN
    records = []
    try:
        with together():
            subject = subject_of(opts, model, dataset) if is_main() else {}
            if opts.attack_amp and attacks and is_main():
                say_sign_differences(model, *next(iter(loader))[:2])
        for chain in chains(attacks, warm_start=opts.warm_start):
            with ExitStack() as stack:
                with together():
                    files = _opened(stack, chain, subject, dataset, folder, clean=clean)
                    missing = _missing(files, chain, loader, dataset, pictures)
                records += files
                form = precise(model, amp=opts.amp if chain == [None] else opts.attack_amp)
                _record(chain, files, from_main(missing), form, loader, dataset, pictures)
    except BaseException as error:
        # No collective: a Ctrl-C may have come to one rank.
        _show(opts, records, names, dataset, folder, dashboard, complete=False)
        if isinstance(error, ValueError) and isinstance(opts.target_class, str):  # else engine.plan refuses all such
            raise UserError(f"--target_class {opts.target_class}: {error}") from None  # a map of another size
        raise
    with together():
        results = _show(opts, records, names, dataset, folder, dashboard, complete=True)
    return from_main(results)


def chains(attacks: list[Attack], *, warm_start: bool) -> list[list[Attack | None]]:
    """Clean, then all attacks, ensembles as their members, each once: each alone, or the radii of one together.

    Together, which is for warm_start, radii grow.
    """
    single = {canonical(member.settings()): member for attack in attacks for member in attack.members or [attack]}
    if not warm_start:
        return [[None], *([attack] for attack in single.values())]
    by_kind = {}
    for attack in single.values():
        by_kind.setdefault(canonical(without(attack.settings(), "eps", "step_size")), []).append(attack)
    return [[None], *(sorted(chain, key=lambda attack: attack.eps) for chain in by_kind.values())]


def subject_of(opts, model, dataset) -> dict:
    """What is attacked, for the header of records: records of another network or of other images never mix with it."""
    weights = hashlib.sha256()
    for key, value in model.model.state_dict().items():
        weights.update(key.encode() + value.cpu().contiguous().numpy().tobytes())
    device = next(model.parameters()).device
    return {
        "model": opts.model, "output_stride": opts.output_stride, "separable_conv": opts.separable_conv,
        "weights": weights.hexdigest()[:16], "normalization": model.normalization,
        "dataset": opts.dataset, "year": opts.year, "data": dataset.digest(), "crop_size": dataset.crop_size,
        "torch": torch.__version__, "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "tf32": device.type == "cuda" and torch.backends.cudnn.allow_tf32,
    }


def _opened(stack: ExitStack, chain: list, subject: dict, dataset, folder, *, clean: dict) -> list[Records]:
    """The record file of each attack of `chain`, to be closed with `stack`; on rank 0, else none."""
    return [stack.enter_context(_open(attack, chain, subject, dataset, folder, clean))
            for attack in (chain if is_main() else [])]


def _open(attack, chain: list, subject: dict, dataset, folder, settings: dict) -> Records:
    if attack is not None:
        smaller = [other.settings() for other in chain[:chain.index(attack)]]
        settings = {**attack.settings(), "warm_start": [
            {key: link[key] for key in ("eps", "step_size") if key in link} for link in smaller]}
    header = {"attack": settings, "subject": subject, "class_names": dataset.class_names}
    return Records(folder / "records", header, label=report.label(settings))


def _missing(files: list[Records], chain: list, loader, dataset, pictures) -> list[list[int]]:
    """The batches of `loader` with an image that one of `files`, or its pictures, still lacks.

    Such a batch is attacked again as a whole: what is written then has the same bytes as if nothing had been
    interrupted.
    """
    def lacks(index: int) -> bool:
        name = dataset.name(index)
        return any(name not in file or pictures.lacks(file.stem, name) for file in files)

    missing = [batch for batch in batches_of(loader) if any(map(lacks, batch))]
    if files and not missing:
        logger.info("%s: in %s", ", ".join(map(title_of, chain)), files[0].path.parent)
    return missing


def _record(chain: list, files: list[Records], missing: list[list[int]], model, loader, dataset, pictures):
    """Attack the batches `missing`, and append what was found to `files`, one for each attack of `chain`."""
    if not missing:
        return
    title = title_of(chain[-1]) + (f" from {report.radius(chain[0].settings())}" if len(chain) > 1 else "")
    counts = {"intersection": 0, "pixels": 0}  # under the last of the chain, of the images scored now
    with progress(share_of(loader, missing), title) as bar:
        def take(batch: list[tuple]):
            for file, (lines, drawn) in zip(files, batch, strict=True):
                pictures.write(file.stem, drawn)  # first: an image is done when its line is there
                file.append(lines)
            for key in counts:
                counts[key] += sum(sum(line[key]) for line in batch[-1][0])
            bar.set_postfix_str(f"aAcc {counts['intersection'] / max(counts['pixels'], 1):.4f}", refresh=False)

        hand_over(_found(scored_batches(model, bar, chain), chain, dataset, pictures), len(missing), take)


def _found(scored: Iterable[Scored], chain: list, dataset, pictures) -> Iterator[list[tuple]]:
    """For every batch a list along `chain` of (record lines, pictures)."""
    found = ((_lines(each, dataset, attack), pictures.draw(each))
             for attack, each in zip(cycle(chain), scored, strict=False))
    while batch := list(islice(found, len(chain))):
        yield batch


def _lines(scored: Scored, dataset, attack) -> list[dict]:
    """A record line for each image of a batch; with a target "at_target", the labelled pixels that are there."""
    intersection, union, pixels = (counts.tolist() for counts in
                                     counts_per_image(scored.labels, scored.preds, dataset.num_classes))
    delta = (scored.images.double() - scored.clean.double()).flatten(1)
    radius = delta.norm(dim=1) if attack is not None and attack.norm == "l2" else delta.abs().amax(1)
    losses = Pixels(scored.logits, scored.labels).cross_entropy()
    passes = torch.zeros(2, len(scored.indices)) if scored.outcome is None else torch.stack(
        [scored.outcome.forwards, scored.outcome.backwards])
    if not losses.isfinite().all():
        raise FloatingPointError("the model's logits are not finite")
    hits = [{}] * len(scored.indices)
    if attack is not None and attack.target is not None:
        labelled = (scored.labels >= 0) & (scored.labels < dataset.num_classes)
        there = labelled & (scored.preds == torch.as_tensor(attack.target).to(scored.preds))
        hits = [{"at_target": count} for count in there.flatten(1).sum(1).tolist()]
    return [{**hits[k], "image": dataset.name(index), "intersection": intersection[k], "union": union[k],
             "pixels": pixels[k], "radius": radius[k].item(), "loss": losses[k].item(),
             "forwards": int(passes[0, k]), "backwards": int(passes[1, k])} for k, index in enumerate(scored.indices)]


def _show(opts, records: list[Records], names: list[str], dataset, folder, dashboard, *,
          complete: bool) -> dict | None:
    """Log, write and draw the results on rank 0; returns them there."""
    if not is_main():
        return None
    results = {**_results(opts, records, names, dataset), "complete": complete}
    if results["results"]:
        logger.info("\n%s\n", report.table(results["results"]))
        report.write_results(folder / "results.json", results)
        report.show_robustness(dashboard, results["results"])
    return results


def _results(opts, records: list[Records], names: list[str], dataset) -> dict:
    """The rows of everything that is recorded for all images; what is not yet is named."""
    whole = [record for record in records if all(name in record for name in names)]
    for record in records:
        if record not in whole:
            logger.warning("%s: %d of %d images; %s goes on there", record.path, sum(name in record for name in names),
                           len(names), "the same command" if opts.test_only else "--continue_training")
    rows = rows_of(whole, names, class_names=dataset.class_names) if whole else []
    place = {record.stem: number for number, record in enumerate(whole)}
    rows.sort(key=lambda row: len(place) if row["members"] else place[row["records"][0]])  # as asked for, unions last
    return {"options": options.to_dict(opts), "images": names, "skipped_images": list(dataset.skipped), "results": rows}
