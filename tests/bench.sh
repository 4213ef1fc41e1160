#!/usr/bin/env bash
# Counts instructions: boots the bench program in QEMU, whose clock counts them here, on a Cortex-A9 with and without
# PL310, and prints a table of what things cost beside Linux's figures and the budgets. Ends with 1 if a figure is past its budget or, where that is known to be missed, past what it was.
set -euo pipefail
# shellcheck source=tests/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"

usage() {
    cat <<'END'
usage: ./tests/bench.sh [--host] [--record]

Prints the table; writes target/bench/results.csv and plots (*.svg) beside it. The figures are instruction counts of
an emulator that takes one virtual nanosecond for each: the same on every machine.

  --host    the free-run index beside other allocators too: refusals, instructions by callgrind (installs valgrind
            and gungraun's runner, in minutes), time by criterion
  --record  put the table into BENCH.md, with the commit
END
}

record='' host=''
while (($#)); do
    case $1 in
    --record) record=1 && shift ;;
    --host) host=1 && shift ;;
    --help) usage && exit 0 ;;
    *) die "unknown option $1; see --help" ;;
    esac
done

out=$TARGET_DIR/bench
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT

require "${EMULATOR[@]}"
choose_toolchain
build 'the bench program' target_cargo build --release --package on-target --bin bench || die "the bench program did not build"

# bench_cargo COMMAND ARGS...: cargo in tests/bench, a workspace of its own.
bench_cargo() {
    (cd "$ROOT/tests/bench" && PATH=$RUST_BIN:$PATH:$out/tools/bin CARGO_TARGET_DIR=$out/build cargo "$@")
}

build 'the tables and plots' bench_cargo build --release || die "tests/bench did not build"
report=$out/build/release/bench-report

flatten "$TARGET_DIR/$TARGET/release/bench" "$work/kernel.bin"
dtc -q -I dts -O dtb -o "$work/a9-pl310.dtb" "$ROOT/boards/vexpress-a9/vexpress-a9.dts"
cp -- "$work/a9-pl310.dtb" "$work/a9.dtb"
fdtput -r "$work/a9.dtb" /cache-controller@1e00a000
board_args vexpress-a9

# count MACHINE: runs the program; its output goes to a log.
count() {
    local log=$out/$1.log
    timeout --foreground --kill-after=5 900 qemu-system-arm "${BOARD_ARGS[@]}" -m 512M -accel tcg,thread=single -icount 'shift=0,sleep=off' \
        -display none -serial stdio -monitor none -semihosting-config 'enable=on,target=native' \
        -kernel "$work/kernel.bin" -dtb "$work/$1.dtb" -append 'cma=64M semihosting' </dev/null | tr -d '\r' >"$log" ||
        die "the bench program failed on $1: $(tail -n 1 "$log")"
}

say "counting: some minutes"
count a9 &
count a9-pl310
wait $! || exit 2

status=0
"$report" "$ROOT/tests/bench" "$out" "a9=$out/a9.log" "a9-pl310=$out/a9-pl310.log" | tee "$out/table.md" || status=1

if [[ -n $host ]]; then
    require valgrind
    runner=$(sed -n 's/^gungraun = "=\(.*\)"/\1/p' "$ROOT/tests/bench/Cargo.toml")
    bench_cargo install --quiet --root "$out/tools" --version "$runner" gungraun-runner
    bench_cargo bench --quiet --bench instructions | tee "$out/instructions.txt"
    bench_cargo bench --quiet --bench time | tee "$out/time.txt"
    bench_cargo run --quiet --release --bin compare "$out/instructions.txt" "$out/time.txt" | tee "$out/host.md"
fi

if [[ -n $record ]]; then
    commit=$(git -C "$ROOT" rev-parse --short HEAD)
    changed=$(git -C "$ROOT" status --porcelain --untracked-files=no)
    sed '/^<!-- table -->$/,$d' "$ROOT/BENCH.md" >"$work/BENCH.md"
    {
        cat -- "$work/BENCH.md"
        echo '<!-- table -->'
        echo "Commit $commit${changed:+ with changes}, $("$RUST_BIN/rustc" --version | cut -d' ' -f1,2)."
        echo
        cat -- "$out/table.md"
    } >"$ROOT/BENCH.md"
fi
exit "$status"
