# Shared by the scripts beside it; to be sourced.

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "this needs root, and there is no sudo: $*"
    fi
}

# install_missing PROGRAM:PACKAGE… — installs the packages whose program is not there.
install_missing() {
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    install_packages "${missing[@]}"
}

install_packages() {
    [ $# -gt 0 ] || return 0
    command -v apt-get >/dev/null || fail "please install these packages, there is no apt-get here: $*"
    echo "installing: $*"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

require_cargo() {
    [ -x "$HOME/.cargo/bin/cargo" ] && PATH="$PATH:$HOME/.cargo/bin"
    command -v cargo >/dev/null || fail "Rust is missing; install it from https://rustup.rs and run this again"
}

require_fuse() {
    [ -c /dev/fuse ] || as_root modprobe fuse 2>/dev/null || true
    [ -c /dev/fuse ] || fail "/dev/fuse is missing: modprobe fuse; in a container: --device /dev/fuse --cap-add SYS_ADMIN"
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

# cargo_tool CRATE VERSION — installs a program of crates.io once per user, and sets `tool` to its path.
cargo_tool() {
    local root=${XDG_CACHE_HOME:-$HOME/.cache}/relayfile-tests/$1-$2
    tool=$root/bin/$1
    [ -x "$tool" ] || cargo install --locked --quiet "$1" --version "$2" --root "$root"
}

# Sets `bin` to the directory of the programs: RELAYFILE_BIN_DIR, or of target/release and target/debug what is newer.
find_programs() {
    bin=${RELAYFILE_BIN_DIR:-target/release}
    [ -n "${RELAYFILE_BIN_DIR-}" ] || [ ! target/debug/relayfile-mount -nt "$bin/relayfile-mount" ] || bin=target/debug
    [ -x "$bin/relayfile-mount" ] || fail "no programs in $bin: cargo build --bins, or name their directory in RELAYFILE_BIN_DIR"
    bin=$(cd "$bin" && pwd)
    echo "programs: $bin"
}
