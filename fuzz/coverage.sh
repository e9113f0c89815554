#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors
#
# Which lines of lib/ the inputs in the corpora reach: those of the source
# tree, and those that fuzzing in BUILD-DIRECTORY has added.  Builds with
# clang's own instrumentation in BUILD-DIRECTORY/coverage.
#
# usage: coverage.sh SOURCE-DIRECTORY BUILD-DIRECTORY HARNESS...

set -euo pipefail

src=$1
build=$2
shift 2
mkdir -p "$build/coverage"
cd "$build/coverage"
rm -f ./*.profraw

if ! [ -e config.status ]; then
  "$src/configure" CC=clang \
    CFLAGS="-g -O1 -fprofile-instr-generate -fcoverage-mapping" >/dev/null
fi
make -s -C lib
make -s -C fuzz "$@"

objects=()
for harness in "$@"; do
  name=${harness#fuzz-}
  shopt -s nullglob
  inputs=("$src/fuzz/corpus/$name"/* "$build/corpus/$name"/*)
  shopt -u nullglob
  printf '%s\0' "${inputs[@]}" |
    LLVM_PROFILE_FILE="$PWD/$name-%p.profraw" \
      xargs -0 -n 200 "fuzz/$harness" >/dev/null 2>"$name.log" ||
    echo "$harness: an input ends it, see $PWD/$name.log"
  objects+=(-object "fuzz/$harness")
done
llvm-profdata merge -o all.profdata ./*.profraw
llvm-cov report "${objects[@]:1}" -instr-profile=all.profdata "$src"/lib/*.c |
  awk '/^Filename/ { print "lines  missed  reached  file of lib/" }
       /\.c / || /^TOTAL/ { printf "%5d  %6d  %7s  %s\n", $8, $9, $10, $1 }'
