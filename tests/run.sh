#!/usr/bin/env bash
# Every check of the project. Sets itself up (tests/setup.sh), prints a line a check and what failed, and ends with
# the line "N passed, N failed". The output of each check stays in target/tests/.
set -euo pipefail
# shellcheck source=tests/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"

usage() {
    cat <<'END'
usage: ./tests/run.sh [--quick] [--filter TEXT] [--no-install]
       ./tests/run.sh --doctor

  --quick        fewer pictures, and none of the checks that take minutes: benchmarks, interleavings, long runs
  --filter TEXT  only the checks whose name contains TEXT; the names are what the script prints
  --no-install   install nothing: what is missing is named, and the script ends
  --doctor       list every tool that the project needs, where it was found, its version and whether it suffices;
                 install and run nothing
END
}

quick='' filter=''
while (($#)); do
    case $1 in
    --quick) quick=1 && shift ;;
    --filter)
        (($# > 1)) || die "--filter needs a value"
        filter=$2
        shift 2
        ;;
    --no-install) export CARVEOUT_NO_INSTALL=1 && shift ;;
    --doctor)
        doctor
        exit
        ;;
    --help) usage && exit 0 ;;
    *) die "unknown option $1; see --help" ;;
    esac
done

logs=$TARGET_DIR/tests
mkdir -p "$logs"
# A directory for each check, so that they do not meet, nor two runs of this script.
scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch"' EXIT
# Checks that boot QEMU, which keeps one core busy, run this many at a time.
at_once=$(nproc)
((at_once <= 4)) || at_once=4

# --- running and counting -------------------------------------------------------------------------------------------

# What a check says while its output goes to a log.
exec 3>&2

# The checks are gone through twice: first they are built and counted, then they run.
counting='' total=0
# A line each check that ended: ok, FAILED or skipped; seconds; name.
results=$scratch/results
: >"$results"

# ended RESULT SECONDS NAME [NOTE]: counts a check, and prints its line with how many have ended of how many.
ended() {
    local log_end=''
    [[ $1 != FAILED ]] || log_end="; the end of $log:
$(tail -n 40 -- "$log" | sed 's/^/        /')"
    {
        # In one go: another check may have something to say.
        flock 9
        printf '%s\t%s\t%s\n' "$1" "$2" "$3" >>"$results"
        printf '[%d/%d] %-7s %s (%s s)%s%s\n' "$(wc -l <"$results")" "$total" "$1" "$3" "$2" "${4:+: $4}" "$log_end"
    } 9>"$scratch/lock"
}

# attempt NAME COMMAND...: runs the command, which fails at its first failing step, its output to a log. Sets status,
# took, log to the log's path, and work to a scratch directory, which is removed at the end.
attempt() {
    local slug=${1//[^a-zA-Z0-9.=-]/_} start=$SECONDS
    shift
    log=$logs/$slug.log work=$scratch/$slug
    mkdir -- "$work"
    set +e
    (
        set -e
        "$@"
    ) >"$log" 2>&1 </dev/null
    status=$?
    set -e
    took=$((SECONDS - start))
    note=$([[ ! -f $work/note ]] || cat -- "$work/note")
    rm -rf -- "$work"
}

selected() { [[ $1 == *"$filter"* ]]; }

# check NAME COMMAND...: one check, in the background. What the command writes to $work/note goes on its line.
check() {
    selected "$1" || return 0
    if [[ -n $counting ]]; then
        total=$((total + 1))
        return
    fi
    while (($(jobs -rp | wc -l) >= at_once)); do wait -n || true; done
    {
        attempt "$@"
        if ((status == 0)); then ended ok "$took" "$1" "$note"; else ended FAILED "$took" "$1" "exit code $status"; fi
    } &
}

# check_alone NAME COMMAND...: one check, with the machine to itself.
check_alone() {
    check "$@"
    wait
}

# skip NAME REASON: a check that this machine cannot run.
skip() {
    selected "$1" || return 0
    if [[ -n $counting ]]; then total=$((total + 1)); else ended skipped 0 "$1" "$2"; fi
}

# check_cargo_tests NAME COMMAND...: each test that cargo names in the output is a check. The command takes arguments for
# the test harness. At least one test must be there, and as many as were counted.
check_cargo_tests() {
    local name=$1 line count=0 bad=0
    selected "$name" || return 0
    shift
    if [[ -n $counting ]]; then
        "$@" --list >"$scratch/count.$name" 2>/dev/null || true
        # One that does not build is counted as one, and fails below.
        count=$(($(grep -c ': test$' "$scratch/count.$name") - $("$@" --list --ignored 2>/dev/null | grep -c ': test$'))) || true
        total=$((total + (count > 0 ? count : 1)))
        printf '%s\n' "$count" >"$scratch/count.$name"
        return
    fi
    say "running: $name"
    attempt "$name" ended_tests "$name" "$@"
    count=$(grep -cE '^(ok|FAILED).*'$'\t'"$name: " "$results" || true)
    bad=$(grep -cE '^FAILED.*'$'\t'"$name: " "$results" || true)
    if ((count == 0 || count != $(cat -- "$scratch/count.$name") || (status != 0 && bad == 0))); then
        ended FAILED "$took" "$name" "$count tests ended, $(cat -- "$scratch/count.$name") were counted, exit code $status"
    else
        say "$name: $((count - bad)) of $count passed in $took s"
        ((bad == 0)) || tail -n 40 -- "$log" | sed 's/^/        /'
    fi
}

# ended_tests NAME COMMAND...: runs the command and counts tests as they end.
ended_tests() {
    local line result
    "${@:2}" -Zunstable-options --report-time | while IFS= read -r line; do
        printf '%s\n' "$line"
        [[ $line =~ ^test\ (.*)\ \.\.\.\ (ok|FAILED)(\ \<([0-9.]+)s\>)?$ ]] || continue
        result=${BASH_REMATCH[2]}
        printf '%s\t%.0f\t%s\n' "$result" "${BASH_REMATCH[4]:-0}" "$1: ${BASH_REMATCH[1]}" >>"$results"
        tick "[$(wc -l <"$results")/$total] $result $1: ${BASH_REMATCH[1]}" 2>&3
    done
}

# outcome EXIT LINE... -- COMMAND...: the command boots the kernel, which must end with EXIT. Just one line of its
# output must match each of the patterns, and no line may complain but these.
outcome() {
    local want=$1 got=0 pattern line matches patterns=() lines wrong=''
    shift
    while [[ $1 != -- ]]; do
        patterns+=("$1")
        shift
    done
    shift
    "$@" >"$work/output" 2>&1 || got=$?
    # The console ends its lines with CR LF.
    sed -i 's/\r$//' "$work/output"
    cat -- "$work/output"
    ((got == want)) || wrong+="exit code $got, expected $want"$'\n'
    mapfile -t lines <"$work/output"
    for pattern in "${patterns[@]}"; do
        matches=0
        for line in "${lines[@]}"; do
            # shellcheck disable=SC2053 # it is a pattern
            [[ $line != $pattern ]] || matches=$((matches + 1))
        done
        ((matches == 1)) || wrong+="$matches lines, not one, match: $pattern"$'\n'
    done
    for line in "${lines[@]}"; do
        [[ $line =~ ^(refused|error|warn|panic|exception|audit: FAILED): ]] || continue
        for pattern in "${patterns[@]}"; do
            # shellcheck disable=SC2053
            [[ $line != $pattern ]] || continue 2
        done
        wrong+="unexpected: $line"$'\n'
    done
    printf '%s' "$wrong"
    [[ -z $wrong ]]
}

# --- the kinds of check ---------------------------------------------------------------------------------------------

# boot OPTION...: a guest that hangs fails its check. The limit is far from what any takes on an idle machine, a minute at
# most, for the machine may be a busy one.
boot() { "$ROOT/qemu-run.sh" --timeout 900 "$@"; }

# on_target BOARD ELF OPTION...: it must say which of its tests went well, and none may go otherwise.
on_target() {
    boot --board "$1" "${@:3}" "$2" | tee "$work/serial"
    grep -qF ': ok' "$work/serial" || {
        echo "no test says that it is ok"
        return 1
    }
}

# The programs of tests/on-target; sets on_target_elfs to those that are tests.
build_on_target() {
    build "the on-target tests for $TARGET" target_cargo test --release --package on-target --no-run --message-format=json-render-diagnostics \
        >"$scratch/on-target.json" || die "the on-target tests did not build"
    mapfile -t on_target_elfs < <(
        sed -n '/"kind":\["test"\]/s/.*"executable":"\([^"]*\)".*/\1/p' "$scratch/on-target.json" | sort
    )
    ((${#on_target_elfs[@]})) || die "no on-target test was built"
}

# planted BUG EXIT LINE...: the workload over a real bus master, in which tests/incoherent plants its bugs.
planted() {
    truncate --size=4K -- "$work/disk"
    outcome "${@:2}" -- \
        boot --image "$work/disk" --append "plant=$1" "$TARGET_DIR/$TARGET/release/planted"
}

# documents: every link in the module's documents leads somewhere. What exists for the target alone is documented there.
documents() {
    export RUSTDOCFLAGS='-D warnings'
    host_cargo doc --quiet --no-deps --package carveout --features carveout/fake
    target_cargo doc --quiet --no-deps --package carveout --package carveout-boot --package carveout-armv7a \
        --package carveout-rt
}

# cargo_runner NAME: what a developer types, for one of the on-target tests; .cargo/config.toml names the runner.
cargo_runner() { target_cargo test --quiet --release --package on-target --test "$1"; }

# main_job: what README tells people to type first, and the table that the book says comes of it.
main_job() {
    local row rows
    "$ROOT/qemu-run.sh" | tee "$work/output"
    sed -i 's/\r$//' "$work/output"
    [[ $(tail -n 1 -- "$work/output") == 'demo: ok' ]] || {
        echo "the last line is not: demo: ok"
        return 1
    }
    mapfile -t rows < <(sed -nE 's/^    ((virtio-blk|codec|scaler|PL111|camera) +[^ ].* [0-9]+)$/\1/p' "$ROOT/docs/src/testing.md")
    ((${#rows[@]} == 5))
    for row in "${rows[@]}"; do
        grep -qxF -- "$row" "$work/output" || {
            echo "not as docs/src/testing.md has it: $row"
            return 1
        }
    done
}

# book_pages: the pages of docs/, by mdBook itself, without a word of complaint.
book_pages() {
    mdbook build "$ROOT/docs" --dest-dir "$work/book" 2>&1 | tee "$work/output"
    ! grep -E 'WARN|ERROR' "$work/output"
}

# incoherent OPTION...: programs on the machine with modelled caches; the summary's last line goes on the check's.
incoherent() {
    "$ROOT/tests/incoherent/run.sh" "$@" | tee "$work/output"
    tail -n 1 -- "$work/output" >"$work/note"
}

incoherent_lints() {
    machine_cargo fmt --check
    machine_cargo clippy --quiet --release --all-targets -- -D warnings
}

# shows NAME TOLERANCE OPTIONS GENERATE-OPTION...: the demo's screen with such a picture on the disk, compared with what
# the host expects of the same file.
shows() {
    check "demo: $1" shown "$@"
}

shown() {
    local name=${1//[^a-zA-Z0-9]/_} tolerance=$2 options
    read -ra options <<<"$3"
    "$PICTURE" generate "$work/picture.jpg" "${@:4}"
    outcome 0 'demo: ok' -- \
        boot "${options[@]}" --image "$work/picture.jpg" --screenshot "$work/screen.png" "$DEMO_ELF"
    "$PICTURE" expect "$work/picture.jpg" "$work/expected.png"
    # Kept beside the logs, for the eye.
    cp -- "$work/screen.png" "$logs/$name.png"
    cp -- "$work/expected.png" "$logs/$name.expected.png"
    "$PICTURE" compare "$work/screen.png" "$work/expected.png" --tolerance "$tolerance" | tee "$work/note"
    ((PIPESTATUS[0] == 0))
}

# shows_unusual KIND: the demo's screen with a file that few encoders write, compared with what the host expects of the
# same picture in a file that all decoders take.
shows_unusual() { check "demo: unusual JPEG: $1" shown_unusual "$1"; }

shown_unusual() {
    "$PICTURE" unusual "$1" "$work/picture.jpg" "$work/twin.jpg" --size 320x240
    outcome 0 'demo: ok' -- boot --image "$work/picture.jpg" --screenshot "$work/screen.png" "$DEMO_ELF"
    "$PICTURE" expect "$work/twin.jpg" "$work/expected.png"
    "$PICTURE" compare "$work/screen.png" "$work/expected.png" --tolerance "$colour" | tee "$work/note"
    ((PIPESTATUS[0] == 0))
}

# recall_costs: on a Cortex-A9 without an outer cache, whose lines cost alike on every board.
recall_costs() {
    target_cargo build --quiet --release --package on-target --bin recall
    dtc -q -I dts -O dtb -o "$work/a9.dtb" "$ROOT/boards/vexpress-a9/vexpress-a9.dts"
    fdtput -r "$work/a9.dtb" /cache-controller@1e00a000
    outcome 0 'recall: discard, not cached *' 'recall: discard, cached *' 'recall: move *' 'recall: ok' -- \
        boot --count --append cma=16M --dtb "$work/a9.dtb" "$TARGET_DIR/$TARGET/release/recall"
    sed -n 's/^recall: ok$//; s/^recall: //p' "$work/output"
    # The fixed part grows with the area.
    outcome 0 'recall: ok' -- boot --count --append 'cma=64M recalls=200' --memory 1G --dtb "$work/a9.dtb" \
        "$TARGET_DIR/$TARGET/release/recall"
    sed -n 's/^recall: ok$//; s/^recall: //p' "$work/output"
}

# shellcheck source=tests/bad-inputs.sh
source "$ROOT/tests/bad-inputs.sh"
# shellcheck source=tests/faults.sh
source "$ROOT/tests/faults.sh"
# shellcheck source=tests/two-banks.sh
source "$ROOT/tests/two-banks.sh"
# shellcheck source=tests/cards.sh
source "$ROOT/tests/cards.sh"
# shellcheck source=tests/cores.sh
source "$ROOT/tests/cores.sh"
# shellcheck source=tests/setup-test.sh
source "$ROOT/tests/setup-test.sh"

# --- the checks -----------------------------------------------------------------------------------------------------

[[ -d $TARGET_DIR/$TARGET ]] ||
    say 'first run: what is missing is installed, everything is built and tested; about half an hour on two cores'
RUST_TOOLS+=("${CHECKERS[@]}")
require "${EMULATOR[@]}" "${TOOLCHAIN[@]}" "${INCOHERENT[@]}" "${CARDS[@]}"
choose_toolchain

# Tests tell how long they took; libtest does so only for what it takes for a nightly compiler, as rustdoc compares the
# error codes of compile-fail tests.
runner=$("$RUST_BIN/rustc" -vV | sed -n 's/^host: //p')
runner=${runner^^}
export "CARGO_TARGET_${runner//-/_}_RUNNER=env RUSTC_BOOTSTRAP=1"
host_tests() { host_cargo test --no-fail-fast --lib --bins --tests -- "$@"; }
doctests() { (export RUSTC_BOOTSTRAP=1 && host_cargo test --doc -- "$@"); }
# Every interleaving of a few threads, in a build of its own: the crate's locks and atomics are loom's there.
interleavings() {
    (export RUSTFLAGS='--cfg loom' && host_cargo test --package carveout --lib --target-dir "$TARGET_DIR/loom" \
        -- interleavings "$@")
}
incoherent_tests() { machine_cargo test --release -- "$@"; }

# What several checks share.
build_all() {
    build_demo
    build_picture
    build_on_target
    # Cargo says itself what does not build, again, in the check that wanted it.
    ! selected 'host tests' || build 'the host tests' host_cargo test --no-run --lib --bins --tests || true
    [[ -n $quick ]] || ! selected 'interleavings' || build 'the interleavings' interleavings --list >/dev/null || true
    [[ -n $filter && $filter != incoherent* ]] || "$ROOT/tests/incoherent/run.sh" --build || true
    build_cards
}

checks() {
    check_alone 'format' host_cargo fmt --all --check
    check_alone 'clippy, host' host_cargo clippy --quiet --all-targets -- -D warnings
    check_alone 'clippy, kernel' target_cargo clippy --quiet --release --package carveout-boards --bin demo -- -D warnings
    check_alone 'clippy, on-target tests' \
        target_cargo clippy --quiet --release --package on-target --lib --bins --tests -- -D warnings
    check_alone 'documents' documents
    setup_decisions
    check_cargo_tests 'host tests' host_tests
    check_cargo_tests 'doc tests, error codes included' doctests
    # The tests of the package docs/ check summary, links and code on every machine.
    ! command -v mdbook >/dev/null || check 'book: its pages' book_pages
    if [[ -z $quick ]]; then
        check_cargo_tests 'interleavings' interleavings
        # Instructions are counted, not timed: the same on every machine, whatever else it does.
        check 'instruction budgets' "$ROOT/tests/bench.sh"
        check 'instructions on several cores' "$ROOT/tests/bench-cores.sh"
    fi

    # An ELF is called NAME-HASH.
    for elf in "${on_target_elfs[@]}"; do
        name=${elf##*/}
        # All of the loans' 100,000 steps take minutes.
        [[ -n $quick && ${name%-*} == loans ]] || check "on target: vexpress-a9: ${name%-*}" on_target vexpress-a9 "$elf"
        # A tenth of them: what is another board's is in the first.
        for board in realview-pb-a8 cubieboard; do
            check "on target: $board: ${name%-*}" on_target "$board" "$elf" --append steps=10000
        done
        [[ ${name%-*} != four_cores ]] ||
            check 'on target: four cores: four_cores' on_target vexpress-a9 "$elf" --smp 4
    done
    faults
    check 'on target: vexpress-a9: planted' planted none 0 'plant=none: ok'
    # The one bug that QEMU, which has a TLB and no caches, can show.
    check 'on target: vexpress-a9: planted, no TLB invalidate' planted no-tlbi 1 \
        'error: plant=no-tlbi: word 0 is 0x????????, not 0x????????' \
        'warn: carveout::dma: quarantined buffer 0x9c004000-*'
    two_banks
    name=${on_target_elfs[0]##*/}
    check "cargo's runner" cargo_runner "${name%-*}"

    check 'main job' main_job
    check 'demo: loans' outcome 0 'loans: lent *' 'loans: failures           0' 'cache: * blocks written in memory, on the disk now, intact; *' \
        'demo: ok' -- boot_picture small --append demo=loans
    [[ -n $quick ]] || check 'on target: what recalls cost' recall_costs

    # Mean and largest difference, in steps of 1/255 of a channel. Two decoders that both keep to the standard may differ by
    # a step in each of the inverse DCT, the upsampling of the chroma and the colour conversion, which weighs chroma up to
    # 1.8 times; the scaler, in integers, may add one by rounding. Measured on these pictures: at most 1 with a mean of 0.006
    # for greyscale, at most 4 with a mean of 0.086 for colour. A picture shifted by one pixel, or with two channels
    # swapped, is off by dozens: tests/picture has a test that says so.
    grey='0.05,2' colour='0.25,6'
    shows '4:2:0' "$colour" '' --size 640x480 --mode 420 --seed 1
    shows 'progressive' "$colour" '' --size 1024x768 --mode 420 --progressive --seed 2
    shows 'grey' "$grey" '' --size 333x222 --mode grey --seed 3
    shows '1x1' "$colour" '' --size 1x1 --mode 420 --seed 4
    shows 'four cores' "$colour" '--smp 4' --size 640x480 --seed 5
    shows 'cubieboard, from its SATA disk' "$colour" '--board cubieboard' --size 640x480 --seed 22
    shows 'realview-pb-a8' "$colour" '--board realview-pb-a8' --size 1024x768 --seed 22
    for kind in no-dht dnl app-between-scans 444-as-2x1; do shows_unusual "$kind"; done
    dtc -q -I dts -O dtb -o "$scratch/video.dtb" "$ROOT/tests/distribution.dts"
    shows 'from video memory outside RAM' "$colour" "--dtb $scratch/video.dtb" --size 640x480 --seed 23
    shows '128 MiB of RAM' "$colour" '--memory 128M' --size 640x480 --seed 6
    if [[ -z $quick ]]; then
        for kind in 440-as-2x2 restarts wide-tables; do shows_unusual "$kind"; done
        shows '256 MiB of RAM' "$colour" '--memory 256M' --size 1600x1200 --seed 7
        shows '4:4:4' "$colour" '' --size 640x480 --mode 444 --seed 8
        shows '4:2:2' "$colour" '' --size 800x600 --mode 422 --seed 9
        shows '4:4:0' "$colour" '' --size 800x600 --mode 440 --seed 10
        shows '4:4:4 progressive' "$colour" '' --size 640x480 --mode 444 --progressive --seed 11
        shows '4:2:2 progressive' "$colour" '' --size 800x600 --mode 422 --progressive --seed 12
        shows '4:4:0 progressive' "$colour" '' --size 800x600 --mode 440 --progressive --seed 13
        shows 'grey progressive' "$grey" '' --size 500x700 --mode grey --progressive --seed 14
        shows 'one column' "$colour" '' --size 1x333 --mode 420 --seed 15
        shows 'one row' "$colour" '' --size 517x1 --mode 420 --seed 16
        shows 'odd sides' "$colour" '' --size 641x479 --mode 420 --seed 17
        shows 'odd sides, progressive' "$colour" '' --size 641x479 --mode 420 --progressive --seed 17
        shows 'narrow' "$colour" '' --size 17x4000 --mode 420 --seed 18
        shows 'wide' "$colour" '' --size 4001x13 --mode 422 --seed 19
        shows '12 megapixels' "$colour" '--append cma=128M' --size 4000x3000 --mode 420 --seed 20
        shows '12 megapixels, progressive' "$colour" '--append cma=128M' --size 4000x3000 --mode 420 --progressive --seed 21
    fi

    bad_inputs

    cards

    cores

    # A slice; tests/incoherent/README.md has the campaigns. Two seeds of every planted bug on every model where it is one.
    check_alone 'incoherent: build' "$ROOT/tests/incoherent/run.sh" --build
    check_cargo_tests 'incoherent: tests of the machine' incoherent_tests
    check_alone 'incoherent: format and clippy' incoherent_lints
    check_alone 'incoherent: planted bugs' incoherent --plants --seeds 2 --limit 60
    check_alone 'incoherent: on-target tests' incoherent --test direct_map --test driver --seeds 1

    # One that waits for a key that never comes.
    check 'timeout' outcome 124 'error: no end after 10 seconds' 'demo: picture on screen, waiting for a key' -- \
        boot_picture small --append hold --timeout 10
}

build_all
counting=1
checks
counting=''
say "running: $total checks"
checks
wait

count() { cut -f 1 -- "$results" | grep -cx "$1" || true; }
echo 'the slowest:'
sort -t $'\t' -k 2,2nr -- "$results" | awk -F '\t' 'NR <= 10 { printf "%6d s  %s\n", $2, $3 }'
failed=$(count FAILED) skipped=$(count skipped)
((failed == 0)) || awk -F '\t' '$1 == "FAILED" { print "FAILED: " $3 }' "$results"
((skipped == 0)) || awk -F '\t' '$1 == "skipped" { print "skipped: " $3 }' "$results"
note=''
((skipped == 0)) || note=", $skipped skipped"
echo "$(count ok) passed, $failed failed$note"
((failed == 0))
