"""A run's history as a CSV file, the same whether or not the run was stopped."""
import csv
import io
from contextlib import closing
from pathlib import Path

from utils.errors import UserError
from utils.files import AppendOnly

TRAIN, VAL = "train", "val"  # the two kinds of rows
FIRST = ("Iteration", "Epoch", "Split")


class History:
    """The file `path`: a row for each line of training and each validation, with FIRST and `columns`.

    A cell without a value is empty. Floats are written with all their digits.
    """

    def __init__(self, path: Path, columns: list[str]):
        self.path, self.columns = Path(path), [*columns]
        self.header = _format_row([*FIRST, *self.columns])

    def open(self, *, itr: int, validated: int, continues: bool):
        """Create the file, or keep the rows up to iteration `itr`, and of validations up to `validated`.

        Raises UserError if the file has other columns or, without `continues`, any rows.
        """
        with closing(AppendOnly(self.path)) as file:
            content = file.read()
            if not content:
                file.write(self.header)
                return
            begin = self.header.encode()
            if not content.startswith(begin) or (content != begin and not continues):
                raise UserError(f"{self.path} is the history of another run: move it away, or choose another "
                                "--exp_name (docs/records.md#historycsv)")
            last, size = {TRAIN: itr, VAL: validated}, len(begin)
            for line in content[size:].splitlines(keepends=True):
                number, _, split, *_ = line.decode(errors="replace").split(",") + [""] * 3
                if not (line.endswith(b"\n") and number.isdecimal() and int(number) <= last.get(split, -1)):
                    break
                size += len(line)
            file.truncate(size)

    def add(self, split: str, *, itr: int, epoch: int, values: dict[str, float]):
        """Append a row. Raises UserError if the disk is full."""
        with closing(AppendOnly(self.path)) as file:
            file.write(_format_row([itr, epoch, split, *(values.get(name, "") for name in self.columns)]))


def _format_row(cells: list) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([repr(cell) if isinstance(cell, float) else cell for cell in cells])
    return text.getvalue()
