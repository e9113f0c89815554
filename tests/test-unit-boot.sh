#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# The systemd unit at work, under a systemd of its own in a container: it
# serves, keeps a second server off, ends clean, and what a client that had
# taken the server over would try, it cannot.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs nbdinfo systemd-nspawn
[ -z "${EXT2_SANITIZER:-}" ] || skip "a sanitizer needs more than is allowed"
[ "$(id -u)" = 0 ] || skip "systemd-nspawn needs root"

mkdir "$tmp/src" "$tmp/out" "$tmp/units"
make_raw "$tmp/src/vm.raw" 1M
img=$tmp/out/disk.img
make_fs "$img" 16M -t ext4 -d "$tmp/src"
cp "$abs_top_builddir/contrib/nbdkit-ext2@.socket" "$tmp/units"
filter=$(sed -n 's/.* --filter=\([^ ]*\) .*/\1/p' \
             "$abs_top_builddir/contrib/nbdkit-ext2@.service")
sed "s,$filter,/opt/ext2.so," "$abs_top_builddir/contrib/nbdkit-ext2@.service" \
    > "$tmp/units/nbdkit-ext2@.service"
# The same, but for the filter, and started at once.
sed -e "s,$filter,/opt/probe.so," -e "s,ext2file=exportname,," \
    -e 's,^\[Service\],&\nType=oneshot,' \
    "$abs_top_builddir/contrib/nbdkit-ext2@.service" \
    > "$tmp/units/nbdkit-probe@.service"
cp "$tmp/units/nbdkit-ext2@.socket" "$tmp/units/nbdkit-probe@.socket"
program=${NBDKIT_PROGRAM:-$(sed -n 's/^program=.*:-\(.*\)}$/\1/p' "$NBDKIT")}

cat > "$tmp/units/try.service" <<'END'
[Unit]
After=basic.target
[Service]
ExecStart=/bin/bash /out/try
ExecStopPost=/bin/systemctl poweroff --force --force
END
printf '[Unit]\nWants=try.service\n' > "$tmp/units/try.target"

# What happens inside.  It has this machine's /usr, and nothing else of it.
cat > "$tmp/out/try" <<END
exec > /out/log 2>&1
PATH=\$PATH:/usr/sbin
set -e -x
systemd-sysusers - < /opt/sysusers
mkdir /srv/vm
cp /out/disk.img /srv/vm
chown nbdkit-ext2 /srv/vm/disk.img
systemctl start nbdkit-ext2@srv-vm-disk.img.socket
uri="nbd+unix:///vm.raw?socket=/run/nbdkit-ext2/srv/vm/disk.img"
export unit_uri="\$uri"
# Beside a client of a server of root's.
$program -U - --filter=/opt/ext2.so file /srv/vm/disk.img ext2file=/vm.raw \\
    --run '/usr/bin/python3 -m nbd -u "\$uri" -c "import os
h.pwrite(b\"root\", 0)
h.flush()
os.system(\"nbdinfo --size \$unit_uri\")"' > /out/beside 2>&1
journalctl -o cat -u nbdkit-ext2@srv-vm-disk.img.service > /out/refused
nbdinfo --size "\$uri" > /out/size
# A second server, beside a client of the first.
coproc /usr/bin/python3 -c 'import nbd, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
h.pwrite(b"confined", 4096)
h.flush()
print("ready", flush=True)
sys.stdin.read()
h.shutdown()' "\$uri" 2>&1
read -r answer <&"\${COPROC[0]}"
echo "\$answer" > /out/ready
$program -U - --filter=/opt/ext2.so file /srv/vm/disk.img ext2file=/vm.raw \
    --run 'nbdinfo "\$uri"' > /out/second 2>&1 || :
pid=\$(systemctl show -P MainPID nbdkit-ext2@srv-vm-disk.img.service)
cat "/proc/\$pid/status" > /out/status
cat "/proc/\$pid/mountinfo" > /out/mountinfo
exec {COPROC[1]}>&-
wait "\$COPROC_PID" || :
systemctl stop nbdkit-ext2@srv-vm-disk.img.socket \\
    nbdkit-ext2@srv-vm-disk.img.service
systemctl show -P Result nbdkit-ext2@srv-vm-disk.img.service > /out/result
journalctl -o cat -u nbdkit-ext2@srv-vm-disk.img.service > /out/journal
cp /srv/vm/disk.img /out/disk.img
systemctl start nbdkit-probe@srv-vm-disk.img.service || :
journalctl -o cat -u nbdkit-probe@srv-vm-disk.img.service > /out/probe
END

built=$abs_top_builddir
keep=()
[ -d /run/systemd/system ] || keep=(--register=no --keep-unit)
machine=nbdkit-ext2-$$
bounded systemd-nspawn -q -D / --volatile=yes --private-network \
        --machine="$machine" "${keep[@]}" --boot --console=pipe \
        --bind-ro="$tmp/units:/etc/systemd/system" --bind="$tmp/out:/out" \
        --bind-ro="$built/filters/ext2/.libs/nbdkit-ext2-filter.so:/opt/ext2.so" \
        --bind-ro="$built/tests/.libs/probe-filter.so:/opt/probe.so" \
        --bind-ro="$srcdir/../contrib/nbdkit-ext2.sysusers:/opt/sysusers" \
        -- systemd.unit=try.target </dev/null >"$tmp/nspawn" 2>&1 || :
rmdir "/run/systemd/nspawn/propagate/$machine" 2>/dev/null || :
log=$tmp/out/log
[ -e "$log" ] || {
    tail -n 5 "$tmp/nspawn"
    skip "systemd-nspawn cannot boot here"
}
cp "$log" "$tmp/log"            # shown if the test fails
cat "$tmp/out/journal" >> "$tmp/log" || :

[ "$(cat "$tmp/out/size")" = 1048576 ] || fail "the unit does not serve"
[ "$(cat "$tmp/out/ready")" = ready ] || fail "a client could not write"
! grep -q -x 1048576 "$tmp/out/beside" ||
    fail "the unit serves what root's server has"
grep -q 'is being written by' "$tmp/out/refused" || {
    cat "$tmp/out/beside" "$tmp/out/refused" >&2
    fail "the unit does not say why it does not serve"
}
grep -q 'is being written by' "$tmp/out/second" || {
    cat "$tmp/out/second" >&2
    fail "a second server was not kept off"
}
grep -E '^(Uid|CapBnd|CapEff|NoNewPrivs|Seccomp):' "$tmp/out/status"
for want in $'NoNewPrivs:\t1' $'Seccomp:\t2' $'CapEff:\t0000000000000000' \
            $'CapBnd:\t0000000000000000'; do
    grep -q -x "$want" "$tmp/out/status" || fail "not '$want'"
done
! grep -q $'^Uid:\t0' "$tmp/out/status" || fail "the server is root"
[ "$(cat "$tmp/out/result")" = success ] || fail "the server did not end well"
! grep -q warning "$tmp/out/journal" || fail "the server has warnings"
printf root | dd of="$tmp/src/vm.raw" bs=1 conv=notrunc status=none
printf confined |
    dd of="$tmp/src/vm.raw" bs=1 seek=4096 conv=notrunc status=none
check_file "$img" /vm.raw "$tmp/src/vm.raw"

# Where it may write at all.
awk '$6 ~ /^rw/ { print $5 }' "$tmp/out/mountinfo" | sort > "$tmp/writable"
diff - "$tmp/writable" <<'END' || fail "it may write elsewhere"
/dev/pts
/proc
/run/lock
/srv/vm/disk.img
END

# More than nbdkit-ext2-confined: its own directory of /proc, without which
# systemd cannot start it; and processes, as confined as it is itself, which
# systemd cannot tell from threads.
grep '^probe: ' "$tmp/out/probe"
diff - <(grep 'it can$' "$tmp/out/probe") <<'END' || fail "it can do too much"
probe: read /proc: it can
probe: start a process: it can
END
