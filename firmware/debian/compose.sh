# Makes the file system of a root. It runs as root, or as the root of a user namespace, in which the
# caller's folders cannot be written: so everything comes and goes through descriptors.
#   stdin  tar of the root, of Debian's packages only
#   3      tar of deb/*.deb, which are installed, and files/, which are copied over the root
#   stdout the ext4 file system
#   4      dpkg's list of the packages
# The environment has SOURCE_DATE_EPOCH, EXT4_UUID, SLACK (per cent of free space), KERNEL, HOLD (a package),
# FLASHED (file of the packages) and DISABLED, links below /etc/systemd/system.
set -eu
work=$(mktemp -d "${TMPDIR:-/tmp}/toe-root-XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir "$root"
tar -x --numeric-owner -p -C "$root" --xattrs --xattrs-include='*' --exclude='./dev/*'
tar -x --numeric-owner -p -C "$work" <&3

# The root's own programs, whatever the host has of them.
own() {
	program=$1
	shift
	"$root"/lib64/ld-linux-x86-64.so.2 --library-path "$root/usr/lib/x86_64-linux-gnu" "$root$program" "$@"
}

# The host's dpkg would look for the users and groups of this file on the host.
overrides=$root/var/lib/dpkg/statoverride
[ ! -e "$overrides" ] || mv "$overrides" "$work/statoverride"
dpkg --root="$root" --force-confnew,unsafe-io --log=/dev/null --install "$work"/deb/*.deb >&2
# A card starts a kernel with its own modules only from another slot: apt leaves the package alone.
echo "$HOLD hold" | dpkg --root="$root" --set-selections
[ ! -e "$work/statoverride" ] || mv "$work/statoverride" "$overrides"
cp -a "$work/files/." "$root/"
dpkg-query --admindir="$root/var/lib/dpkg" -W -f '${Package} ${Version} ${Architecture}\n' >"$root$FLASHED"
[ ! -d "$root/usr/lib/modules/$KERNEL" ] || own /usr/sbin/depmod -b "$root" "$KERNEL" >&2

set -f
for link in $DISABLED; do
	find "$root/etc/systemd/system" -path "*/$link" -type l -delete
done
set +f
# What a card makes for itself, what only the build had, and what differs from one build to the next.
rm -rf "$root"/etc/ssh/ssh_host_* "$root"/etc/hostname "$root"/etc/machine-id "$root"/var/lib/dbus/machine-id \
	"$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb \
	"$root"/var/lib/dpkg/*-old "$root"/var/cache/debconf/*-old "$root"/var/cache/ldconfig/* \
	"$root"/var/lib/systemd/catalog/database "$root"/var/lib/systemd/random-seed "$root"/etc/*- \
	"$root"/boot/* "$root"/tmp/* "$root"/run/*
find "$root/var/log" -type f -delete
: >"$root/etc/machine-id"
: >"$root/etc/resolv.conf"
cat "$root/var/lib/dpkg/status" >&4
find "$root" -newermt "@$SOURCE_DATE_EPOCH" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +

blocks=$(du -s --apparent-size -B 4096 "$root" | cut -f 1)
inodes=$(find "$root" | wc -l)
# Each file takes whole blocks, and a file has half a block to spare.
blocks=$(((blocks + inodes / 2) * (100 + SLACK) / 100 + 4096))
export E2FSPROGS_FAKE_TIME="$SOURCE_DATE_EPOCH" MKE2FS_DETERMINISTIC=1
own /usr/sbin/mke2fs -q -t ext4 -b 4096 -m 1 -J size=8 -i 8192 -L toe-root -U "$EXT4_UUID" \
	-E "hash_seed=$EXT4_UUID,root_owner=0:0,lazy_itable_init=1" -d "$root" "$work/root.ext4" "${blocks}" >&2
cat "$work/root.ext4"
