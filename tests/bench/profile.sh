#!/usr/bin/env bash
# Where the instructions of one row of the bench go: by the function they come from, inlined ones apart, a call's mean.
set -euo pipefail
# shellcheck source=tests/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../setup.sh"

(($# == 1)) || die "usage: tests/bench/profile.sh KEY, a key of target/bench/results.csv such as alloc-only/4K"
require "${EMULATOR[@]}"
require llvm-symbolizer llvm-nm
choose_toolchain
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT

build 'the bench program' target_cargo build --release --package on-target --bin bench || die "the bench program did not build"
elf=$TARGET_DIR/$TARGET/release/bench
cc -O2 -shared -fPIC -o "$work/profile.so" "$ROOT/tests/bench/profile.c"
flatten "$elf" "$work/kernel.bin"
dtc -q -I dts -O dtb -o "$work/board.dtb" "$ROOT/boards/vexpress-a9/vexpress-a9.dts"
fdtput -r "$work/board.dtb" /cache-controller@1e00a000
board_args vexpress-a9
marker() { llvm-nm "$elf" | awk -v name="$1" '$3 == name { print "0x" $1 }'; }

timeout --foreground --kill-after=5 900 qemu-system-arm "${BOARD_ARGS[@]}" -m 512M -accel tcg,thread=single -icount 'shift=0,sleep=off' \
    -display none -serial stdio -monitor none -semihosting-config 'enable=on,target=native' \
    -kernel "$work/kernel.bin" -dtb "$work/board.dtb" -append "cma=64M semihosting profile=$1" \
    -plugin "$work/profile.so,on=$(marker bench_profile_on),off=$(marker bench_profile_off),out=$work/counts" \
    </dev/null | tr -d '\r' >"$work/log" || die "the bench program failed: $(tail -n 1 "$work/log")"
grep -F " $1 " "$work/log" || die "no such key: $1"
samples=$(grep -F " $1 " "$work/log" | awk '{ print $NF }')

# The innermost inlined function of each address: the first two lines of each answer.
cut -d' ' -f1 "$work/counts" | llvm-symbolizer --obj="$elf" -f -C -i |
    awk 'BEGIN { RS = ""; FS = "\n" } { print $1 }' >"$work/names"
paste -d' ' <(cut -d' ' -f2 "$work/counts") "$work/names" |
    awk -v samples="$samples" '{ count = $1; $1 = ""; sum[$0] += count } END {
        for (name in sum) printf "%10.1f %s\n", sum[name] / samples, name }' | sort -rn
