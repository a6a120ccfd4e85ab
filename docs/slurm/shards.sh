#!/usr/bin/env bash
#SBATCH --job-name=shard
#SBATCH --array=1-8
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
# Evaluate in shares:  sbatch docs/slurm/shards.sh --exp_name sam --protocol strong  (flags of main.py --test_only)
# then:                python main.py --report sam
# Another number of shares: sbatch --array=1-20 ...  Only the third of eight again: SHARDS=8 sbatch --array=3 ...
set -euo pipefail

# srun has not taken --cpus-per-task from sbatch since Slurm 22.05.
srun ${SLURM_CPUS_PER_TASK:+"--cpus-per-task=$SLURM_CPUS_PER_TASK"} python main.py --test_only --shard "$SLURM_ARRAY_TASK_ID/${SHARDS:-$SLURM_ARRAY_TASK_MAX}" "$@"
