#!/usr/bin/env bash
# DiDE's result tables (2, 4-7) and its Fig. 3 (fig3), from prepared data and converted checkpoints (see the recipes' first lines), in the folder where
# `vldistill` is used. Run by hand, or as a SLURM array with one run a task:
#   bin/reproduce-dide-tables.sh 5 list              the runs, numbered, and what comes before them; `count` says how many
#   bin/reproduce-dide-tables.sh 5 before            teachers and pre-training, before any run
#   bin/reproduce-dide-tables.sh 5 all               that and every run in sequence; those that are complete are left as they are, others go on
#   sbatch --gres=gpu:1 --array=0-$(($(bin/reproduce-dide-tables.sh 6 count) - 1)) bin/reproduce-dide-tables.sh 6 run
#   bin/reproduce-dide-tables.sh 5 table             what is there so far, beside the paper's figures
# Further: --seeds 0,1,2,3  --only WORD (of a row's name, or a task)  KEY=VALUE (recipe fields, for every run).
# Under sbatch, VLDISTILL_ROOT names this repository where the job does not start in it.
#SBATCH --job-name=dide
#SBATCH --cpus-per-task=8
#SBATCH --time=1-00:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=dide-%A_%a.log
set -euo pipefail
if [ $# -lt 2 ]; then
  sed -n '2,11s/^# //p' "${BASH_SOURCE[0]}" >&2
  exit 2
fi
# sbatch runs a copy of this file from a folder of its own.
root=${VLDISTILL_ROOT:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}
[ -f "$root/bin/in_venv" ] || root=${SLURM_SUBMIT_DIR:-$PWD}
exec "$root/bin/in_venv" vldistill reproduce dide "$@"
