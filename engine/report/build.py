"""From options to a report: its runs, records and folder."""
from pathlib import Path

from engine.report.write import write_report
from utils.errors import UserError

FILTERS = {"attacks": "attack", "losses": "attack_loss", "norm": "attack_norm", "eps": "eps"}  # keyword -> flag


def report(options) -> dict:
    """Write the report that --report asks for; return what report.json holds."""
    named = [Path(options.output_dir) / run for run in options.report]
    runs = [path if path.is_dir() else Path(run) for path, run in zip(named, options.report, strict=True)]
    if missing := [str(run) for run in runs if not run.is_dir()]:
        raise UserError(f"--report: no folder {', '.join(missing)}: give run folders, or their names in --output_dir")
    folder = options.report_dir or (runs[0] if len(runs) == 1 else Path(options.output_dir)) / "report"
    return write_report(runs, Path(folder), **{keyword: getattr(options, flag) for keyword, flag in FILTERS.items()
                                               if flag in options.given})
