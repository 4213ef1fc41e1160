#!/usr/bin/env bash
# What the DMA API costs with 1, 2 and 4 cores at once on a Cortex-A9, and how much of their time is waiting for locks:
# prints a table, and fails if an operation takes 2.5 times as many instructions on several cores as on one. What is
# counted, and how, is said in tests/on-target/src/bench_cores.rs. Waiting counts: a lock is passed on to the core that
# waits, so where all cores do nothing else each lock costs a turn of the others, up to 1.9 times the whole here. Without
# waiting, four cores cost 4.5 % (QEMU 7.2) to 6.7 % (QEMU 10) more: a core whose turn ends in the middle of an operation
# keeps its buffer meanwhile, and others look for addresses past its guards.
set -euo pipefail
# shellcheck source=tests/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"
(($# == 0)) || die "usage: ./tests/bench-cores.sh"

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
require "${EMULATOR[@]}"
choose_toolchain
build 'the bench program' target_cargo build --release --package on-target --bin bench_cores || die "the bench program did not build"
flatten "$TARGET_DIR/$TARGET/release/bench_cores" "$work/kernel.bin"
dtc -q -I dts -O dtb -o "$work/board.dtb" "$ROOT/boards/vexpress-a9/vexpress-a9.dts"
board_args vexpress-a9

# count CORES OPTION...: its rows, to $work/rows.
count() {
    timeout 900 qemu-system-arm "${BOARD_ARGS[@]}" -m 512M -smp "$1" "${@:2}" -display none -serial stdio \
        -monitor none -semihosting-config 'enable=on,target=native' -kernel "$work/kernel.bin" \
        -dtb "$work/board.dtb" -append 'cma=64M semihosting' </dev/null | tr -d '\r' >"$work/log" ||
        die "the bench program failed on $1 cores: $(tail -n 1 "$work/log")"
    grep '^| ' "$work/log" >"$work/rows" || die "the bench program printed no table on $1 cores"
}

echo '| cores | operation on 4 KiB | instructions each | locks each | found held | time spent waiting |'
echo '|---|---|---|---|---|---|'
for cores in 1 2 4; do
    count "$cores" -accel tcg,thread=single -icount 'shift=0,sleep=off'
    cut -d'|' -f1-5 "$work/rows" | tee -a "$work/all" >"$work/counted"
    count "$cores" -accel tcg,thread=multi
    cut -d'|' -f6- "$work/rows" | paste -d'|' "$work/counted" -
done
echo
# The rows of one core come first.
awk -F'|' '$2 == 1 { alone[$3] = $4 } $4 > 2.5 * alone[$3] { print "error:" $3 "on" $2 "cores: too dear"; dear = 1 }
    END { exit NR != 9 || dear }' "$work/all"
echo "Instructions are counted by the emulator; how cores meet was seen on $(nproc) host cores."
