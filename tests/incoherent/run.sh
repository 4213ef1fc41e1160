#!/usr/bin/env bash
# Runs programs of the kernel on the incoherent machine: see README.md beside this file.
set -euo pipefail
# shellcheck source=tests/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../setup.sh"

usage() {
    cat <<'END'
usage: tests/incoherent/run.sh [--elf FILE]... [--model a9|a9-pl310|a8]... [OPTION]...

Builds the incoherent machine and the programs, and runs each program on each model over all seeds.
Installs what is missing: dtc, and for the emulator cmake, a C++ compiler and libclang.

  --elf FILE     an ELF of the kernel; may be repeated (default: the demo, the on-target tests that plant nothing
                 themselves, loans in a small area, and the correct one of the programs that plant a bug)
  --test NAME    an on-target test by its name, built first; may be repeated
  --model M      may be repeated (default: all three)
  --seeds N      seeds for each ELF and model (default: 4; with --plants 40)
  --shard I/N    of these seeds only every N-th, from the I-th (0 to N-1) on
  --plants       the table of planted bugs, tests/incoherent/plants.txt; with --only NAME, which may be repeated, of these
  --build        build the machine and the programs that plant a bug, and run nothing
  --necessity    each cache, TLB, barrier and outer-cache operation left out in turn, and what caught that
  --help         this text

Every other option goes to the machine itself, whose --help lists them: --first, --jobs, --enough, --limit, --period,
--append, --suppress, --site, --console, --list-sites.
The exit code is 0 if no rule was broken and every program ended well, with --plants if at least 95 in 100 runs of each
bug were caught and the correct program passed, without which there is no table; else 1; 2 if the command line is at fault.
END
}

elfs=() tests=() seeds='' plants='' build='' lent='' rest=()
while (($#)); do
    case $1 in
    --help) usage && exit 0 ;;
    --plants) plants=1 && shift ;;
    --build) build=1 && shift ;;
    --necessity | --console | --list-sites) rest+=("$1") && shift ;;
    --*)
        (($# > 1)) || die "$1 needs a value"
        case $1 in
        --elf) elfs+=("$2") ;;
        --test) tests+=("$2") ;;
        --seeds) seeds=$2 ;;
        *) rest+=("$1" "$2") ;;
        esac
        shift 2
        ;;
    *) die "unknown argument $1; see --help" ;;
    esac
done
# Not wx: it plants aliases in the live tables for the audit to find, and this machine finds them too.
TESTS=(direct_map driver interrupts ledger ownership stress)
# What loans takes: the least area that its contracts fit in, and as few steps as recall pages of every kind.
LENT='cma=6M steps=100 loglevel=6 semihosting'

require dtc "${INCOHERENT[@]}"
choose_toolchain
machine_dir=$ROOT/tests/incoherent
build 'the incoherent machine' machine_cargo build --release || die "the incoherent machine did not build"
machine=${CARGO_TARGET_DIR:-$machine_dir/target}/release/incoherent

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
build_picture
# Small: the codec that decodes it runs on the machine.
"$PICTURE" generate "$work/disk.jpg" --size 160x120

build_planted() {
    build 'the programs that plant a bug' target_cargo build --release --package on-target --bin planted || die "they did not build"
    elfs+=("$TARGET_DIR/$TARGET/release/planted")
}

if [[ -n $build ]]; then
    build_planted
    exit 0
fi
if [[ -n $plants ]]; then
    rest+=(--plants "$machine_dir/plants.txt")
    ((${#elfs[@]})) || build_planted
elif ((${#elfs[@]} + ${#tests[@]} == 0)); then
    build_planted
    build_demo
    elfs+=("$DEMO_ELF")
    tests=("${TESTS[@]}")
    lent=1
fi
# elf_of NAME: an on-target test's.
elf_of() {
    local elf
    elf=$(sed -n "s/^ *Executable tests\/$1\.rs (\(.*\))\$/\1/p" "$work/cargo.log")
    [[ -n $elf ]] || die "no ELF of the on-target test $1"
    [[ $elf == /* ]] || elf=$ROOT/$elf
    printf '%s\n' "$elf"
}
if ((${#tests[@]})); then
    say "building: the on-target tests"
    target_cargo test --release --package on-target --no-run >"$work/cargo.log" 2>&1 ||
        die "the on-target tests did not build: $(tail -n 3 "$work/cargo.log")"
    for test in "${tests[@]}"; do
        elf=$(elf_of "$test")
        elfs+=("$elf")
    done
fi

: "${seeds:=$([[ -n $plants ]] && echo 40 || echo 4)}"
args=()
for elf in "${elfs[@]}"; do args+=(--elf "$elf"); done
run() { "$machine" "$@" --disk "$work/disk.jpg" --seeds "$seeds" "${rest[@]}"; }
status=0
run "${args[@]}" || status=$?
if [[ -n $lent ]]; then
    elf=$(elf_of loans)
    run --elf "$elf" --append "$LENT" || status=$?
fi
exit "$status"
