#!/usr/bin/env bash
#SBATCH --job-name=train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
# Train on several nodes:  sbatch docs/slurm/train.sh --exp_name sam --optimizer SAM ...  (flags of main.py)
# The folder of the program, its data and --output_dir are common to all nodes. Two minutes before the time is over the
# run saves its state and ends; submit it again with --continue_training.
set -euo pipefail

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
# srun has not taken --cpus-per-task from sbatch since Slurm 22.05.
srun ${SLURM_CPUS_PER_TASK:+"--cpus-per-task=$SLURM_CPUS_PER_TASK"} torchrun --nnodes="$SLURM_JOB_NUM_NODES" --nproc_per_node="${SLURM_GPUS_ON_NODE:-1}" --max-restarts=3 \
    --rdzv-backend=c10d --rdzv-endpoint="$first:$((20000 + SLURM_JOB_ID % 10000))" --rdzv-id="$SLURM_JOB_ID" \
    main.py "$@"
