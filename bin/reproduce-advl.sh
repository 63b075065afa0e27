#!/usr/bin/env bash
# ADVL's result tables (1-4, 7-11), from prepared data and converted checkpoints (see the recipes' first lines), in the folder where
# `vldistill` is used. Run by hand, or as a SLURM array with one run a task:
#   bin/reproduce-advl.sh 1 list                     the runs, numbered; `count` says how many
#   bin/reproduce-advl.sh 1 cache                    the teachers' features, before any run
#   bin/reproduce-advl.sh 1 all                      every run in sequence; those that are complete are left as they are, others go on
#   sbatch --gres=gpu:1 --array=0-$(($(bin/reproduce-advl.sh 9 count) - 1)) bin/reproduce-advl.sh 9 run
#   bin/reproduce-advl.sh 1 table                    what is there so far, beside the paper's figures
# Further: --settings 100,1000,full  --seeds 0,1,2,3  --only WORD  KEY=VALUE (recipe fields, for every run).
# Under sbatch, VLDISTILL_ROOT names this repository where the job does not start in it.
#SBATCH --job-name=advl
#SBATCH --cpus-per-task=8
#SBATCH --time=1-00:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=advl-%A_%a.log
set -euo pipefail
if [ $# -lt 2 ]; then
  sed -n '2,11s/^# //p' "${BASH_SOURCE[0]}" >&2
  exit 2
fi
# sbatch runs a copy of this file from a folder of its own.
root=${VLDISTILL_ROOT:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}
[ -f "$root/bin/in_venv" ] || root=${SLURM_SUBMIT_DIR:-$PWD}
exec "$root/bin/in_venv" vldistill reproduce advl "$@"
