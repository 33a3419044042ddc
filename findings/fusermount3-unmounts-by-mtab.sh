#!/usr/bin/env bash
# fusermount3 lets an ordinary user mount on a machine that has no /etc/mtab, and then refuses to take the same mount away;
# umount(8), which libfuse's own documentation does not name for users, does it.
#
# Where two things meet: Debian makes /etc/mtab not by a package but by systemd-tmpfiles at boot, so that a system made by
# debootstrap or mmdebstrap, and a container made from one, is without. fusermount3 complains there and mounts all the same, status 0. To unmount it reads
# mtab to see whether the mount is the user's, instead of /proc/self/mountinfo, where the kernel says user_id= itself. libmount does
# go by the kernel's list and allows it for FUSE mounts of the same user.
#
# Seen with: fuse3 3.14.0-4 (Debian 12), umount of util-linux 2.38.1, kernel 6.18. Needs root (for a mount namespace and the setuid
# bit), apt-get, /usr/bin/python3, /dev/fuse. Fails when either side behaves otherwise.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root" >&2 && exit 2; }
work=$(mktemp -d /var/tmp/finding.XXXXXX)
trap 'rm -rf --one-file-system "$work"' EXIT
chmod 755 "$work"
cd "$work"
mkdir debs fuse3 etc-upper etc-work mnt
(cd debs && apt-get download -qq fuse3=3.14.0-4 >/dev/null 2>&1)
dpkg -x debs/fuse3_*.deb fuse3
chmod u+s fuse3/bin/fusermount3
chown 65534:65534 mnt
umount --version

# What libfuse does: the helper mounts and passes the descriptor of /dev/fuse back over a socket. No filesystem answers behind it, and
# none has to: only the mount table is asked about. When this process ends, the mount is an endpoint without a server.
cat >mount.py <<'PY'
import array, os, socket, subprocess, sys
helper, mountpoint = sys.argv[1:]
ours, theirs = socket.socketpair()
environment = dict(os.environ, _FUSE_COMMFD=str(theirs.fileno()))
subprocess.run([helper, "-o", "fsname=finding,subtype=finding", "--", mountpoint], env=environment, pass_fds=[theirs.fileno()], check=True, stderr=subprocess.DEVNULL)
_, passed, _, _ = ours.recvmsg(1, socket.CMSG_LEN(4))
device = array.array("i", passed[0][2])[0]
print("mounted:", any(f" {mountpoint} " in line for line in open("/proc/self/mountinfo")))
for command in ([helper, "-u", "--", mountpoint], ["umount", "--", mountpoint]):
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    there = any(f" {mountpoint} " in line for line in open("/proc/self/mountinfo"))
    print(os.path.basename(command[0]), "status", done.returncode, "still mounted:", there, done.stderr.strip().replace(os.path.dirname(command[0]) + "/", ""))
PY

export work
unshare --mount --propagation private bash -euo pipefail -s >seen <<'INSIDE'
# The same /etc, without mtab; and a device that users may open, as udev makes it.
mknod etc-upper/mtab c 0 0
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$work/etc-upper,workdir=$work/etc-work" /etc
test ! -e /etc/mtab
mkdir dev && mount -t tmpfs tmpfs dev && mknod -m 666 dev/fuse c 10 229 && mount --bind dev/fuse /dev/fuse
setpriv --reuid 65534 --regid 65534 --clear-groups /usr/bin/python3 mount.py "$work/fuse3/bin/fusermount3" "$work/mnt"
INSIDE
cat seen
expected='mounted: True
fusermount3 status 1 still mounted: True fusermount3: failed to open /etc/mtab: No such file or directory
umount status 0 still mounted: False'
[ "$(sed 's/ *$//' seen)" = "$expected" ] || { printf 'it has changed; expected:\n%s\n' "$expected" >&2 && exit 1; }
echo "as described"
