#!/usr/bin/env bash
# DiDE's tables in the toy world, in the folder where it is called, on a CPU: pairmore stands for NLVR2 and ve3 for SNLI-VE.
#   bin/reproduce-dide-toy.sh 6 all --only pairmore         the toy world, its teachers, and Table 6's rows with three seeds
#   bin/reproduce-dide-toy.sh 6 table --only pairmore       the table
#   bin/reproduce-dide-toy.sh 5 all --only ve3              Table 5; Table 7 likewise
# Further: count, list, before, run, --seeds, KEY=VALUE, as bin/reproduce-dide-tables.sh has them.
set -euo pipefail
if [ $# -lt 2 ]; then
  sed -n '2,6s/^# //p' "${BASH_SOURCE[0]}" >&2
  exit 2
fi
exec "$(dirname "${BASH_SOURCE[0]}")/reproduce-dide-tables.sh" "$@" --toy
