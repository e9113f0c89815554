#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors
#
# Runs libFuzzer's harnesses in the current directory for MINUTES in all,
# each as long as the others, on all processors ($JOBS).  The corpora are kept
# in corpus/NAME, inputs that end a harness in findings/NAME-*.
#
# usage: fuzz.sh SOURCE-DIRECTORY MINUTES HARNESS...

set -euo pipefail

src=$1
minutes=$2
shift 2
jobs=${JOBS:-$(nproc)}
seconds=$(awk -v m="$minutes" -v j="$jobs" -v n=$# \
              'BEGIN { s = m * 60 * j / n; print int (s < 1 ? 1 : s) }')
mkdir -p findings
rm -f findings/*.log

# No input may take longer, a single allocation or all memory more.
limits=(-timeout=60 -malloc_limit_mb=128 -rss_limit_mb=1536 -max_len=1040)

run ()
{
  local harness=$1 name=${1#fuzz-}
  mkdir -p "corpus/$name"
  "./$harness" "${limits[@]}" -max_total_time="$seconds" \
               -artifact_prefix="findings/$name-" -print_final_stats=1 \
               "corpus/$name" "$src/corpus/$name" >"findings/$name.log" 2>&1
}

report ()
{
  local name=${1#fuzz-} log=findings/${1#fuzz-}.log
  awk -v name="$name" '
    /cov: / { for (i = 1; i < NF; i++) if ($i == "cov:") cov = $(i + 1)
              for (i = 1; i < NF; i++) if ($i == "corp:") corp = $(i + 1) }
    /number_of_executed_units/ { n = $2 }
    END { printf "  %-8s %8d inputs run, %5d edges reached, corpus %s\n",
          name, n, cov, corp }' "$log"
}

echo "fuzzing: $# harnesses for $seconds s each, $jobs at once"
failed=()
running=()
names=("$@")

# The oldest of those that run.
collect ()
{
  local entry=${running[0]}
  running=("${running[@]:1}")
  if ! wait "${entry%%:*}"; then
    failed+=("${entry#*:}")
  fi
  report "${entry#*:}"
}

for harness in "${names[@]}"; do
  if ((${#running[@]} >= jobs)); then
    collect
  fi
  run "$harness" &
  running+=("$!:$harness")
done
while ((${#running[@]} > 0)); do
  collect
done

if ((${#failed[@]} == 0)); then
  echo "nothing found"
  exit 0
fi
for harness in "${failed[@]}"; do
  name=${harness#fuzz-}
  echo
  echo "$harness ended: the last lines of findings/$name.log"
  tail -n 40 "findings/$name.log"
  input=$(sed -n 's/.*Test unit written to \.\{0,2\}\/*//p' \
              "findings/$name.log" | tail -n 1)
  if [ -n "$input" ]; then
    echo "again, from $PWD:  V=1 ./$harness $input"
  fi
done
exit 1
