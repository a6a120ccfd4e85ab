"""--list: the catalogue as tables."""
from engine.about.catalogue import TABLES
from utils.text import format_markdown

PAGES = {  # what follows a table
    "models": "Parameters are those of 21 classes; the first stride is the default. HRNet has no published weights."
              "\nNetworks of your own: docs/python.md#any-network-on-the-command-line; weights: docs/weights.md",
    "datasets": "What --data_root holds, and your own images: docs/data.md",
    "attacks": "Gradients are those of an image at each eps (min_radius: at all together), with --restarts 1."
               "\nWhich one to use: docs/attacks.md#which-one-to-use",
    "losses": "--loss_type: docs/training.md; --attack_loss: docs/attacks.md#losses",
    "corruptions": "Each at --severity 1 to 5; they need `make extras`: docs/evaluation.md#common-corruptions",
}
TITLES = {  # of columns whose key is not their title
    "separable": "with --separable_conv", "strides": "stride", "weights": "ImageNet weights", "does": "what it does",
    "targeted": "target", "gradients": "gradients a step",
    "images": "images, training and validation", "layout": "--data_root holds",
}


def list_rows(listed: str) -> dict[str, dict]:
    """Return {name: {column: value}} of a table in catalogue.TABLES; an attack's cost is that of its default steps."""
    rows = {name: row._asdict() for name, row in TABLES[listed].items()}
    if listed == "attacks":
        for row in rows.values():
            row["in all"], row["source"] = row["steps"] * row["gradients"], row.pop("source")
    return rows


def format_table(listed: str) -> str:
    """Return the table as text, a row a line."""
    rows = list_rows(listed)
    head = next(iter(rows.values()))
    return format_markdown({"name": list(rows)} | {TITLES.get(column, column): [
        _format(row[column]) for row in rows.values()] for column in head})


def _format(value) -> str:
    """Return a cell: 5,113,877; "16, 8"; yes or no; - for None."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else "-" if value is None else value
