#!/usr/bin/env bash
# Where the instructions of one row of the bench go: xtask/src/bench.rs.
set -euo pipefail
# shellcheck source=tests/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../setup.sh"
xtask profile "${EMULATOR[@]}" -- "$@"
