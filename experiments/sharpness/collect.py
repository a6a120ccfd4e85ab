"""What was measured on each network, in two files: results.json for readers, records.tar.gz to compute it again."""
import gzip
import io
import json
import tarfile
from pathlib import Path

from engine.records.naming import finds_radius
from engine.records.radii import describe_radii
from engine.records.rows import make_rows
from engine.records.store import Record, read
from experiments.sharpness.plan import CONVERGENCE, Network, Plan
from experiments.sharpness.work import read_journal
from utils.errors import UserError

EXTRAS = ("verify.json", "probe.json")
KEPT = ("attack", "attack_loss", "norm", "eps", "steps", "images", "Mean IoU", "Mean IoU lower", "Overall Acc",
        "Image IoU", "forwards", "backwards")


def pack(plan: Plan, folder: Path, archive: Path) -> list[str]:
    """Write the records, journals, checks and probes of all networks that are done; return their names.

    Equal content gives equal bytes.
    """
    names = [network.name for network in plan.networks() if _is_done(plan, folder, network)]
    archive.parent.mkdir(parents=True, exist_ok=True)
    with (archive.open("wb") as file, gzip.GzipFile(fileobj=file, mode="wb", mtime=0, filename="") as packed,
          tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar):
        for name in names:
            paths = [folder / f"{name}.jsonl", *(path for extra in EXTRAS if (path := folder / name / extra).exists()),
                     *sorted((folder / name / "records").glob("*.jsonl")), *_list_pictures(folder, name)]
            for path in paths:
                content = path.read_bytes() if path.name != "verify.json" else _read_checks(path)
                member = tarfile.TarInfo(str(path.relative_to(folder)))
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return names


def restore(archive: Path, folder: Path) -> list[str]:
    """Unpack the networks that `folder` doesn't have; return their names. They count as done there.

    Raises UserError if there is no archive.
    """
    if not archive.is_file():
        raise UserError(f"nothing to restore: {archive} does not exist (--results names its folder)")
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
        names = sorted({member.name.removesuffix(".jsonl") for member in members if "/" not in member.name})
        new = [name for name in names if not (folder / f"{name}.jsonl").exists()]
        wanted = [member for member in members if member.name.partition("/")[0].removesuffix(".jsonl") in new]
        # A journal last: after a kill its network isn't taken for a whole one.
        tar.extractall(folder, sorted(wanted, key=lambda member: "/" not in member.name), filter="data")
    return new


def unpack(archive: Path, folder: Path):
    """Write the content of pack()'s file into a folder, which --report can then read."""
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")


def load_records(folder: Path, name: str) -> list[Record]:
    """Return a network's records."""
    return [Record(path, *read(path)) for path in sorted((folder / name / "records").glob("*.jsonl"))]


def describe(folder: Path, network: Network) -> dict:
    """Return every figure of a network, each beside the settings that it was measured with."""
    records = load_records(folder, network.name)
    clean, = (record for record in records if record.settings["attack"] == "none")
    sizes = {len(record) for record in records if record is not clean}
    rows = []
    for size in sorted(sizes):  # attacks on as many images are on the same ones
        of_size = [record for record in records if len(record) == size and record is not clean]
        rows += [row for row in make_rows([clean, *of_size], of_size[0].names, class_names=clean.header["class_names"])
                 if row["attack"] != "worst case"]
    on_all = make_rows([clean], clean.names, class_names=clean.header["class_names"])
    found = {path.stem: json.loads(path.read_text()) for extra in EXTRAS
             if (path := folder / network.name / extra).exists()}
    return {
        "name": network.name, "method": network.method, "seed": network.seed,
        "commands": read_journal(folder, network),
        "rows": [{key: row[key] for key in KEPT} for row in [*on_all, *rows]],
        "radii": [{key: value for key, value in describe_radii(record, record.names).items() if key != "settings"}
                  for record in records if finds_radius(record.settings)],
        "failed checks": [check["name"] for check in found["verify"]["checks"] if not check["passed"]],
        "probe": found.get("probe")}


def _read_checks(path: Path) -> bytes:
    """Return verify.json without the options, which name folders of the machine."""
    return json.dumps({"checks": json.loads(path.read_text())["checks"]}).encode()


def _list_pictures(folder: Path, name: str) -> list[Path]:
    """Return the pictures of the sheet: of the first image, clean and under race, of the first networks of methods."""
    if name not in {f"{method}-1" for method in CONVERGENCE}:
        return []
    shown = folder / name / "val_results"
    first = min((path.name.removesuffix("_image.png") for path in shown.glob("clean_*/*_image.png")), default="")
    return [*(path for ending in ("image", "target", "pred") for path in shown.glob(f"clean_*/{first}_{ending}.png")),
            *sorted(shown.glob(f"race_linf_*/{first}_pred.png"))]


def _is_done(plan: Plan, folder: Path, network: Network) -> bool:
    wanted = {job.name for job in [plan.training(network), *plan.measurements(network)]}
    return wanted <= {line["job"] for line in read_journal(folder, network)}
