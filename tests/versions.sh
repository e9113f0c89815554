#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors
#
# Builds and tests on other releases of Debian, for other processors and with
# another C library.  Needs root, debootstrap and a mirror of Debian.
#
#   versions.sh [NAME...]    (make check-versions VERSIONS='NAME...')
#
# trixie, sid         ./quickstart's demonstration; warnings of gcc and clang
#                     are errors; all the tests
# i386, s390x, armel  cross-built, warnings are errors; nbdkit loads the filter;
#                     unit tests, all under qemu
# musl                lib/ with the C library musl; unit tests
#
# From the environment:
#   VERSIONS_CACHE  where the trees are kept: 3 GB, used again
#   JOBS            compilers and tests at once, 2 by default
#   UNITS           unit tests to run instead of those chosen here

set -euo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${VERSIONS_CACHE:-${TMPDIR:-/var/tmp}/nbdkit-ext2-trees}
jobs=${JOBS:-2}
all=(trixie sid i386 s390x armel musl)
results=()
status=0

# All but those that take minutes when they are emulated.
units=${UNITS:-test-alloc test-commit test-errors test-extent-tree test-group \
test-hints test-hostile test-indirect test-io-errors test-journal test-mcache \
test-mmp test-orphan test-overlap test-path test-place test-range test-runs \
test-spread-lock test-super test-super-atomic test-super-write}

die ()
{
  echo "versions.sh: $*" >&2
  exit 1
}

# record NAME STEP RESULT
record ()
{
  results+=("$(printf '%-8s %-28s %s' "$1" "$2" "$3")")
  echo "${results[-1]}"
  case $3 in
    failed* | *[1-9]\ failed*) status=1 ;;
  esac
}

# --- trees -------------------------------------------------------------------

# in_tree SUITE SCRIPT [ARGUMENT...]: a script of bash in a tree; its mounts
# and processes end with it.  /src there is the source.
in_tree ()
{
  local tree=$cache/$1-amd64
  shift
  # shellcheck disable=SC2016 # expanded inside
  unshare --mount --pid --fork --kill-child bash -euc '
    tree=$1
    shift
    mount --rbind /dev "$tree/dev"
    mount -t proc proc "$tree/proc"
    mount -t sysfs sysfs "$tree/sys"
    mount -t tmpfs -o mode=1777 tmp "$tree/tmp"
    cp /etc/resolv.conf "$tree/etc/"
    # Not the variables of this side: its PATH, TMPDIR and Python.
    exec chroot "$tree" env -i HOME=/root TERM=dumb LC_ALL=C.UTF-8 \
      PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
      DEBIAN_FRONTEND=noninteractive bash -euo pipefail -c "$@"' \
    bash "$tree" "$1" bash "${@:2}" </dev/null
}

make_tree ()
{
  local tree=$cache/$1-amd64
  if ! [ -e "$tree/.made" ]; then
    rm -rf "$tree"
    debootstrap --variant=minbase --arch=amd64 "$1" "$tree"
    # Mirrors may lag behind, and clocks be wrong.
    echo 'Acquire::Check-Valid-Until "false"; Acquire::Check-Date "false";' \
      >"$tree/etc/apt/apt.conf.d/99versions"
    touch "$tree/.made"
  fi
  rm -rf "$tree/src"
  mkdir "$tree/src"
  tar -C "$top" -cf - --exclude=./build --exclude='./build-*' --exclude=./.git \
    --exclude=./nbdkit --exclude=./configure --exclude=autom4te.cache . |
    tar -C "$tree/src" -xf -
}

# step NAME STEP SUITE SCRIPT [ARGUMENT...]: says how it ended; what it said
# last, if its last line has figures.
step ()
{
  local name=$1 step=$2 log=$cache/$1.log last
  shift 2
  printf '\n=== %s\n' "$step" >>"$log"
  if in_tree "$@" >>"$log" 2>&1; then
    last=$(tail -n 1 "$log")
    [[ $last == *\ passed,* ]] || last=passed
    record "$name" "$step" "$last"
  else
    record "$name" "$step" "failed: see $log"
    return 1
  fi
}

# Of the tests in a build directory, as automake left them; for in_tree.
# shellcheck disable=SC2016
count='
count ()
{
  local t n
  for t in "$1"/tests/*.trs; do
    case $(sed -n "s/^:global-test-result: *//p" "$t") in
      SKIP) echo "skipped: $(basename "$t" .trs):" \
              "$(grep -v "^SKIP .*exit status" "${t%.trs}.log" | tail -n 1)" ;;
      FAIL | ERROR | XPASS) echo "failed: $t"; tail -n 60 "${t%.trs}.log" ;;
    esac
  done
  cat "$1"/tests/*.trs | sed -n "s/^:global-test-result: *//p" |
    awk "{ n[\$1]++ }
         END { printf \"%d passed, %d failed, %d skipped\n\", n[\"PASS\"],
                      n[\"FAIL\"] + n[\"ERROR\"], n[\"SKIP\"] }"
}
'

# unit_tests DIRECTORY UNITS [COMMAND...]: runs them by COMMAND, as a script
# for in_tree.  (make check would build all the others too.)
# shellcheck disable=SC2016
unit_tests='
unit_tests ()
{
  local t status passed=0 failed=0 skipped=0 units=$2
  cd "$1/tests"
  shift 2
  export EXT2_SANITIZER=emulated srcdir=/src/tests
  for t in $units; do
    status=0
    "$@" "./$t" >"$t.log" 2>&1 || status=$?
    case $status in
      0) passed=$((passed + 1)) ;;
      77) skipped=$((skipped + 1)); echo "skipped: $t: $(tail -n 1 "$t.log")" ;;
      *) failed=$((failed + 1)); echo "failed: $t"; tail -n 60 "$t.log" ;;
    esac
  done
  echo "$passed passed, $failed failed, $skipped skipped"
}
'

# --- other releases ----------------------------------------------------------

native ()
{
  local suite=$1
  # shellcheck disable=SC2016
  step "$suite" "quickstart, warnings of gcc" "$suite" '
    cd /src && CI=true JOBS=$1 ./quickstart' "$jobs" || return 0
  # shellcheck disable=SC2016
  step "$suite" "warnings of clang" "$suite" '
    apt-get install -y --no-install-recommends clang
    mkdir /src/build-clang && cd /src/build-clang
    ../configure CC=clang CFLAGS="-g -O0" --enable-gcc-warnings
    make -j"$1" && make -j"$1" check TESTS=' "$jobs" || :
  # shellcheck disable=SC2016
  step "$suite" "all the tests" "$suite" "$count"'
    cd /src/build
    make -j"$1" check TESTS=
    make -k -j"$1" check || :
    count .' "$jobs" || :
}

# --- other processors, from Debian 12 ----------------------------------------

# TRIPLET and the name of qemu for an architecture of Debian.
processor ()
{
  case $1 in
    i386) triplet=i686-linux-gnu dir=i386-linux-gnu qemu=i386 ;;
    s390x) triplet=s390x-linux-gnu dir=$triplet qemu=s390x ;;
    armel) triplet=arm-linux-gnueabi dir=$triplet qemu=arm ;;
    *) die "$1 is not known" ;;
  esac
}

foreign ()
{
  local arch=$1 triplet dir qemu
  processor "$arch"
  # Packages of that processor are unpacked, not installed.
  # shellcheck disable=SC2016
  step "$arch" "packages" bookworm '
    arch=$1 triplet=$2 root=/sysroot/$1
    apt-get update
    apt-get install -y --no-install-recommends autoconf automake libtool make \
      pkg-config perl e2fsprogs nbdkit qemu-user-static gcc-"$triplet"
    [ ! -e "$root/made" ] || exit 0
    mkdir -p "$root"/apt/lists/partial "$root"/cache/archives/partial
    set -- -o APT::Architecture="$arch" -o APT::Architectures="$arch" \
      -o Dir::State="$root/apt" -o Dir::State::status=/dev/null \
      -o Dir::Cache="$root/cache"
    apt-get "$@" update
    apt-get "$@" install -y --download-only --no-install-recommends libc6-dev \
      libatomic1 nbdkit nbdkit-plugin-dev libext2fs-dev comerr-dev libcmocka-dev
    for deb in "$root"/cache/archives/*.deb; do
      dpkg -x "$deb" "$root"
    done
    # Absolute links lead out of it.
    find "$root" -type l -lname "/*" | while read -r link; do
      ln -sfn "$root$(readlink "$link")" "$link"
    done
    touch "$root/made"' "$arch" "$triplet" || return 0
  # shellcheck disable=SC2016
  step "$arch" "build, warnings as errors" bookworm '
    triplet=$2 root=/sysroot/$1 dir=$3
    rm -rf /build-"$1" && mkdir /build-"$1"
    [ -e /src/configure ] || (cd /src && autoreconf -fi)
    cd /build-"$1"
    export PKG_CONFIG_SYSROOT_DIR=$root
    export PKG_CONFIG_LIBDIR=$root/usr/lib/$dir/pkgconfig:$root/usr/share/pkgconfig
    /src/configure --host="$triplet" --enable-gcc-warnings CFLAGS="-O1 -g" \
      CC="$triplet-gcc --sysroot=$root" \
      LDFLAGS="-L$root/usr/lib/$dir -Wl,-rpath-link,$root/usr/lib/$dir"
    make -j"$4"
    make -j"$4" -C tests libtestimage.la $5' \
    "$arch" "$triplet" "$dir" "$jobs" "$units" || return 0
  # shellcheck disable=SC2016
  step "$arch" "nbdkit loads the filter" bookworm '
    root=/sysroot/$1
    qemu-"$2"-static -L "$root" "$root"/usr/bin/nbdkit \
      --filter=/build-"$1"/filters/ext2/.libs/nbdkit-ext2-filter.so \
      "$root"/usr/lib/*/nbdkit/plugins/nbdkit-null-plugin.so \
      ext2file=/vm.raw --dump-plugin' "$arch" "$qemu" || :
  # shellcheck disable=SC2016
  step "$arch" "unit tests" bookworm "$unit_tests"'
    unit_tests /build-"$1" "$2" qemu-"$3"-static -L /sysroot/"$1"' \
    "$arch" "$units" "$qemu" || :
}

# --- another C library -------------------------------------------------------

musl ()
{
  # What the library and the tests need is built with it too, once.
  # shellcheck disable=SC2016
  step musl "packages" bookworm '
    apt-get update
    apt-get install -y --no-install-recommends autoconf automake libtool make \
      pkg-config perl e2fsprogs nbdkit nbdkit-plugin-dev gcc musl-tools \
      linux-libc-dev dpkg-dev libext2fs-dev comerr-dev libcmocka-dev
    [ ! -e /musl/made ] || exit 0
    rm -rf /musl && mkdir -p /musl/include /musl/lib && cd /musl
    sed "s/^deb /deb-src /" /etc/apt/sources.list >sources
    apt-get -o Dir::Etc::SourceList=/musl/sources update
    apt-get -o Dir::Etc::SourceList=/musl/sources source --download-only \
      e2fsprogs cmocka
    for f in *.orig.tar.*; do case $f in *.asc) ;; *) tar -xf "$f" ;; esac; done
    for d in linux asm-generic; do ln -s /usr/include/$d include/; done
    ln -s /usr/include/x86_64-linux-gnu/asm include/
    ln -s /usr/include/nbdkit-*.h include/
    cd e2fsprogs-*/
    ./configure CC=musl-gcc CPPFLAGS=-I/musl/include --disable-nls \
      --disable-fsck --disable-uuidd --disable-elf-shlibs --disable-fuse2fs
    make -j"$1" libs
    mkdir ../include/ext2fs ../include/et
    cp lib/ext2fs/*.h ../include/ext2fs/
    cp lib/et/com_err.h ../include/et/
    cp lib/libext2fs.a lib/libcom_err.a ../lib/
    cd ../cmocka-*/
    cp include/*.h ../include/
    musl-gcc -O1 -g -c -Iinclude -DHAVE_STDINT_H -DHAVE_INTTYPES_H \
      -DHAVE_SIGNAL_H -DHAVE_STRSIGNAL -DHAVE_CLOCK_REALTIME \
      -DHAVE_STRUCT_TIMESPEC -DHAVE_GCC_THREAD_LOCAL_STORAGE -DHAVE_UNISTD_H \
      -DHAVE_MALLOC_H -DHAVE_TIME_H -DHAVE_STRINGS_H -DHAVE_SYS_TYPES_H \
      -DHAVE_STDLIB_H -DHAVE_STRING_H -DHAVE_SETJMP_H src/cmocka.c
    ar rc ../lib/libcmocka.a cmocka.o
    touch /musl/made' "$jobs" || return 0
  # shellcheck disable=SC2016
  step musl "build, warnings as errors" bookworm '
    rm -rf /build-musl && mkdir /build-musl
    [ -e /src/configure ] || (cd /src && autoreconf -fi)
    cd /build-musl
    /src/configure CC=musl-gcc --enable-gcc-warnings CFLAGS="-O1 -g" \
      EXT2FS_CFLAGS=-I/musl/include EXT2FS_LIBS="-L/musl/lib -lext2fs" \
      COM_ERR_CFLAGS=-I/musl/include/et COM_ERR_LIBS=-lcom_err \
      CMOCKA_CFLAGS=-I/musl/include CMOCKA_LIBS=-lcmocka \
      NBDKIT_CFLAGS=-I/musl/include NBDKIT_LIBS=" "
    make -j"$1" -C lib
    # The library of the filter could not be loaded by a nbdkit of glibc.
    make -j"$1" -C filters/ext2 nbdkit_ext2_filter_la-ext2.lo \
      nbdkit_ext2_filter_la-nextdev.lo nbdkit_ext2_filter_la-share.lo
    make -j"$1" -C tests libtestimage.la $2' "$jobs" "$units" || return 0
  # shellcheck disable=SC2016
  step musl "unit tests" bookworm "$unit_tests"'
    unit_tests /build-musl "$1" env' "$units" || :
}

# -----------------------------------------------------------------------------

# In a function, so that this file may change meanwhile.
main ()
{
  local name suite prepared=

  [ "$(id -u)" = 0 ] || die "needs root, for debootstrap and chroot"
  command -v debootstrap >/dev/null || die "debootstrap is not installed"
  (($# > 0)) || set -- "${all[@]}"
  mkdir -p "$cache"
  for name; do
    case $name in
      trixie | sid) suite=$name ;;
      *) suite=bookworm ;;
    esac
    : >"$cache/$name.log"
    case " $prepared " in
      *" $suite "*) ;;
      *) make_tree "$suite" >>"$cache/$name.log" 2>&1 || {
           record "$name" "debootstrap" "failed: see $cache/$name.log"
           continue
         }
         prepared="$prepared $suite" ;;
    esac
    case $name in
      trixie | sid) native "$name" ;;
      musl) musl ;;
      *) foreign "$name" ;;
    esac
  done

  echo
  printf '%s\n' "${results[@]}"
  exit $status
}

main "$@"
