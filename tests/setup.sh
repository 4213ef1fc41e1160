# shellcheck shell=bash
# Sourced by qemu-run.sh and tests/run.sh: finds, or installs with apt, what the project needs, and holds what the two
# share. What it installs it says first. It installs no Rust toolchain with rustup, except what rust-toolchain.toml
# asks for, and not even that where RUSTUP_AUTO_INSTALL=0 is set: there Debian's packages stand in.

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
TARGET=armv7a-none-eabi
TARGET_DIR=${CARGO_TARGET_DIR:-$ROOT/target}
MIN_RUST_MINOR=$(sed -n 's/^rust-version = "1\.\([0-9]*\).*/\1/p' "$ROOT/Cargo.toml")

# die MESSAGE...: one line, exit code 2, as for every mistake of the caller or the machine.
die() {
    echo "error: $*" >&2
    exit 2
}

say() { echo "$*" >&2; }

# --- packages -------------------------------------------------------------------------------------------------------

# apt_install PACKAGE...: quiet unless it fails.
apt_install() {
    local as_root=() log
    command -v apt-get >/dev/null || die "missing, and no apt-get here to install it: $*"
    if ((EUID != 0)); then
        command -v sudo >/dev/null || die "missing: run as root: apt-get install $*"
        as_root=(sudo)
    fi
    say "installing: $*"
    log=$(mktemp)
    local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300)
    if ! "${apt[@]}" install --no-install-recommends "$@" >"$log" 2>&1; then
        # The usual cause is a package list that is old or was never fetched.
        "${apt[@]}" update >>"$log" 2>&1 || true
        if ! "${apt[@]}" install --no-install-recommends "$@" >>"$log" 2>&1; then
            cat "$log" >&2
            rm -f "$log"
            die "could not install: $*"
        fi
    fi
    rm -f "$log"
}

# need COMMAND=PACKAGE...: installs the packages whose command is absent.
need() {
    local pair missing=()
    for pair; do
        command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
    done
    ((${#missing[@]} == 0)) || apt_install "${missing[@]}"
}

need_emulator() {
    need qemu-system-arm=qemu-system-arm dtc=device-tree-compiler objcopy=binutils
}

# --- Rust -----------------------------------------------------------------------------------------------------------
#
# Two worlds. Where the active toolchain has the target, cargo needs no help. Elsewhere Debian's rustc-web builds core
# and alloc from rust-web-src; that takes RUSTC_BOOTSTRAP=1, because build-std is not stable, and a linker.

# rust_in PATH: whether the rustc found along PATH works here and is recent enough. If rustup has to install what
# rust-toolchain.toml names, it says so itself.
rust_in() {
    local minor
    PATH=$1 command -v rustc >/dev/null && PATH=$1 command -v cargo >/dev/null || return 1
    minor=$(cd "$ROOT" && PATH=$1 rustc --version | sed -n 's/^rustc 1\.\([0-9]*\)\..*/\1/p')
    [[ -n $minor ]] && ((minor >= MIN_RUST_MINOR))
}

rust_sysroot() { (cd "$ROOT" && PATH=$1 rustc --print sysroot); }

has_target() { [[ -d $(rust_sysroot "$1")/lib/rustlib/$TARGET/lib ]]; }

# Whether to ask the rustc on the user's PATH at all: rustup's proxy may answer by installing a toolchain, which
# rustup before 1.28 does whatever RUSTUP_AUTO_INSTALL says.
may_ask_rustup() {
    [[ ${RUSTUP_AUTO_INSTALL:-1} != 0 ]] || ! command -v rustup >/dev/null ||
        [[ $(rustup toolchain list 2>/dev/null) == *stable-* ]]
}

# choose_toolchain: sets HOST_PATH, and for the target TARGET_ENV and TARGET_FLAGS.
choose_toolchain() {
    need cc=gcc ld=binutils
    [[ -e /usr/include/stdio.h ]] || apt_install libc6-dev
    [[ -e /etc/ssl/certs/ca-certificates.crt || ! -e /etc/debian_version ]] || apt_install ca-certificates
    HOST_PATH='' TARGET_ENV=() TARGET_FLAGS=(--target "$TARGET")
    if may_ask_rustup && rust_in "$PATH"; then
        HOST_PATH=$PATH
        if ! has_target "$PATH" && command -v rustup >/dev/null && [[ ${RUSTUP_AUTO_INSTALL:-1} != 0 ]]; then
            say "installing: Rust's target $TARGET (rustup)"
            (cd "$ROOT" && rustup --quiet target add "$TARGET") || true
        fi
        if has_target "$PATH"; then
            TARGET_ENV=(PATH="$PATH")
            return
        fi
    fi
    debian_toolchain
}

debian_toolchain() {
    local path=/usr/bin:$PATH bin
    if ! rust_in "$path" || [[ ! -d $(rust_sysroot "$path")/lib/rustlib/src/rust/library/core ]]; then
        (apt_install rustc-web cargo-web rust-web-src) || true
        rust_in "$path" || die "Rust 1.$MIN_RUST_MINOR or later with the target $TARGET is needed: install rustup, then" \
            "\`rustup target add $TARGET\`"
    fi
    [[ -n $HOST_PATH ]] || HOST_PATH=$path
    # rustup's toolchains carry rust-lld among their own programs; it goes last, so that nothing else changes.
    if [[ $HOST_PATH != "$path" ]]; then
        bin=$(rust_sysroot "$HOST_PATH")/lib/rustlib/$(uname -m)-unknown-linux-gnu/bin
    fi
    TARGET_ENV=(RUSTC_BOOTSTRAP=1)
    if [[ -n ${bin:-} && -x $bin/rust-lld ]]; then
        path=$path:$bin
    else
        need ld.lld=lld
        TARGET_ENV+=(CARGO_TARGET_ARMV7A_NONE_EABI_LINKER=ld.lld)
    fi
    TARGET_ENV+=(PATH="$path")
    # Tests otherwise ignore the profile's panic = "abort", and core would be built twice, in two incompatible ways.
    TARGET_FLAGS+=('-Zbuild-std=core,alloc' -Zpanic-abort-tests)
}

# choose_checkers: makes clippy and rustfmt available to host_cargo.
choose_checkers() {
    host_cargo clippy --version >/dev/null 2>&1 && host_cargo fmt --version >/dev/null 2>&1 && return
    need cargo-clippy=rust-web-clippy cargo-fmt=rustfmt-web
    HOST_PATH=/usr/bin:$PATH
}

# host_cargo COMMAND ARGS...: cargo for this machine, in the workspace.
host_cargo() { (cd "$ROOT" && PATH=$HOST_PATH cargo "$@"); }

# target_cargo COMMAND ARGS...: the same for the boards.
target_cargo() {
    local command=$1
    shift
    (cd "$ROOT" && env "${TARGET_ENV[@]}" cargo "$command" "${TARGET_FLAGS[@]}" "$@")
}

# build_demo: the kernel with the demo, as an ELF whose path it sets in DEMO_ELF.
build_demo() {
    say "building: the kernel for $TARGET"
    target_cargo build --quiet --release --package carveout-boards --bin demo || die "the kernel did not build"
    # shellcheck disable=SC2034 # read by the scripts that source this file
    DEMO_ELF=$TARGET_DIR/$TARGET/release/demo
}

# build_picture: the host's tool for pictures, whose path it sets in PICTURE.
build_picture() {
    host_cargo build --quiet --release --package picture || die "tests/picture did not build"
    # shellcheck disable=SC2034
    PICTURE=$TARGET_DIR/release/picture
}

# --- the emulator ---------------------------------------------------------------------------------------------------

# flatten ELF BIN: the ELF's loaded bytes. QEMU hands the device tree in r2 to a raw image only. Any objcopy that knows
# 32-bit little-endian ELF will do, whatever machine it was built for.
flatten() { objcopy -I elf32-little -O binary -- "$1" "$2"; }

# board_args NAME: sets BOARD_ARGS to the words of boards/NAME/qemu.args.
board_args() {
    local line words file=$ROOT/boards/$1/qemu.args
    BOARD_ARGS=()
    while read -r line || [[ -n $line ]]; do
        read -ra words <<<"${line%%#*}"
        BOARD_ARGS+=("${words[@]}")
    done <"$file"
}

# disk_args BOARD FILE DIR: sets DISK_ARGS to attach FILE as the board's one disk; may put a copy into DIR. What the guest
# writes to it is forgotten.
disk_args() {
    local file size=$((256 << 10)) bytes
    file=$(realpath -- "$2")
    if [[ $1 == realview-pb-a8 ]]; then
        # An SD card of QEMU's is a power of two in size, 256 KiB or more: zeros follow the file.
        bytes=$(stat -c %s -- "$file")
        while ((size < bytes)); do size=$((2 * size)); done
        cp -- "$file" "$3/card.img"
        chmod u+w -- "$3/card.img"
        truncate -s "$size" -- "$3/card.img"
        file=$3/card.img
    fi
    # A comma ends a value on QEMU's command line unless doubled.
    file=${file//,/,,}
    # shellcheck disable=SC2034
    case $1 in
    cubieboard) DISK_ARGS=(-drive "if=none,id=disk,format=raw,snapshot=on,file=$file" -device 'ide-hd,drive=disk') ;;
    realview-pb-a8) DISK_ARGS=(-drive "if=sd,format=raw,file=$file") ;;
    *) DISK_ARGS=(-drive "if=none,id=disk,format=raw,snapshot=on,file=$file" -device 'virtio-blk-device,drive=disk') ;;
    esac
}
