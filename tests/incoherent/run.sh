#!/usr/bin/env bash
# Runs programs of the kernel on the incoherent machine: see README.md beside this file.
set -euo pipefail
# shellcheck source=tests/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../setup.sh"

usage() {
    cat <<'END'
usage: tests/incoherent/run.sh [--elf FILE]... [--model a9|a9-pl310]... [OPTION]...

Builds the incoherent machine, the on-target tests and the demo, and runs each ELF on each model over all seeds.
Installs what is missing: cmake, a C compiler and libclang, for the emulator.

  --elf FILE     an ELF of the kernel; may be repeated
                 (default: the demo, and the on-target tests that plant nothing themselves)
  --model M      a9 or a9-pl310; may be repeated (default: both)
  --seeds N      seeds for each ELF and model (default: 4)
  --shard I/N    of these seeds only every N-th, from the I-th (0 to N-1) on
  --help         this text

Every other option goes to the machine itself: --first, --enough, --period, --suppress, --site, --necessity, --console.
The exit code is 0 if no rule was broken and every program ended well, else 1; 2 if the command line is at fault.
END
}

elfs=() models=() seeds=4 rest=()
while (($#)); do
    case $1 in
    --help) usage && exit 0 ;;
    --necessity | --console | --list-sites) rest+=("$1") && shift ;;
    --*)
        (($# > 1)) || die "$1 needs a value"
        case $1 in
        --elf) elfs+=("$2") ;;
        --model) models+=("$2") ;;
        --seeds) seeds=$2 ;;
        *) rest+=("$1" "$2") ;;
        esac
        shift 2
        ;;
    *) die "unknown argument $1; see --help" ;;
    esac
done
((${#models[@]})) || models=(a9 a9-pl310)
# Not wx: it plants aliases in the live tables for the audit to find, and this machine finds them too.
TESTS=(direct_map interrupts ledger ownership stress)

need dtc=device-tree-compiler cmake=cmake c++=g++ make=make
compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null || apt_install libclang-dev
choose_toolchain
say "building: the incoherent machine"
machine_dir=$ROOT/tests/incoherent
(cd "$machine_dir" && PATH=$HOST_PATH cargo build --quiet --release) || die "the incoherent machine did not build"
machine=${CARGO_TARGET_DIR:-$machine_dir/target}/release/incoherent

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT

# What QEMU would write into the board's device tree: 128 MiB of RAM, the boot arguments, and the transport of the disk.
sed -e 's/reg = <0x60000000 0x40000000>;/reg = <0x60000000 0x08000000>;/' \
    -e 's/stdout-path = .*/&\n\t\tbootargs = "cma=64M loglevel=6 semihosting";/' \
    "$ROOT/boards/vexpress-a9/vexpress-a9.dts" >"$work/board.dts"
cat >>"$work/board.dts" <<'END'
/ {
	virtio@10013600 {
		compatible = "virtio,mmio";
		reg = <0x10013600 0x200>;
		interrupts = <0 43 1>;
	};
};
END
dtc -q -I dts -O dtb -o "$work/board.dtb" "$work/board.dts"

build_picture
# Small: the codec that decodes it runs on the machine.
"$PICTURE" generate "$work/disk.jpg" --size 160x120

if ((${#elfs[@]} == 0)); then
    build_demo
    elfs=("$DEMO_ELF")
    say "building: the on-target tests"
    target_cargo test --release --package on-target --no-run >"$work/cargo.log" 2>&1 ||
        die "the on-target tests did not build: $(tail -n 3 "$work/cargo.log")"
    for test in "${TESTS[@]}"; do
        elf=$(sed -n "s/^ *Executable tests\/$test\.rs (\(.*\))\$/\1/p" "$work/cargo.log")
        [[ -n $elf ]] || die "no ELF of the on-target test $test"
        [[ $elf == /* ]] || elf=$ROOT/$elf
        elfs+=("$elf")
    done
fi

status=0
for elf in "${elfs[@]}"; do
    [[ -f $elf ]] || die "no such ELF: $elf"
    for model in "${models[@]}"; do
        echo "=== $(basename -- "$elf") on $model"
        code=0
        "$machine" --elf "$elf" --dtb "$work/board.dtb" --disk "$work/disk.jpg" --model "$model" --seeds "$seeds" \
            "${rest[@]}" || code=$?
        ((code < 2)) || exit "$code"
        ((code == 0)) || status=1
    done
done
exit "$status"
