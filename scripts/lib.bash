# Shared by the scripts of this project; to be sourced from the project root. Bash builtins only: some callers have
# little else on PATH.

skipped=()

# skip WHAT: REASON - says that something was left out; on CI the caller counts that as a failure.
skip() {
    skipped+=("$1")
    printf 'SKIP %s\n' "$1"
}

# step NAME COMMAND... - runs a command under a heading and tells how long it took. Errors do not end a function that
# is run this way: it must return them.
step() {
    local name=$1 start=$SECONDS status=0
    shift
    printf '== %s\n' "$name"
    "$@" || status=$?
    if ((status == 0)); then
        printf '== %s: ok, %d s\n' "$name" "$((SECONDS - start))"
    else
        printf '== %s: FAILED, %d s\n' "$name" "$((SECONDS - start))"
    fi
    return "$status"
}

has() {
    command -v "$1" >/dev/null 2>&1
}

on_ci() {
    [[ ${CI:-} == true ]]
}

# apt_install PACKAGE... - fails where it is not ours to install: not root, or no apt.
apt_install() {
    ((EUID == 0)) && has apt-get || return 1
    apt-get update -qq >&2 || true
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
}

# The C compiler that the cryptographic library and SQLite are built with.
need_compiler() {
    has cc || apt_install gcc libc6-dev || printf 'no C compiler (cc) on PATH\n' >&2
}

need_cargo_fuzz() {
    if cargo fuzz --version >/dev/null 2>&1; then return; fi
    ((EUID == 0)) && cargo install cargo-fuzz --locked --version 0.13.2
}
