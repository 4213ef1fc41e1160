#!/usr/bin/env bash
# Every check of the project. Sets itself up (tests/setup.sh), prints a line a check and what failed, and ends with
# the line "N passed, N failed". The output of each check stays in target/tests/.
set -euo pipefail
# shellcheck source=tests/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"

usage() {
    cat <<'END'
usage: ./tests/run.sh [--quick] [--filter TEXT]

  --quick        fewer pictures; under two minutes once everything is built
  --filter TEXT  only the checks whose name contains TEXT; the names are what the script prints
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
    --help) usage && exit 0 ;;
    *) die "unknown option $1; see --help" ;;
    esac
done

logs=$TARGET_DIR/tests
mkdir -p "$logs"
# Inputs are made here; a directory of its own lets two runs go on at once.
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
passed=0 failed=0

# --- running and counting -------------------------------------------------------------------------------------------

# attempt NAME COMMAND...: runs the command, its output to a log. Sets status, and log to the log's path.
# Returns 1, doing nothing, where the filter excludes it. The command fails at its first failing step.
attempt() {
    local name=$1
    shift
    [[ $name == *"$filter"* ]] || return 1
    log=$logs/${name//[^a-zA-Z0-9.=-]/_}.log
    local start=$SECONDS
    set +e
    (
        set -e
        "$@"
    ) >"$log" 2>&1 </dev/null
    status=$?
    set -e
    took=$((SECONDS - start))
}

# report NAME: the line of the check just attempted, and its log if it failed.
report() {
    if ((status == 0)); then
        echo "ok      $1 (${took} s)"
    else
        echo "FAILED  $1 (exit code $status, ${took} s); the end of $log:"
        tail -n 40 -- "$log" | sed 's/^/        /'
    fi
}

# check NAME COMMAND...: one check.
check() {
    attempt "$@" || return 0
    report "$1"
    if ((status == 0)); then passed=$((passed + 1)); else failed=$((failed + 1)); fi
}

# check_cargo_tests NAME COMMAND...: counts the tests that cargo names in its output; at least one must be there.
check_cargo_tests() {
    local good bad
    attempt "$@" || return 0
    good=$(grep -c '^test .* \.\.\. ok$' "$log" || true)
    bad=$(grep -c '^test .* \.\.\. FAILED$' "$log" || true)
    # A failure to build, or a run without a test, is a failed check of its own.
    ((status == 0 && good > 0 || bad > 0)) || bad=1
    ((bad == 0 || status != 0)) || status=1
    report "$1: $good passed, $bad failed"
    passed=$((passed + good)) failed=$((failed + bad))
}

# expect_exit CODE COMMAND...
expect_exit() {
    local want=$1 got=0
    shift
    "$@" || got=$?
    ((got == want)) || {
        echo "exit code $got, expected $want"
        return 1
    }
}

# expect_text TEXT FILE: a line of the file contains the text.
expect_text() {
    grep -qF -- "$1" "$2" || {
        echo "no line contains: $1"
        return 1
    }
}

# expect_end LINE FILE: the file's last line is this one. The console ends its lines with CR LF.
expect_end() {
    [[ $(tail -n 1 -- "$2" | tr -d '\r') == "$1" ]] || {
        echo "the last line is not: $1"
        return 1
    }
}

# --- the kinds of check ---------------------------------------------------------------------------------------------

boot() { "$ROOT/qemu-run.sh" --timeout 60 "$@"; }

# on_target ELF: it must say which of its tests went well, and none may go otherwise.
on_target() {
    boot "$1" | tee "$work/serial"
    expect_text ': ok' "$work/serial"
}

# cargo_runner: what a developer types, for one of the on-target tests; .cargo/config.toml names the runner.
cargo_runner() {
    target_cargo test --quiet --release --package on-target --test "$1"
}

# main_job: what README tells people to type first.
main_job() {
    "$ROOT/qemu-run.sh" | tee "$work/serial"
    expect_end 'demo: ok' "$work/serial"
}

# shows APPEND TOLERANCE FILE.jpg: the demo's screen, compared with what the host expects of the same file.
shows() {
    boot --append "$1" --image "$3" --screenshot "$work/screen.png" "$DEMO_ELF" | tee "$work/serial"
    expect_end 'demo: ok' "$work/serial"
    "$PICTURE" expect "$3" "$work/expected.png"
    # Kept beside the logs, for the eye.
    cp -- "$work/screen.png" "$work/expected.png" "$logs"
    "$PICTURE" compare "$work/screen.png" "$work/expected.png" --tolerance "$2"
}

# shows_generated APPEND TOLERANCE GENERATE-OPTION...
shows_generated() {
    "$PICTURE" generate "$work/picture.jpg" "${@:3}"
    shows "$1" "$2" "$work/picture.jpg"
}

# shellcheck source=tests/bad-inputs.sh
source "$ROOT/tests/bad-inputs.sh"

# --- the checks -----------------------------------------------------------------------------------------------------

need_emulator
choose_toolchain
choose_checkers

check 'format' host_cargo fmt --all --check
check 'clippy, host' host_cargo clippy --quiet --all-targets -- -D warnings
check 'clippy, target' target_cargo clippy --quiet --release --package carveout-boards --bin demo -- -D warnings
check_cargo_tests 'host tests' host_cargo test --no-fail-fast

build_demo
build_picture

say "building: the on-target tests"
target_cargo test --quiet --release --package on-target --no-run --message-format=json-render-diagnostics >"$work/build.json" ||
    die "the on-target tests did not build"
on_target_elfs=()
while IFS= read -r elf; do on_target_elfs+=("$elf"); done < <(
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' "$work/build.json" | sort
)
# An ELF is called NAME-HASH.
for elf in "${on_target_elfs[@]}"; do
    name=${elf##*/}
    check "on target: ${name%-*}" on_target "$elf"
done
if ((${#on_target_elfs[@]})); then
    name=${on_target_elfs[0]##*/}
    check "cargo's runner" cargo_runner "${name%-*}"
fi

check 'main job' main_job

# Two decoders that both keep to the standard may differ by a step in each of the inverse DCT, the upsampling of the
# chroma and the colour conversion. Between the codec's decoder and the judge's, over these very pictures, the host
# measured at most 1 step for greyscale and 4 for colour, with a mean of 0.015 and 0.084. The scaler, in integers, may
# add one step by rounding. A shift by one pixel is off by 178 steps or more somewhere, swapped channels by 95.
grey='0.25,2' colour='0.5,6'
check 'demo: 4:2:0' shows_generated '' "$colour" --size 640x480 --mode 420 --seed 1
check 'demo: progressive' shows_generated '' "$colour" --size 1024x768 --mode 420 --progressive --seed 2
check 'demo: grey' shows_generated '' "$grey" --size 333x222 --mode grey --seed 3
check 'demo: 1x1' shows_generated '' "$colour" --size 1x1 --mode 420 --seed 4
if [[ -z $quick ]]; then
    check 'demo: 4:4:4' shows_generated '' "$colour" --size 640x480 --mode 444 --seed 5
    check 'demo: 4:2:2' shows_generated '' "$colour" --size 800x600 --mode 422 --seed 6
    check 'demo: odd size' shows_generated '' "$colour" --size 641x479 --mode 420 --seed 7
    check 'demo: narrow' shows_generated '' "$colour" --size 37x1999 --mode 420 --seed 8
    check 'demo: wide' shows_generated '' "$colour" --size 2001x13 --mode 422 --seed 9
    check 'demo: grey progressive' shows_generated '' "$grey" --size 500x700 --mode grey --progressive --seed 10
    check 'demo: 12 megapixels' shows_generated 'cma=128M' "$colour" --size 4000x3000 --mode 420 --seed 11
    check 'demo: 12 megapixels, progressive' \
        shows_generated 'cma=128M' "$colour" --size 4000x3000 --mode 420 --progressive --seed 12
fi

bad_inputs

echo "$passed passed, $failed failed"
((failed == 0))
