#!/usr/bin/env bash
# Counts instructions with 1, 2 and 4 cores at once: xtask/src/bench.rs.
set -euo pipefail
# shellcheck source=tests/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"
xtask bench-cores "${EMULATOR[@]}" -- "$@"
