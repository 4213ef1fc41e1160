#!/usr/bin/env bash
# What tests/setup.sh decides, on machines that are folders. A world has a bin folder, which is the whole PATH, and an
# archive whose packages are folders that apt-get copies into the world. What apt-get, rustup and the tools are asked goes
# to a log. With --list, prints the names of the checks; with a name, runs that check; else all.
set -euo pipefail
# shellcheck source=tests/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"

setup_decisions() {
    check 'setup: nothing is missing, nothing is installed' decision_nothing
    check 'setup: no package lists' decision_no_lists
    check 'setup: lists that give an older Rust' decision_stale
    check 'setup: an archive that has only an older Rust' decision_too_old
    check 'setup: a package that does not bring its tool' decision_useless_package
    check 'setup: a mirror that does not answer' decision_offline
    check 'setup: a package that others would go for' decision_conflict
    check 'setup: a QEMU that others would go for' decision_unpacked
    check 'setup: a QEMU that has the boot ROM' decision_boot_rom
    check 'setup: a QEMU with the boot ROM, from backports' decision_boot_rom_backports
    check 'setup: no QEMU with the boot ROM' decision_boot_rom_absent
    check "setup: rustup without the target, which may not install" decision_rustup_forbidden
    check 'setup: rustup without the target, which may install' decision_rustup_allowed
    check 'setup: rustup without clippy' decision_rustup_no_clippy
    check 'setup: clippy of another version' decision_clippy_version
    check 'setup: the source of core of another version' decision_source_version
    check "setup: the C++ half of libclang" decision_libclang
    check "setup: libclang without clang's headers" decision_headers
    check "setup: a clang that knows no ARM" decision_clang
    check 'setup: a tool that does not run' decision_broken
    check 'setup: a compiler without its library' decision_compiler
    check 'setup: a QEMU without the board' decision_emulator
    check 'setup: --no-install' decision_no_install
    check 'setup: no Debian' decision_no_debian
    check 'setup: not root, and no sudo' decision_no_root
    check 'setup: the choice is passed on' decision_passed_on
    check 'setup: --doctor' decision_doctor
}

# --- a world --------------------------------------------------------------------------------------------------------

# program FILE LINE...: a shell script.
program() {
    mkdir -p -- "$(dirname -- "$1")"
    printf '%s\n' '#!/bin/bash' "${@:2}" >"$1"
    chmod +x -- "$1"
}

# answers FILE VERSION-LINE: a tool that tells its version, and writes down what else it is asked.
answers() { program "$1" "[[ \$1 == --version ]] && { echo '$2'; exit; }" "echo \"\${0##*/} \$*\" >>\"\$WORLD/log\""; }

# toolchain ROOT MINOR TOOL...: a rustc, cargo and rustdoc of that version, and the tools, in ROOT/bin.
toolchain() {
    local root=$1 minor=$2 tool
    program "$root/bin/rustc" "case \$* in --version) echo 'rustc 1.$minor.0 (stub)' ;; '--print sysroot') dirname -- \"\$(dirname -- \"\$0\")\" ;; esac"
    for tool in cargo rustdoc "${@:3}"; do
        case $tool in
        cargo-clippy | clippy-driver) answers "$root/bin/$tool" "clippy 0.1.$minor (stub)" ;;
        cargo-fmt | rustfmt) answers "$root/bin/$tool" 'rustfmt 1.9.0 (stub)' ;;
        *) answers "$root/bin/$tool" "$tool 1.$minor.0 (stub)" ;;
        esac
    done
}

# source_of_core ROOT MINOR: where rustc of ROOT looks for it.
source_of_core() {
    mkdir -p -- "$1/src/rustc-1.$2.0/library/core/src" "$1/lib/rustlib/src"
    touch -- "$1/src/rustc-1.$2.0/library/core/src/lib.rs"
    ln -sfn "../../../src/rustc-1.$2.0" "$1/lib/rustlib/src/rust"
}

# archive NAME MINOR: the packages that the lists NAME lead to, with a Rust of that version.
archive() {
    local of=$world/archive/$1
    toolchain "$of/rustc-web" "$2"
    mkdir -p -- "$of/cargo-web"
    source_of_core "$of/rust-web-src" "$2"
    answers "$of/lld/bin/ld.lld" 'LLD 14.0.6'
    toolchain "$of/rust-web-clippy" "$2" cargo-clippy clippy-driver
    rm -- "$of"/rust-web-clippy/bin/{rustc,cargo,rustdoc}
    answers "$of/rustfmt-web/bin/rustfmt" 'rustfmt 1.9.0'
    answers "$of/rustfmt-web/bin/cargo-fmt" 'rustfmt 1.9.0'
    answers "$of/cmake/bin/cmake" 'cmake version 3.25.1'
    answers "$of/pkg-config/bin/pkg-config" '1.8.1'
    program "$of/qemu-system-arm/bin/qemu-system-arm" "case \$1 in --version) echo QEMU ;; *) printf '%s board\n' vexpress-a9 vexpress-a15 realview-pb-a8 cubieboard orangepi-pc virt ;; esac"
    program "$of/libc6-dev/lib/works"
    mkdir -p -- "$of/gcc" "$of/libclang-dev/lib/llvm-14/lib/clang/14/include"
    touch -- "$of/libclang-dev/lib/llvm-14/lib/libclang.so" "$of/libclang-dev/lib/llvm-14/lib/clang/14/include/stddef.h"
}

# new_world: a Debian with nothing but the base system; sets world.
new_world() {
    local tool
    world=$work/world
    mkdir -p -- "$world/bin" "$world/lib" "$world/tmp"
    : >"$world/log"
    for tool in awk bash basename cat chmod cp cut dirname env grep head id ln mkdir mktemp mv printf readlink realpath rm sed sort \
        tail touch tr uname; do
        ln -s "$(type -P "$tool")" "$world/bin/$tool"
    done
    program "$world/bin/sudo" 'exec "$@"'
    # shellcheck disable=SC2016
    program "$world/bin/apt-get" 'echo "apt-get $*" >>"$WORLD/all"
        words=() uris="" keep="" only=""
        while (($#)); do
            case $1 in
            -o) shift ;;
            --print-uris) uris=1 ;;
            --no-remove) keep=1 ;;
            -s) only=1 ;;
            -*) ;;
            *) words+=("$1") ;;
            esac
            shift
        done
        [[ -n $uris$only || ${words[0]} == indextargets ]] || echo "apt-get ${words[*]}" >>"$WORLD/log"
        if [[ ${words[0]} == update ]]; then
            [[ ! -e $WORLD/offline ]] || { echo "E: Failed to fetch the lists"; exit 100; }
            echo new >"$WORLD/lists"
            exit
        fi
        if [[ ${words[0]} == indextargets ]]; then
            [[ ! -e $WORLD/sources ]] || cat "$WORLD/sources"
            exit
        fi
        lists=none
        [[ ! -e $WORLD/lists ]] || lists=$(cat "$WORLD/lists")
        if [[ ${words[0]} == download ]]; then
            for package in "${words[@]:1}"; do echo "$WORLD/archive/$lists/${package%=*}" >"${package%=*}.deb"; done
            exit
        fi
        for package in "${words[@]:1}"; do
            [[ -d $WORLD/archive/$lists/$package ]] || { echo "E: Unable to locate package $package" >&2; exit 100; }
            [[ -z $only ]] || { printf "Remv qemu-utils [2]\nInst libfdt1 [1] (2 Debian:12 [amd64])\nInst $package (1:7 Debian:12 [amd64])\n"; exit; }
            [[ -z $keep || ! -e $WORLD/archive/$lists/$package/conflict ]] || { echo "E: Packages need to be removed but remove is disabled." >&2; exit 100; }
            [[ -n $uris ]] && echo "x $package 1048576 y" || cp -r -- "$WORLD/archive/$lists/$package/." "$WORLD"
        done'
    # A package is a file that names its folder; what is in there belongs below usr.
    # shellcheck disable=SC2016
    program "$world/bin/dpkg-deb" '[[ $1 == -x ]] || { echo "dpkg-deb 1.21"; exit; }
        [[ $3 == "$WORLD"/* && $(cat "$2") == "$WORLD"/* ]] || exit 1
        mkdir -p "$3/usr" && cp -r -- "$(cat "$2")/." "$3/usr"'
    archive old 85
    archive new 96
}

# in_world COMMANDS [VARIABLE=VALUE...]: what a script does in the world that sourced tests/setup.sh; sets got to the exit
# code. Its output goes to $work/output.
in_world() {
    got=0
    # shellcheck disable=SC2016
    env -i PATH="$world/bin" HOME="$world" TMPDIR="$world/tmp" WORLD="$world" \
        CARGO_TARGET_DIR="$world/target" "${@:2}" bash -c "
        set -euo pipefail
        . '$ROOT/tests/setup.sh'
        SYSTEM_BIN=\$WORLD/bin SYSTEM_LIB=\$WORLD/lib SYSTEM_RELEASE=\$WORLD/os-release
        $1" >"$work/output" 2>&1 </dev/null || got=$?
    cat -- "$work/output"
}

# exits CODE; says PATTERN: just one line does; silent_on TEXT: none has it; asked LINE...: what the world was asked to do.
exits() { ((got == $1)) || fail "exit code $got, expected $1"; }
says() {
    local line count=0
    while IFS= read -r line; do
        # shellcheck disable=SC2053 # it is a pattern
        [[ $line != $1 ]] || count=$((count + 1))
    done <"$work/output"
    ((count == 1)) || fail "$count lines, not one, match: $1"
}
silent_on() { ! grep -F -- "$1" "$work/output" || fail "it says $1"; }
asked() {
    diff <(printf '%s\n' "$@") <(if [[ -s $world/log ]]; then cat -- "$world/log"; else echo nothing; fi) ||
        fail "it was asked something else"
}

RUST_PACKAGES='cargo-web lld rust-web-src rustc-web'
# shellcheck disable=SC2016
CHOSEN='require rust; echo "chosen: $RUST_BIN $RUST_CORE"'

# --- decisions ------------------------------------------------------------------------------------------------------

decision_nothing() {
    new_world
    echo new >"$world/lists"
    cp -r -- "$world"/archive/new/{rustc-web,rust-web-src,lld}/. "$world"
    in_world "$CHOSEN"
    exits 0 && says "chosen: $world/bin source" && asked nothing
}

decision_no_lists() {
    new_world
    in_world "$CHOSEN"
    exits 0 && says "chosen: $world/bin source"
    says "installing: $RUST_PACKAGES and what they depend on: 5 MiB to fetch, about 1 min"
    asked 'apt-get update' "apt-get install $RUST_PACKAGES"
}

decision_stale() {
    new_world
    echo old >"$world/lists"
    in_world "$CHOSEN"
    exits 0 && says "chosen: $world/bin source" && says 'not enough yet: rust; trying with fresh package lists'
    asked "apt-get install $RUST_PACKAGES" 'apt-get update' "apt-get install $RUST_PACKAGES"
}

decision_too_old() {
    new_world
    echo old >"$world/lists"
    rm -r -- "$world/archive/new"
    cp -r -- "$world/archive/old" "$world/archive/new"
    in_world "$CHOSEN"
    exits 2 && says "error: rust: found rustc 1.85.0 (stub) in $world/bin: 1.95 or later is needed; needed: Rust 1.95 or later with the target armv7a-none-eabi (rustup target add armv7a-none-eabi); to get it: apt-get update && apt-get install rustc-web cargo-web rust-web-src lld"
    ! grep -q '^error:.*' <(grep -v '^error: rust: found' "$work/output") || fail 'more than one line'
}

decision_useless_package() {
    new_world
    echo new >"$world/lists"
    rm -r -- "$world/archive/new/cmake/bin"
    in_world 'require cmake pkg-config'
    exits 2 && says 'error: cmake: found nothing: not in the PATH; needed: cmake; to get it: apt-get update && apt-get install cmake'
    asked 'apt-get install cmake pkg-config' 'apt-get update' 'apt-get install cmake'
}

decision_offline() {
    new_world
    touch -- "$world/offline"
    in_world 'require cmake'
    exits 2 && says 'warn: the package lists could not all be fetched: E: Failed to fetch the lists'
    says 'error: could not install cmake: E: Unable to locate package cmake; to see more: apt-get update && apt-get install cmake'
}

decision_conflict() {
    new_world
    echo new >"$world/lists"
    touch -- "$world/archive/new/rustc-web/conflict"
    in_world "$CHOSEN"
    exits 2 && says 'error: could not install *: E: Packages need to be removed but remove is disabled.; to see more: *'
    grep -q -- '--no-remove' "$world/all" || fail 'apt-get may remove what is installed'
}

# QEMU runs from a folder of its own, with its libraries; all else is installed as ever.
decision_unpacked() {
    new_world
    echo new >"$world/lists"
    touch -- "$world/archive/new/qemu-system-arm/conflict"
    mkdir -p -- "$world/archive/new/libfdt1/lib/x86_64-linux-gnu"
    # shellcheck disable=SC2016
    in_world 'require qemu-system-arm cmake; type -P qemu-system-arm; cat "$(type -P qemu-system-arm)"'
    exits 0 && says "$world/target/tools/bin/qemu-system-arm" && says 'unpacking: qemu-system-arm, into *: apt would have to remove other packages *'
    says "LD_LIBRARY_PATH=$world/target/tools/usr/lib/x86_64-linux-gnu exec $world/target/tools/usr/bin/qemu-system-arm *"
    asked 'apt-get update' 'apt-get download libfdt1=2 qemu-system-arm=1:7' 'apt-get install cmake'
    : >"$world/log"
    in_world 'require qemu-system-arm'
    exits 0 && asked nothing
}

# qemu_of FILE VERSION: a QEMU that tells it.
qemu_of() { program "$1" "echo 'QEMU emulator version $2 (stub)'"; }

decision_boot_rom() {
    new_world
    qemu_of "$world/bin/qemu-system-arm" 10.0.2
    in_world rom_emulator
    exits 0 && says "$world/bin/qemu-system-arm" && asked nothing
    # One that was unpacked before.
    qemu_of "$world/bin/qemu-system-arm" 7.2.1
    qemu_of "$world/target/tools-10/bin/qemu-system-arm" 11.0.0
    in_world rom_emulator
    exits 0 && says "$world/target/tools-10/bin/qemu-system-arm" && asked nothing
}

decision_boot_rom_backports() {
    new_world
    qemu_of "$world/bin/qemu-system-arm" 7.2.1
    echo new >"$world/lists"
    qemu_of "$world/archive/new/qemu-system-arm/bin/qemu-system-arm" 10.0.2
    mkdir -p -- "$world/archive/new/libfdt1"
    echo 'VERSION_CODENAME=bookworm' >"$world/os-release"
    printf '%s\n' 'bookworm-security main m:security' 'bookworm main m:debian' >"$world/sources"
    in_world rom_emulator
    exits 0 && says "$world/target/tools-10/bin/qemu-system-arm" && asked 'apt-get update' 'apt-get download libfdt1=2 qemu-system-arm=1:7'
    diff -u - "$world/target/apt-bookworm/sources.list" <<<$'deb m:debian bookworm main\ndeb m:debian bookworm-backports main'
    # The machine's own package lists are not touched.
    ! grep -e ' update' -e ' download' "$world/all" | grep -v -e "Dir::State::lists=$world/target/apt-bookworm/lists"
}

decision_boot_rom_absent() {
    new_world
    qemu_of "$world/bin/qemu-system-arm" 7.2.1
    in_world rom_emulator
    exits 3 && says 'QEMU 10, which has the boot ROM, cannot be had: no Debian to fetch it from'
    echo 'VERSION_CODENAME=bookworm' >"$world/os-release"
    in_world rom_emulator
    exits 3 && says 'QEMU 10, * cannot be had: apt has no sources for bookworm'
    echo 'bookworm main m:debian' >"$world/sources"
    touch -- "$world/offline"
    in_world rom_emulator
    exits 3 && says 'QEMU 10, * cannot be had: E: Failed to fetch the lists'
    # Backports that have an older one.
    rm -- "$world/offline"
    mkdir -p -- "$world/archive/new/libfdt1"
    qemu_of "$world/archive/new/qemu-system-arm/bin/qemu-system-arm" 8.2.0
    in_world rom_emulator
    exits 3 && says 'QEMU 10, * cannot be had: bookworm-backports has only an older one'
}

# rustup_world TOOL...: rustup's proxies come first, for a toolchain with these tools and without the target.
rustup_world() {
    new_world
    echo new >"$world/lists"
    rustup=$world/toolchains/stable
    toolchain "$rustup" 95 "$@"
    # rustup's own programs are before the system's.
    mkdir -- "$world/proxies"
    program "$world/proxies/rustup" 'case $* in
        "toolchain list") echo "stable-x86_64-unknown-linux-gnu (active, default)" ;;
        *) echo "rustup $*" >>"$WORLD/log" ;;
        esac
        case $* in
        *"target add "*) mkdir -p "$WORLD/toolchains/stable/lib/rustlib/${*: -1}/lib" ;;
        esac'
    program "$world/proxies/rustc" "exec '$rustup/bin/rustc' \"\$@\""
    program "$world/proxies/cargo" "exec '$rustup/bin/cargo' \"\$@\""
}
in_rustup_world() { in_world "PATH=\$WORLD/proxies:\$PATH; $1" "${@:2}"; }

decision_rustup_forbidden() {
    rustup_world
    in_rustup_world "$CHOSEN" RUSTUP_AUTO_INSTALL=0
    exits 0 && says "chosen: $world/bin source" && asked "apt-get install $RUST_PACKAGES"
}

decision_rustup_allowed() {
    rustup_world
    in_rustup_world "$CHOSEN"
    exits 0 && says "chosen: $rustup/bin built"
    asked 'rustup --quiet target add armv7a-none-eabi' 'rustup --quiet component add clippy rustfmt'
}

# A build needs no clippy; a command that checks takes everything from a toolchain that has it.
decision_rustup_no_clippy() {
    rustup_world
    mkdir -p -- "$rustup/lib/rustlib/armv7a-none-eabi/lib"
    in_rustup_world "$CHOSEN" RUSTUP_AUTO_INSTALL=0
    exits 0 && says "chosen: $rustup/bin built" && asked nothing
    in_rustup_world 'RUST_TOOLS+=("${CHECKERS[@]}")'"; $CHOSEN" RUSTUP_AUTO_INSTALL=0
    exits 0 && says "chosen: $world/bin source" && asked "apt-get install cargo-web lld rust-web-clippy rust-web-src rustc-web rustfmt-web"
}

decision_clippy_version() {
    new_world
    echo new >"$world/lists"
    cp -r -- "$world"/archive/new/{rustc-web,rust-web-src,lld,rustfmt-web}/. "$world/archive/old/rust-web-clippy/." "$world"
    in_world 'RUST_TOOLS+=("${CHECKERS[@]}"); look rust || echo "lacks: $LACKS"'
    says 'lacks: cl* there is of another version, clippy 0.1.85 (stub)'
    in_world 'RUST_TOOLS+=("${CHECKERS[@]}")'"; $CHOSEN"
    exits 0 && says "chosen: $world/bin source"
}

decision_source_version() {
    new_world
    echo new >"$world/lists"
    cp -r -- "$world"/archive/new/{rustc-web,lld}/. "$world/archive/old/rust-web-src/." "$world"
    in_world 'look rust || echo "lacks: $LACKS"'
    says 'lacks: the source of core there is of another version, 1.85'
}

decision_libclang() {
    new_world
    echo new >"$world/lists"
    mkdir -p -- "$world/lib/llvm-14/lib"
    touch -- "$world/lib/llvm-14/lib/libclang-cpp.so.14"
    in_world 'look libclang || echo "lacks: $FOUND $LACKS"'
    says "lacks: $world/lib/llvm-14/lib/libclang-cpp.so.14 is the C++ half only; bindgen loads libclang.so"
    in_world 'require libclang; echo "bindgen: $LIBCLANG_PATH"'
    exits 0 && says "bindgen: $world/lib/llvm-14/lib" && asked 'apt-get install libclang-dev'
}

decision_headers() {
    new_world
    mkdir -p -- "$world/lib/llvm-14/lib"
    touch -- "$world/lib/llvm-14/lib/libclang-14.so.1"
    in_world 'look libclang || echo "lacks: $LACKS"'
    says "lacks: clang's own headers (stddef.h) are absent beside it"
}

decision_clang() {
    new_world
    echo new >"$world/lists"
    program "$world/bin/clang" '[[ $1 == --version ]] && { echo "clang version 14"; exit; }' 'exit 1'
    in_world 'look clang || echo "lacks: $LACKS"'
    says 'lacks: compiles nothing for armv7a-none-eabi'
    program "$world/archive/new/clang/bin/clang" 'echo "clang version 14 for all targets"'
    in_world 'require clang; echo "it is: $FOUND"'
    exits 0 && says "it is: $world/bin/clang, clang version 14 for all targets" && asked 'apt-get install clang'
}

decision_broken() {
    new_world
    echo new >"$world/lists"
    program "$world/bin/pkg-config" 'exit 127'
    in_world 'require pkg-config; echo "it is: $(pkg-config --version)"'
    exits 0 && says 'it is: 1.8.1' && asked 'apt-get install pkg-config'
}

decision_compiler() {
    new_world
    echo new >"$world/lists"
    # shellcheck disable=SC2016
    program "$world/bin/cc" '[[ $1 == --version ]] && { echo cc 12; exit; }
        [[ -e $WORLD/lib/works ]] || exit 1
        while [[ $1 != -o ]]; do shift; done
        cp -- "$WORLD/lib/works" "$2"'
    in_world 'require cc'
    exits 0 && asked 'apt-get install gcc libc6-dev'
}

decision_emulator() {
    new_world
    echo new >"$world/lists"
    program "$world/bin/qemu-system-arm" "case \$1 in --version) echo QEMU ;; *) echo 'virt board' ;; esac"
    in_world 'look qemu-system-arm || echo "lacks: $LACKS"; require qemu-system-arm'
    exits 0 && says 'lacks: has no machine cubieboard' && asked 'apt-get install qemu-system-arm'
}

decision_no_install() {
    rustup_world
    in_rustup_world "require rust cmake" CARVEOUT_NO_INSTALL=1
    exits 2 && says 'error: rust: found rustc 1.95.0 (stub) in *: no target armv7a-none-eabi; needed: *'
    says 'error: cmake: found nothing: not in the PATH; needed: cmake; *' && asked nothing
}

decision_no_debian() {
    new_world
    rm -- "$world/bin/apt-get"
    in_world 'require qemu-system-arm c++ libclang rust'
    exits 2 && says "error: qemu-system-arm: found nothing: not in the PATH; needed: QEMU for ARM (qemu-system-arm); this is no Debian: *--no-install*"
    says 'error: c++: found nothing: *; needed: a C++ compiler (c++) with its library; *'
    says "error: libclang: found nothing: *; needed: libclang with clang's headers; *"
    says 'error: rust: found nothing: no rustc that runs; needed: Rust 1.95 or later with the target armv7a-none-eabi (rustup target add *'
    silent_on 'libclang-dev'
}

decision_no_root() {
    new_world
    rm -- "$world/bin/sudo"
    # Who is root here plays somebody who is not.
    in_world "eval \"\$(declare -f install_packages | sed 's/EUID != 0/1/')\"; require cmake"
    exits 2 && says 'error: missing: cmake; run as root: apt-get update && apt-get install cmake' && asked nothing
}

# A command that another one started asks nothing again, and takes the same toolchain, whatever its PATH says.
decision_passed_on() {
    rustup_world
    mkdir -p -- "$rustup/lib/rustlib/armv7a-none-eabi/lib"
    # shellcheck disable=SC2016
    program "$world/bin/child" 'set -euo pipefail' ". '$ROOT/tests/setup.sh'" 'rm "$WORLD"/toolchains/stable/bin/rustdoc' \
        'require rust certificates cc; choose_toolchain; echo "child: $RUST_BIN $RUST_CORE"'
    in_rustup_world 'require rust; CARVEOUT_FOUND+=" cc certificates"; choose_toolchain; PATH=$WORLD/bin child'
    exits 0 && says "child: $rustup/bin built" && asked nothing
}

decision_doctor() {
    new_world
    cp -r -- "$world"/archive/new/{rustc-web,rust-web-src,lld,rust-web-clippy,rustfmt-web,cmake}/. "$world"
    in_world doctor
    exits 1 && asked nothing
    says "rust *ok * rustc 1.96.0 (stub) in $world/bin" && says "  cargo-clippy *ok * $world/bin/cargo-clippy, clippy 0.1.96 (stub)"
    says "  linker *ok * $world/bin/ld.lld, LLD 14.0.6" && says "cmake *ok * $world/bin/cmake, cmake version 3.25.1"
    says 'pkg-config *LACKING *nothing: not in the PATH; packages: pkg-config *'
}


# --- which of them --------------------------------------------------------------------------------------------------

fail() {
    echo "$*"
    return 1
}

wanted=${1:-} ran=0 failed=0
# check NAME FUNCTION: lists it, or runs it in a folder of its own, if it is wanted.
check() {
    if [[ $wanted == --list ]]; then
        echo "$1"
        ran=1
    elif [[ -z $wanted || $1 == "$wanted" ]]; then
        ran=1
        # In a condition, -e would be without effect.
        set +e
        (
            set -e
            work=$(mktemp -d)
            trap 'rm -rf -- "$work"' EXIT
            "$2"
        )
        (($? == 0)) || failed=1
        set -e
    fi
}

setup_decisions
((ran)) || die "no check '$wanted'"
exit "$failed"
