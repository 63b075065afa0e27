#!/usr/bin/env bash
# A grid of trainings as SLURM jobs that wait for each other: prepare, cache (an array over shards), train (an array over runs), then
# evaluate and report. Called in the folder where `vldistill` is used, on the login node:
#   bin/grid.sh grid.txt --seeds 0,1,2,3 --gpus 4
#   bin/grid.sh grid.txt --dry-run                              the lines as they would run; nothing is submitted
#   bin/grid.sh students.txt --after "$(bin/grid.sh teachers.txt)"
# The file has a command a line, without `vldistill`; words after # are comments:
#   prepare vqa --raw /data/vqa2                                (left as it is where it was prepared already)
#   finetune --recipe advl_vqa --name baseline
#   distill --recipe advl_vqa --name advl objective.confidence=false
# Options: --seeds K,K (every training with each of them), --gpus N or TYPE:N (a node; none by default), --nodes N, --shards N (tasks that
# fill a cache, 4), --most N (runs at a time, 8), --time T (of a training), --split NAME (val), --after JOB, --out DIR (grids/<file>).
# VLDISTILL_SLURM_ARGS holds account and partition. A grid that is submitted again goes on: what is complete is left as it is.
# Prints the number of the last job; all else goes to standard error.
set -euo pipefail
if [ $# -eq 0 ]; then
  sed -n '2,14s/^# //p' "${BASH_SOURCE[0]}" >&2
  exit 2
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/bin/env.sh"
export VLDISTILL_ROOT=$root

grid=$1 seeds='' gpus=0 nodes=1 shards=4 most=8 time='' split=val after='' out='' dry=''
shift
while [ $# -gt 0 ]; do
  case $1 in
    --dry-run) dry=1; shift; continue ;;
    --seeds | --gpus | --nodes | --shards | --most | --time | --split | --after | --out)
      printf -v "${1#--}" %s "${2:?$1 needs a value}"
      shift 2
      ;;
    *) echo "bin/grid.sh: unknown option $1 (call it without arguments for help)" >&2; exit 2 ;;
  esac
done
for name in gpus nodes shards most; do
  value=${!name##*:}
  case $value in
    "" | *[!0-9]* | 0) [ "$name=$value" = gpus=0 ] || { echo "bin/grid.sh: --$name ${!name} is no number above 0" >&2; exit 2; } ;;
  esac
done
[ -n "$out" ] || { out=$(basename "$grid"); out=grids/${out%.*}; }

[ -n "$dry" ] || command -v sbatch > /dev/null || { echo "bin/grid.sh: no sbatch here (call it on a login node, or with --dry-run)" >&2; exit 2; }
if [ -n "$dry" ]; then
  exec "$root/bin/in_venv" vldistill reproduce grid "$grid" "$out" --seeds "$seeds" --dry-run >&2
fi
largest=$(most_tasks)
[ "$shards" -le "$largest" ] || { echo "bin/grid.sh: --shards $shards: an array has at most $largest tasks here (MaxArraySize)" >&2; exit 2; }
# The lines are copied into a folder of this submission, so that the file may be edited, and submitted again, while jobs wait.
lines=$out/lines/$(date +%Y%m%d-%H%M%S)-$$
"$root/bin/in_venv" vldistill reproduce grid "$grid" "$lines" --seeds "$seeds" --most-tasks "$largest" >&2
mkdir -p "$out/logs"
wait_for=$after

# job NAME LOG ARGUMENT ...: submits a job that starts when those before it have ended well, and is dropped when one has not. Sets
# `number`. With `turn` it also waits for that job to end, however it does.
turn=''
job() {
  local name=$1 log=$2 waiting=() after=${wait_for:+afterok:$wait_for}
  shift 2
  after+=${turn:+${after:+,}afterany:$turn}
  [ -z "$after" ] || waiting=("--dependency=$after" --kill-on-invalid-dep=yes)
  number=$(submit --job-name="$name" --output="$out/logs/$log.log" "${waiting[@]}" "$@")
  echo "$name: job $number" >&2
}

# stage: such a job, for which the next one waits.
stage() {
  job "$@"
  wait_for=$number
}

one=() all=()
if [ "$gpus" != 0 ]; then
  kind=
  [ "$gpus" = "${gpus##*:}" ] || kind=${gpus%:*}:
  one=("--gpus-per-node=${kind}1") all=("--gpus-per-node=$gpus" "--ntasks-per-node=${gpus##*:}")
fi
if [ -s "$lines/prepare.txt" ]; then
  stage prepare %x-%j "$root/bin/prepare.sbatch" --from "$lines/prepare.txt"
fi
if [ -s "$lines/cache.txt" ]; then
  stage cache %x-%A_%a "${one[@]}" --array="0-$((shards - 1))" "$root/bin/cache.sbatch" --from "$lines/cache.txt"
fi
# More runs than an array may have tasks are several arrays, one after the other, so that --most holds.
arrays=''
for ((part = 0; ; part++)); do
  file=$lines/train-$part.txt
  [ -f "$file" ] || break
  job train %x-%A_%a "${all[@]}" --nodes="$nodes" ${time:+"--time=$time"} --array="0-$(($(wc -l < "$file") - 1))%$most" \
    "$root/bin/train.sbatch" --from "$file"
  turn=$number arrays+=${arrays:+:}$number
done
wait_for=$arrays turn=''
stage evaluate %x-%j "${one[@]}" "$root/bin/evaluate.sbatch" --from "$lines/runs.txt" --report "$out/report" --split "$split"
echo "$wait_for"
