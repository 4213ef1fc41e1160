#!/usr/bin/env bash
# Builds the kernel, boots it in QEMU and runs the demo; given an ELF, boots that instead (cargo's runner): xtask/src/boot.rs.
set -euo pipefail
# shellcheck source=tests/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/tests/setup.sh"
[[ -d $TARGET_DIR/$TARGET ]] ||
    say 'first run: what is missing is installed, then the kernel is built; about three minutes on two cores'
xtask boot "${EMULATOR[@]}" -- "$@"
