# shellcheck shell=bash
# What the commands of this folder share: sourced, never run.

export PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-auto}"
if [ "${CI:-}" = true ]; then
    export CARGO_INCREMENTAL=0 # half the disk, where nothing is built twice
fi

RUST_MIN=1.95
STEPS=()

note() { printf '\n==> %s\n' "$*"; }

fail() {
    printf '\nerror: %s\n' "$*" >&2
    exit 1
}

# step NAME COMMAND…: says what runs, and how long it took.
step() {
    local name=$1 began=$SECONDS line
    shift
    note "$name: $*"
    "$@" || fail "$name failed after $((SECONDS - began)) s; to repeat it: $*"
    line=$(printf '%5d s  %s' $((SECONDS - began)) "$name")
    STEPS+=("$line")
    printf -- '--- %s\n' "$line"
}

summary() {
    note "all steps passed"
    printf '%s\n' "${STEPS[@]}"
    printf '%5d s  in total\n' "$SECONDS"
}

has() { command -v "$1" >/dev/null 2>&1; }

# As root, or by sudo where that asks nothing.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        has sudo || fail "this needs root: $*"
        sudo -n "$@"
    fi
}

need_rust() {
    has cargo || fail "no cargo: install Rust $RUST_MIN or newer from https://rustup.rs, then run this again"
    local found
    found=$(rustc --version | cut -d ' ' -f 2)
    if [ "$(printf '%s\n' "$RUST_MIN" "$found" | sort -V | head -n 1)" != "$RUST_MIN" ]; then
        fail "Rust $found is too old: rustup update stable (needs $RUST_MIN)"
    fi
}

# need_component COMMAND COMPONENT: a part of the toolchain.
need_component() {
    if ! cargo "$1" --version >/dev/null 2>&1; then
        has rustup || fail "no cargo $1: install the component $2 of the Rust toolchain"
        rustup component add "$2"
    fi
}

# A linker for all crates, a compiler for aws-lc, and make for jemalloc. Nothing
# else: no protoc, no cmake, no OpenSSL.
need_compiler() {
    if ! has cc || ! has make; then
        has apt-get || fail "no C compiler or no make: install gcc (or clang) and make, then run this again"
        note "installing a C compiler"
        as_root apt-get update -qq
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends gcc libc6-dev make </dev/null
    fi
}

# The supervisor that ours is held against runs in it; escript is all that is
# called. The package brings no graphics, no documentation, no Java.
need_erlang() {
    if ! has escript; then
        has apt-get || fail "no Erlang: install Erlang/OTP 24 or newer (Fedora, Alpine, Homebrew: erlang), so that there is an escript, then run this again"
        note "installing Erlang"
        as_root apt-get update -qq
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends erlang-base </dev/null
    fi
}

# A real mail server for the tests of mail: Debian's package is of the system's
# own Python.
need_smtp_server() {
    if ! /usr/bin/python3 -c 'import aiosmtpd' 2>/dev/null && ! python3 -c 'import aiosmtpd' 2>/dev/null; then
        has apt-get || fail "no aiosmtpd: pip install aiosmtpd, so that python3 -c 'import aiosmtpd' works, then run this again"
        note "installing a mail server"
        as_root apt-get update -qq
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-aiosmtpd </dev/null
    fi
}
