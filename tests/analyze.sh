#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# gcc's and clang's analyzers and cppcheck over lib/ and filters/ext2/, those
# that are installed.  What they say is shown, and is an error, unless
# analyze.known says why it is not true.
#
# usage: analyze.sh SOURCE-DIRECTORY BUILD-DIRECTORY

set -euo pipefail

src=$1
build=$2
known=$src/tests/analyze.known
tmp=$(mktemp -d "${TMPDIR:-/tmp}/nbdkit-ext2.XXXXXX")
trap 'rm -rf "$tmp"' EXIT

read -ra flags <<< "$(pkg-config --cflags ext2fs com_err nbdkit)"
flags+=(-DHAVE_CONFIG_H -I"$build" -I"$build/filters/ext2"
        -I"$src/filters/ext2" -I"$src/lib")
files=("$src"/lib/*.c "$src"/filters/ext2/*.c)

# run TOOL COMMAND...: for each file; what it says goes to $tmp/TOOL.
run ()
{
  local tool=$1 f
  shift
  if ! command -v "$1" >/dev/null; then
    echo "$tool: not installed"
    return
  fi
  echo "$tool: ${#files[@]} files"
  for f in "${files[@]}"; do
    "$@" "${flags[@]}" "$f" 2>> "$tmp/$tool" ||
      echo "$f:0: warning: $tool failed [failed]" >> "$tmp/$tool"
  done
}

run gcc gcc -std=gnu11 -O1 -fanalyzer -c -o /dev/null
run clang clang -std=gnu11 --analyze -Xanalyzer -analyzer-output=text -o /dev/null
run cppcheck cppcheck -q --std=c11 --enable=warning,portability,performance \
    --suppress=missingIncludeSystem --suppress=missingInclude \
    --template='{file}:{line}: warning: {message} [{id}]'

# "TOOL FILE ID" of each warning, then its text.
for tool in gcc clang cppcheck; do
  [ -e "$tmp/$tool" ] || continue
  sed -n -E "s|^($src/)?((lib\|filters)/[^:]*):([0-9:]*): warning: (.*)\[([^]]*)\]\$|$tool \2 \6 \4 \5|p" \
      "$tmp/$tool"
done | sort -u > "$tmp/all"

bad=0
while read -r tool file id line text; do
  if grep -q "^$tool $file $id " "$known"; then
    continue
  fi
  echo "$file:$line $text($tool, $id)"
  bad=$((bad + 1))
done < "$tmp/all"

echo "$(wc -l < "$tmp/all") warnings, $bad without a reason"
[ "$bad" = 0 ]
