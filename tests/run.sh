#!/usr/bin/env bash
# Every check of the project: xtask/src/check/. The last line is "N passed, N failed".
set -euo pipefail
# shellcheck source=tests/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"
if [[ ${1:-} == --doctor ]]; then
    doctor
    exit
fi
[[ -d $TARGET_DIR/$TARGET ]] ||
    say 'first run: what is missing is installed, everything is built and tested; about half an hour on two cores'
RUST_TOOLS+=("${CHECKERS[@]}")
xtask check "${EMULATOR[@]}" "${INCOHERENT[@]}" "${CARDS[@]}" "${EXAMPLES[@]}" -- "$@"
