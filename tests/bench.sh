#!/usr/bin/env bash
# Counts instructions, and prints what things cost beside the budgets: xtask/src/bench.rs.
set -euo pipefail
# shellcheck source=tests/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"
xtask bench "${EMULATOR[@]}" -- "$@"
