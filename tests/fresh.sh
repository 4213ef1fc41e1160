#!/usr/bin/env bash
# Tries the README's two commands as a new user would: in a clone of this checkout, on a clean Debian made for the
# purpose. Guarantees that nothing of the host helps them but its resolver, its CA certificates and cargo's cache of
# crates, and that no mount and no process outlives this script, however it ends.
set -euo pipefail
# shellcheck source=tests/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"

usage() {
    cat <<'END'
usage: tests/fresh.sh [--suite bookworm|trixie] [--state empty|stale|rustup] [-- ARGUMENT...]

Makes a Debian with debootstrap in a scratch folder, clones this checkout (what is committed) into it, and runs
./qemu-run.sh and ./tests/run.sh there. Needs root. TMPDIR says where the folder is made (default: /var/tmp); it takes
6 GiB and is removed at the end.

  --suite NAME   Debian 12 (bookworm, the default) or 13 (trixie)
  --state NAME   what the machine already has:
                 empty   nothing, not even package lists (the default)
                 stale   package lists without the security suite; the C++ half of libclang
                 rustup  a rustup whose toolchain lacks the target, first in the PATH, with RUSTUP_AUTO_INSTALL=0; the
                         C++ half of libclang
  ARGUMENT...    what ./tests/run.sh is told; see its --help

The exit code is 0 if both commands went well; 1 if one did not; 3 where no Debian can be made; 2 if the command line or
the machine is at fault. The logs of failed checks are kept in target/fresh.
END
}

suite=bookworm state=empty told=()
while (($#)); do
    case $1 in
    --suite | --state)
        (($# > 1)) || die "$1 needs a value"
        [[ $1 == --suite ]] && suite=$2 || state=$2
        shift 2
        ;;
    --) told=("${@:2}") && break ;;
    --help) usage && exit 0 ;;
    *) die "unknown argument $1; see --help" ;;
    esac
done
[[ $suite == bookworm || $suite == trixie ]] || die "--suite takes bookworm or trixie, not '$suite'"
[[ $state == empty || $state == stale || $state == rustup ]] || die "--state takes empty, stale or rustup, not '$state'"

# no_debian REASON...: exit code 3.
no_debian() {
    say "error: no Debian can be made here: $*"
    exit 3
}

((EUID == 0)) || no_debian "debootstrap needs root"
unshare --mount --pid --fork true 2>/dev/null || no_debian "no mounts of its own (unshare)"
(require debootstrap) || no_debian "debootstrap is not here"
[[ -n $(type -P git) ]] || no_debian "git is not here, to clone with"
[[ -e /usr/share/debootstrap/scripts/$suite ]] || no_debian "debootstrap does not know $suite"

# --- the scratch folder, and its end --------------------------------------------------------------------------------

base=${TMPDIR:-/var/tmp}
# Folders of runs that were killed outright.
for left in "$base"/carveout-fresh.*; do
    owner=${left##*carveout-fresh.} owner=${owner%%.*}
    [[ ! -d $left || -d /proc/$owner ]] || rm -rf --one-file-system -- "$left"
done
scratch=$(mktemp -d "$base/carveout-fresh.$$.XXXXXX")
root=$scratch/root inside=''
# shellcheck disable=SC2317 # the trap calls it
clean_up() {
    # The namespace's first process dies with unshare, and with it all others in there; their mounts were theirs alone.
    [[ -z $inside ]] || kill -KILL "$inside" 2>/dev/null || true
    [[ -z $inside ]] || wait "$inside" 2>/dev/null || true
    rm -rf --one-file-system -- "$scratch" || { sleep 1 && rm -rf --one-file-system -- "$scratch"; }
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# in_namespace COMMAND...: runs it with mounts and processes of its own, which end with it, and with this script.
in_namespace() {
    local status=0
    setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child -- "$@" &
    inside=$!
    wait "$inside" || status=$?
    inside=''
    return "$status"
}

# in_root VARIABLE=VALUE... COMMAND...: runs it in the new Debian.
in_root() {
    # shellcheck disable=SC2016 # expanded inside
    in_namespace bash -euo pipefail -c '
        root=$1 && shift
        mount -t proc proc "$root/proc"
        mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
        mount -t tmpfs tmpfs "$root/dev/shm"
        exec chroot "$root" env -i HOME=/root TERM="${TERM:-dumb}" "$@"' \
        - "$root" PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "${handed[@]}" "$@"
}

# --- a clean Debian -------------------------------------------------------------------------------------------------

# The mirrors that this machine's own apt uses, where it is a Debian that says so; else debootstrap's.
mirror_of() {
    # shellcheck disable=SC2016 # apt expands it
    apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        awk -v label="$1" '$1 == label && !n++ { print $2 }'
}
mirror=$(mirror_of Debian) || mirror=''
security=$(mirror_of Debian-Security) || security=''

start=$SECONDS
say "making: a clean Debian, $suite, in $scratch; about a minute"
in_namespace debootstrap --variant=minbase "$suite" "$root" ${mirror:+"$mirror"} >"$scratch/log" 2>&1 ||
    no_debian "debootstrap: $(tail -n 1 "$scratch/log")"
read -r _ mirror _ <"$root/etc/apt/sources.list"
: "${security:=${mirror%/debian*}/debian-security}"

cp -L -- /etc/resolv.conf "$root/etc/resolv.conf"
# Nothing here is built twice.
handed=(CARGO_INCREMENTAL=0)
for name in http_proxy https_proxy no_proxy; do
    [[ -z ${!name:-} ]] || handed+=("$name=${!name}")
done
# For cargo alone: whether the scripts install ca-certificates is part of what is tried.
look certificates && cp -L -- "$FOUND" "$root/etc/host-certificates.crt" &&
    handed+=(CARGO_HTTP_CAINFO=/etc/host-certificates.crt)
cache=${CARGO_HOME:-$HOME/.cargo}/registry
if [[ -d $cache/cache ]]; then
    mkdir -p "$root/root/.cargo/registry"
    cp -r -- "$cache/cache" "$cache/index" "$root/root/.cargo/registry"
fi

sources() {
    echo "deb $mirror $suite main"
    echo "deb $mirror $suite-updates main"
    echo "deb $security $suite-security main"
}
cpp_half() {
    # shellcheck disable=SC2016
    in_root bash -euo pipefail -c '
        apt-get -qq update
        version=$(apt-cache depends libclang-dev | sed -n "s/.*Depends: libclang-\([0-9]*\)-dev/\1/p")
        apt-get -qq -y install --no-install-recommends "libclang-cpp$version"' >"$scratch/log" 2>&1 ||
        no_debian "state $state: $(tail -n 1 "$scratch/log")"
}
case $state in
empty) ;;
stale) cpp_half ;;
rustup)
    cpp_half
    bin=$root/root/.cargo/bin
    toolchain=$root/root/.rustup/toolchains/stable-$(uname -m)-unknown-linux-gnu
    mkdir -p "$bin" "$toolchain/bin" "$toolchain/lib/rustlib/$(uname -m)-unknown-linux-gnu/lib"
    cp -- "$ROOT/tests/stubs/rustup" "$bin/rustup"
    for name in cargo cargo-clippy cargo-fmt clippy-driver rustc rustdoc rustfmt; do ln -s rustup "$bin/$name"; done
    for name in cargo rustc rustdoc; do cp -- "$bin/rustup" "$toolchain/bin/$name"; done
    handed+=(PATH=/root/.cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin RUSTUP_AUTO_INSTALL=0)
    ;;
esac
sources >"$root/etc/apt/sources.list"
[[ $state == stale ]] || rm -rf -- "$root"/var/lib/apt/lists/*

[[ -z $(git -C "$ROOT" status --porcelain 2>/dev/null) ]] || say "note: what is not committed is not in the clone"
# The new root is this user's; the checkout may be another's.
git -c safe.directory='*' clone --quiet --no-local "file://$ROOT" "$root/root/carveout" ||
    die "the checkout cannot be cloned"
say "made: Debian $(cat "$root/etc/debian_version"), state $state, in $((SECONDS - start)) s"

# --- the two commands -----------------------------------------------------------------------------------------------

# try COMMAND...: one of them, in the clone; says what its last line was and how long it took.
outcomes=()
try() {
    local begin=$SECONDS status=0 last took
    say "running: $*"
    # shellcheck disable=SC2016
    in_root bash -c 'cd /root/carveout && "$@" | tee /root/output; exit "${PIPESTATUS[0]}"' - "$@" || status=$?
    last=$(tail -n 1 "$root/root/output" | tr -d '\r') took=$((SECONDS - begin))
    outcomes+=("$(printf 'fresh: %s, %s: %s: %s (exit code %d, %d:%02d)' \
        "$suite" "$state" "$*" "${last:-no output}" "$status" $((took / 60)) $((took % 60)))")
    ((status == 0)) || failed=1
}
failed=0
try ./qemu-run.sh
try ./tests/run.sh "${told[@]}"
if ((failed)); then
    kept=$TARGET_DIR/fresh/$suite-$state
    rm -rf -- "$kept" && mkdir -p -- "$kept"
    cp -r -- "$root/root/carveout/target/tests/." "$kept" 2>/dev/null || true
    say "kept: the logs, in $kept"
fi
printf '%s\n' "${outcomes[@]}"
exit "$failed"
