#!/usr/bin/env bash
# Mistakes planted in the code of loans and contracts, which the host tests must find: xtask/src/mutants.rs.
set -euo pipefail
# shellcheck source=tests/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"
xtask mutants -- "$@"
