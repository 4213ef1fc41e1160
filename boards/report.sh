#!/usr/bin/env bash
# Puts together what somebody saw of a board: see boards/README.md.
set -euo pipefail
# shellcheck source=tests/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../tests/setup.sh"

usage='usage: boards/report.sh --card CARD.img|DEVICE --log SERIAL.log --out REPORT.tar.gz'
card='' log='' out=''
while (($#)); do
    case $1 in
    --help) echo "$usage" && exit ;;
    --card) card=${2-} ;;
    --log) log=${2-} ;;
    --out) out=${2-} ;;
    *) die "unknown option $1; $usage" ;;
    esac
    shift $(($# > 1 ? 2 : 1))
done
[[ -n $card && -n $log && -n $out ]] || die "$usage"
[[ -r $card ]] || die "no such card, or not to be read: $card"
[[ -f $log ]] || die "no such log: $log"
require "${CARDS[@]}"

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
mkdir -- "$work/report" "$work/files"
start=$(sfdisk --json "$card" 2>/dev/null | sed -n 's/.*"start": *\([0-9]*\).*/\1/p' | head -n 1) || true
[[ -n $start ]] || die "no partition on the card: $card"
mcopy -s -n -i "$card@@$((start * 512))" '::*' "$work/files" 2>/dev/null || die "no files on the card: $card"
cp -- "$log" "$work/report/serial.log"
cp -- "$work/files/extlinux/extlinux.conf" "$work"/files/*.dtb "$work/report"
[[ ! -f $work/files/SCREEN.BMP ]] || cp -- "$work/files/SCREEN.BMP" "$work/report"
(cd -- "$work/files" && find . -type f -exec sha256sum {} + | sort -k 2) >"$work/report/files.txt"
{
    echo "commit: $(git -C "$ROOT" describe --always --dirty 2>/dev/null || echo unknown)"
    echo "zImage: $(sha256sum <"$work/files/zImage" | cut -d ' ' -f 1)"
} >"$work/report/build.txt"
tar -C "$work" -czf "$out" report
say "made: $out: $(tar -tzf "$out" | grep -c -v '/$') files; look into it before you send it"
