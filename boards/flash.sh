#!/usr/bin/env bash
# Makes the image of an SD card from which a board's own U-Boot boots the kernel: xtask/src/flash.rs.
set -euo pipefail
# shellcheck source=tests/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../tests/setup.sh"
xtask flash objcopy "${CARDS[@]}" -- "$@"
