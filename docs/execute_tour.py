"""Run docs/tour.ipynb and keep its output:  python docs/execute_tour.py"""
from pathlib import Path

import nbformat
from nbclient import NotebookClient

TOUR = Path(__file__).resolve().with_name("tour.ipynb")


def execute(notebook, folder: Path):
    """Run the cells of a notebook in `folder`; return it with their output, but without times and this Python."""
    NotebookClient(notebook, timeout=1800, record_timing=False, resources={"metadata": {"path": str(folder)}}).execute()
    notebook.metadata.language_info = {"name": "python"}
    return notebook


if __name__ == "__main__":
    nbformat.write(execute(nbformat.read(TOUR, as_version=4), TOUR.parent), TOUR)
