# shellcheck shell=bash
# Sourced by the SLURM scripts, which have set `root` to this repository; not run by itself. It finds the environment as bin/in_venv
# does, and sets what jobs need. Of the user it takes:
#   VLDISTILL_VENV          the environment, where it is not the repository's .venv
#   VLDISTILL_SLURM_ARGS    arguments of every sbatch, for example "--account=mine --partition=gpu"
#   HF_HUB_OFFLINE=0        where nodes do reach the hub
#   VLDISTILL_STAGE=auto    to read features, packed images and regions from the node's own disk
set -euo pipefail

for venv in "${VLDISTILL_VENV:-}" "${root:?is set by the script that sources this}/.venv"; do
  if [ -n "$venv" ] && [ -x "$venv/bin/python" ]; then
    export PATH=$venv/bin:$PATH
    break
  fi
done

export TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1}
# HDF5 locks whole files, which many cluster file systems refuse; caches have a lock of their own.
export HDF5_USE_FILE_LOCKING=FALSE
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then
  # A job step does not take the number over from its job.
  export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
fi
if [ -n "${SLURM_JOB_ID:-}" ]; then
  # Of the job itself: the shell that submitted it may have had others. A port of its own, since jobs may share a node.
  MASTER_ADDR=$(scontrol show hostnames "${SLURM_JOB_NODELIST:-}" | sed -n 1p)
  MASTER_PORT=$((10000 + SLURM_JOB_ID % 20000))
  export MASTER_ADDR MASTER_PORT
fi

# submit ARGUMENT ...: sbatch with the user's own arguments; prints the job's number.
submit() {
  local own told
  read -ra own <<< "${VLDISTILL_SLURM_ARGS:-}"
  # `set -e` does not reach into $(), where this is called.
  # The job has to know VLDISTILL_ROOT, also where a site lets jobs begin with an empty environment.
  told=$(sbatch --parsable --export=ALL "${own[@]}" "$@") || return
  echo "${told%%;*}"
}

# most_tasks: how many tasks an array may have here.
most_tasks() {
  local told
  told=$(scontrol show config 2> /dev/null | sed -n 's/^MaxArraySize *= *//p')
  echo "${told:-1001}"
}

# words_of FILE NUMBER: sets the array `words` to those of a line, from 0; quoted ones may hold spaces.
words_of() {
  local line
  line=$(sed -n "$(($2 + 1))p" "$1")
  if [ -z "$line" ]; then
    echo "$1 has no line $2 (counted from 0)" >&2
    return 2
  fi
  # shellcheck disable=SC2034 # the caller's
  mapfile -d '' -t words < <(xargs printf '%s\0' <<< "$line")
}
