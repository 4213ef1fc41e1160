#!/usr/bin/env bash
# Runs programs of the kernel on the incoherent machine: README.md beside this file, xtask/src/incoherent.rs.
set -euo pipefail
# shellcheck source=tests/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../setup.sh"
xtask incoherent dtc "${INCOHERENT[@]}" "${EXAMPLES[@]}" -- "$@"
