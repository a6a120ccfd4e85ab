"""docs/slurm: the scripts, run with stand-ins for Slurm's commands on this machine alone."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = "docs/slurm/train.sh", "docs/slurm/shards.sh"
SRUN = """#!/usr/bin/env bash
# As many copies as there are nodes; each ends with its own code.
[ "$1" = --cpus-per-task=3 ] || { echo "srun doesn't take --cpus-per-task from sbatch" >&2; exit 9; }
shift
status=0; pids=()
for node in $(seq 0 $((${SLURM_JOB_NUM_NODES:-1} - 1))); do SLURM_NODEID=$node "$@" & pids+=($!); done
for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
exit $status
"""
SCONTROL = "#!/usr/bin/env bash\n[ \"$1 $2\" = 'show hostnames' ] && printf '%s\\n' localhost localhost\n"


@pytest.fixture
def batch(root, tmp_path):
    """A function that runs a script as sbatch would, with these variables."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)

    def run(script, *flags, **variables):
        path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
        return subprocess.run(["bash", script, *flags], cwd=root, text=True, capture_output=True, timeout=600,
                              check=False, env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1",
                                         "SLURM_CPUS_PER_TASK": "3", **variables})

    return run


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck isn't installed")
def test_shellcheck_finds_nothing(root):
    done = subprocess.run(["shellcheck", *SCRIPTS], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_two_nodes_train_one_run_and_two_tasks_evaluate_it(root, batch, tmp_path):
    runs = ["--output_dir", str(tmp_path), "--exp_name", "job"]
    done = batch("docs/slurm/train.sh", *runs, "--dataset", "synthetic", "--model", "deeplabv3_mobilenet",
                 "--no-pretrained_backbone", "--crop_size", "65", "--batch_size", "4", "--total_itrs", "2",
                 "--num_workers", "0", "--val_batch_size", "16", SLURM_JOB_NUM_NODES="2", SLURM_JOB_NODELIST="two",
                 SLURM_JOB_ID=str(os.getpid()))
    assert done.returncode == 0, done.stderr
    assert "Device: cpu, 2 processes" in done.stdout and done.stdout.count("Model saved as") == 2
    for task in ("1", "2"):
        done = batch("docs/slurm/shards.sh", *runs, "--val_images", "4", "--val_batch_size", "2",
                     SLURM_ARRAY_TASK_ID=task, SLURM_ARRAY_TASK_MAX="2")
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "job" / "shards" / "2-of-2").is_dir()
    joined = subprocess.run([sys.executable, "main.py", "--report", str(tmp_path / "job")], cwd=root, text=True,
                            capture_output=True, timeout=600, check=False)
    assert joined.returncode == 0 and "missing" not in joined.stdout, joined.stderr
