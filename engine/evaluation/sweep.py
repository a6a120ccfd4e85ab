"""Score a model clean and under every attack, recording each image; takes no options, so a notebook can call it."""
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from attacks import join
from datasets import ImageSet, list_batches, with_indices
from engine.evaluation.chains import Link, open_records, plan_chains
from engine.evaluation.dashboard import show_results
from engine.evaluation.evaluate import Scored, announce, make_lines, score_batches, show_progress
from engine.evaluation.pictures import Pictures
from engine.evaluation.precision import log_sign_differences
from engine.evaluation.shards import hand_over, take_share
from engine.records.corruptions import describe_corruptions, format_corruptions
from engine.records.naming import finds_radius, format_radius, make_title
from engine.records.radii import describe_radii, format_radii
from engine.records.rows import make_rows
from engine.records.store import Records
from engine.records.summary import format_table, write_results
from network import precise
from utils.dashboards import Dashboard
from utils.device import device_of
from utils.distributed import broadcast_object, fail_together, is_main
from utils.logging import logger
from utils.snapshots import hash_model

TABLES = {"radii": format_radii, "corruptions": format_corruptions}


def sweep(model: nn.Module, loader, dataset, attacks, *, folder=None, class_names=None, num_classes: int | None = None,
          subject: dict | None = None, warm_start: bool = False, amp: bool = False, attack_amp: bool = False,
          pictures: int | None = 0, described: dict | None = None, dashboard=None,
          transfer_from: dict[str, nn.Module] | None = None, radii=None, baseline=(),
          repeat: str = "the same call") -> dict:
    """Score `model` clean, then under each of `attacks` or its members; return what results.json holds.

    model: images [B, 3, H, W] in [0, 1] -> logits [B, C, H, W]. loader: a DataLoader of `dataset`, in order;
    dataset[i] = (image float [3, H, W] in [0, 1], label int64 [H, W], 255 = ignore). class_names or num_classes: needed
    if the data set has no class_names; without name(i) an image's name is its index. folder: for results.json, records/
    and, of `pictures` images (None: all), val_results/; recorded images are not attacked again, so repeating a call
    that was stopped continues it. Without a folder nothing is kept. subject: plain values that identify this model
    (default: a hash of its weights). warm_start: each radius starts from the smaller one's result. amp, attack_amp:
    clean and attacked scores in bfloat16. transfer_from: {name: network}, on whose mean loss the adversarial images for
    `model` are made; the names appear in tables and file names. radii: for the table of min_radius. baseline: another
    run's records under corruptions, to compare errors with. described: "options" of results.json. repeat: how to
    continue, for the log.

    Results so far are written even if an error or Ctrl-C ends the sweep. Under torchrun the ranks share the batches and
    rank 0 writes. Raises ValueError if the loader is not in order or the classes are unknown.
    """
    if folder is None:
        with TemporaryDirectory() as temporary:
            return sweep(model, loader, dataset, attacks, folder=temporary, class_names=class_names,
                         num_classes=num_classes, subject=subject or {"kept": False}, warm_start=warm_start, amp=amp,
                         attack_amp=attack_amp, described=described, dashboard=dashboard, transfer_from=transfer_from,
                         radii=radii, baseline=baseline, repeat=repeat)
    images = ImageSet(dataset, class_names=class_names, num_classes=num_classes)
    loader = with_indices(loader, dataset)
    names = [images.name(index) for batch in list_batches(loader) for index in batch]
    if len(set(names)) < len(names):
        raise ValueError(f"two images are called {max(names, key=names.count)}: names must be distinct")
    run = _Sweep(images, loader, names, Path(folder), described or {}, dashboard or Dashboard(), radii, baseline,
                 repeat)
    drawn = Pictures(run.folder / "val_results", images, names, needed=pictures is None,
                     count=len(names) if pictures is None else pictures)
    records, seen = [], [*(transfer_from or {}).values()]
    attacked = join([precise(network, amp=attack_amp) for network in seen]) if seen else None
    try:
        with fail_together():
            header = _make_header(model, images, loader, subject) if is_main() else {}
            if attack_amp and attacks and is_main():
                for network in seen or [model]:
                    log_sign_differences(network, *next(iter(loader))[:2])
            sources = [{"name": name, "model": hash_model(network)} for name, network in (transfer_from or {}).items()]
        for chain in plan_chains(attacks, warm_start=warm_start, amp=amp, attack_amp=attack_amp, transfer_from=sources):
            with ExitStack() as stack:
                with fail_together():
                    files = open_records(stack, chain, header, run.folder)
                    missing = run.find_missing(files, chain, drawn)
                records += files
                form = precise(model, amp=amp if chain[0].attack is None else attack_amp)
                run.record(chain, files, broadcast_object(missing), form, drawn, attacked=attacked)
    except BaseException:
        run.show(records, complete=False)  # no collective: maybe only one rank got the Ctrl-C
        raise
    with fail_together():
        results = run.show(records, complete=True)
        run.warn_about_unlabelled(records)
    return broadcast_object(results)


def _make_header(model, images: ImageSet, loader, subject: dict | None) -> dict:
    """Return what identifies network and images, so that their records never mix with others."""
    device = device_of(model)
    return {"class_names": images.class_names, "subject": {
        **(subject or {"model": hash_model(model)}),
        "data": (subject or {}).get("data") or images.digest(loader),  # of a shard, those of all images
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "tf32": device.type == "cuda" and torch.backends.cudnn.allow_tf32}}


@dataclass
class _Sweep:
    """The data that the steps of a sweep share."""

    images: ImageSet
    loader: object
    names: list[str]
    folder: Path
    described: dict
    dashboard: object
    radii: tuple[float, ...] | None
    baseline: list[Records]
    repeat: str

    def find_missing(self, files: list[Records], chain: list[Link], pictures: Pictures) -> list[list[int]]:
        """Return the batches with an image that `files` or their pictures lack; they are attacked as a whole."""
        def lacks(index: int) -> bool:
            name = self.images.name(index)
            return any(name not in file or pictures.lacks(file.stem, name) for file in files)

        missing = [batch for batch in list_batches(self.loader) if any(map(lacks, batch))]
        if files and not missing:
            titles = ", ".join(make_title(link.settings) for link in chain)
            logger.info("%s: already in %s", titles, files[0].path.parent)
        return missing

    def record(self, chain: list[Link], files: list[Records], missing: list[list[int]], model, pictures: Pictures, *,
               attacked=None):
        """Attack the batches `missing` and append the results to `files`, one for each link of the chain.

        attacked: the network that attacks see, `model` by default.
        """
        if not missing:
            return
        first, last = chain[0].settings, chain[-1].settings
        title = make_title(last) + (f" from {format_radius(first)}" if len(chain) > 1 else "")
        counts = {"intersection": 0, "pixels": 0}  # under the last link, of the images scored now
        with show_progress(take_share(self.loader, missing), title) as bar:
            def take(batch: list[tuple]):
                for file, (lines, drawn) in zip(files, batch, strict=True):
                    pictures.write(file.stem, drawn)  # first: an image counts as done once its line is written
                    file.append(lines)
                for key in counts:
                    counts[key] += sum(sum(line[key]) for line in batch[-1][0])
                bar.set_postfix_str(f"aAcc {counts['intersection'] / max(counts['pixels'], 1):.4f}", refresh=False)

            attacks = [link.attack for link in chain]
            batches = announce(bar, attacks, title, sum(map(len, missing)))
            scored = score_batches(model, batches, attacks, attacked=attacked)
            hand_over(self._find(scored, attacks, pictures), len(missing), take)

    def show(self, records: list[Records], *, complete: bool) -> dict | None:
        """Log, write and plot the results on rank 0; return them there."""
        if not is_main():
            return None
        radii = [describe_radii(record, self.names, asked=self.radii) for record in records
                 if finds_radius(record.settings) and all(name in record for name in self.names)]
        rows = self._make_rows(records)
        corrupted = describe_corruptions(rows, self.names, self.baseline)
        more = {key: found for key, found in (("radii", radii), ("corruptions", corrupted)) if found}
        results = {"options": self.described, "images": self.names, "skipped_images": self.images.skipped,
                   "class_colours": self.images.list_colours(), "results": rows, **more, "complete": complete}
        if rows:
            tables = [format_table(rows), *(TABLES[key](found) for key, found in more.items())]
            logger.info("\n%s\n", "\n\n".join(tables))
            write_results(self.folder / "results.json", results)
            show_results(self.dashboard, rows, self.folder / "val_results", self.names)
        return results

    def warn_about_unlabelled(self, records: list[Records]):
        """Log on rank 0 how many images have no labelled pixel."""
        if is_main() and (count := int((records[0].counts(self.names)[-1].sum(axis=1) == 0).sum())):
            logger.warning("Warning: %d of the %d images have no labelled pixel and count in no score (docs/data.md"
                           "#wrong-labels)", count, len(self.names))

    def _find(self, scored: Iterable[Scored], attacks: list, pictures: Pictures) -> Iterator[list[tuple]]:
        """Yield for every batch a list along the chain of (record lines, pictures)."""
        found = ((make_lines(each, self.images, attack), pictures.draw(each))
                 for attack, each in zip(cycle(attacks), scored, strict=False))
        while batch := list(islice(found, len(attacks))):
            yield batch

    def _make_rows(self, records: list[Records]) -> list[dict]:
        """Return the rows of the records that have all images; log incomplete ones."""
        whole = [record for record in records if all(name in record for name in self.names)]
        for record in records:
            if record not in whole:
                logger.warning("%s has %d of %d images: %s continues it", record.path,
                               sum(name in record for name in self.names), len(self.names), self.repeat)
        rows = make_rows(whole, self.names, class_names=self.images.class_names) if whole else []
        place = {record.stem: number for number, record in enumerate(whole)}
        return sorted(rows, key=lambda row: len(place) if row["members"] else place[row["records"][0]])  # unions last
