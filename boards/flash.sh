#!/usr/bin/env bash
# Makes the image of an SD card from which a board's own U-Boot boots the kernel: see docs/src/boards.md.
set -euo pipefail
# shellcheck source=tests/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../tests/setup.sh"

usage() {
    cat <<'END'
usage: boards/flash.sh --board cubieboard|beaglebone-black --out CARD.img

Builds the kernel and makes a card image with Debian's U-Boot for the board, the kernel as a zImage, the device tree of
Debian's kernel and an extlinux.conf. Needs no root. Installs what is missing; Debian's packages for armhf are fetched
beside the system's own, into target/distribution, and not installed. Write the image to a card with dd.

The exit code is 3 where Debian's armhf packages cannot be had; 2 if the command line or the machine is at fault.
END
}

board='' out=''
while (($#)); do
    case $1 in
    --board | --out)
        (($# > 1)) || die "$1 needs a value"
        case $1 in
        --board) board=$2 ;;
        --out) out=$2 ;;
        esac
        shift 2
        ;;
    --help) usage && exit 0 ;;
    *) die "unknown argument $1; see --help" ;;
    esac
done

# What the board's ROM and U-Boot look for, and where: FILE@KIBIBYTE. The boot arguments ask for an area where the
# distribution's tree has none.
case $board in
cubieboard)
    package=u-boot-sunxi folder=Cubieboard tree=sun4i-a10-cubieboard.dtb
    raw=(u-boot-sunxi-with-spl.bin@8) fat_mib=1 append='loglevel=7'
    ;;
beaglebone-black)
    package=u-boot-omap folder=am335x_boneblack tree=am335x-boneblack.dtb
    raw=(MLO@128 u-boot.img@384) fat_mib=4 append='cma=64M loglevel=7'
    ;;
'') die "no board given: --board cubieboard or --board beaglebone-black" ;;
*) die "no card for board '$board'; there are: beaglebone-black cubieboard" ;;
esac
[[ -n $out ]] || die "no file given: --out CARD.img"
[[ -d $(dirname -- "$out") ]] || die "no such folder: $(dirname -- "$out")"
[[ ! -e $out || -f $out ]] || die "not a file: $out; make an image first, then write it to the card with dd"

# Emulators take cards of a power of two only.
readonly CARD_MIB=64

# --- what Debian has ------------------------------------------------------------------------------------------------

readonly STORE=$TARGET_DIR/distribution

absent() {
    say "error: Debian's armhf packages cannot be had: $*"
    exit 3
}

# armhf COMMAND...: an apt command with a state of its own, for another architecture than the system's.
armhf() {
    local command=$1
    shift
    "$command" -o Dir::State="$STORE/apt" -o Dir::State::status="$STORE/apt/status" -o Dir::Cache="$STORE/apt/cache" \
        -o APT::Architecture=armhf -o APT::Architectures=armhf -o APT::Sandbox::User= -o Acquire::Languages=none "$@"
}

# fetch PACKAGE FILE...: puts the files of a package, named by patterns, into STORE/PACKAGE, unless they are there.
fetch() {
    local name=$1 work log=$STORE/apt/log
    shift
    # Another version of this script may have wanted other files.
    [[ ! -d $STORE/$name || $(cat -- "$STORE/$name.files" 2>/dev/null) != "$*" ]] || return 0
    command -v apt-get >/dev/null || absent "no apt-get here"
    mkdir -p "$STORE/apt/lists/partial" "$STORE/apt/cache/archives/partial"
    : >"$STORE/apt/status"
    say "fetching: $name for armhf"
    work=$STORE/apt/$name
    rm -rf -- "$work" && mkdir -p "$work/files"
    if ! (cd "$work" && armhf apt-get -qq download "$name") >"$log" 2>&1; then
        # The usual cause is a package list that is old or was never fetched. One that fails may not be needed.
        armhf apt-get -qq update >"$log" 2>&1 || true
        (cd "$work" && armhf apt-get -qq download "$name") >>"$log" 2>&1 ||
            absent "$name: $(grep -m 1 '^E:' "$log" || tail -n 1 "$log")"
    fi
    dpkg-deb --fsys-tarfile "$work"/*.deb | tar -x -C "$work/files" --wildcards "$@" || absent "$name has no $*"
    # All or nothing: the folder's existence says that it is whole.
    rm -rf -- "${STORE:?}/$name"
    mv -- "$work/files" "$STORE/$name"
    echo "$*" >"$STORE/$name.files"
    rm -rf -- "$work"
}

# kernel_package: the package of the current kernel, which another one depends on.
kernel_package() {
    fetch linux-image-armmp './usr/share/doc/*'
    armhf apt-cache depends linux-image-armmp | sed -n 's/^ *Depends: \(linux-image-.*-armmp\)$/\1/p'
}

require objcopy "${CARDS[@]}"
fetch "$package" "./usr/lib/u-boot/$folder/*"
kernel=$(kernel_package)
[[ -n $kernel ]] || absent "linux-image-armmp names no kernel"
# The last is for the tests: a tree with video memory.
fetch "$kernel" './usr/lib/linux-image-*/sun4i-a10-cubieboard.dtb' './usr/lib/linux-image-*/am335x-boneblack.dtb' \
    './usr/lib/linux-image-*/vexpress-v2p-ca9.dtb'

# --- the card -------------------------------------------------------------------------------------------------------

choose_toolchain
build_demo

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
card=$work/card.img fat=$work/card.img@@${fat_mib}M
flatten "$DEMO_ELF" "$work/zImage"

truncate -s "${CARD_MIB}M" "$card"
# One partition, FAT16 by sector numbers.
echo "start=${fat_mib}MiB, type=e, bootable" | sfdisk --quiet --label dos "$card" 2>"$work/log" || {
    cat "$work/log" >&2
    die "sfdisk made no partition"
}
end=1 # KiB: the partition table
for file in "${raw[@]}"; do
    at=${file#*@} file=$STORE/$package/usr/lib/u-boot/$folder/${file%@*}
    ((at >= end)) || die "$file at $at KiB would overwrite what ends at $end KiB"
    dd if="$file" of="$card" bs=1K seek="$at" conv=notrunc status=none
    end=$((at + ($(stat -c %s "$file") + 1023) / 1024))
done
((end <= fat_mib << 10)) || die "$file ends at $end KiB, in the partition"

cat >"$work/extlinux.conf" <<END
default carveout
timeout 10
label carveout
    kernel /zImage
    fdt /$tree
    append $append
END
mformat -i "$fat" -T $(((CARD_MIB - fat_mib) << 11)) -h 64 -s 32 -v CARVEOUT -N 0 ::
mmd -i "$fat" ::extlinux
mcopy -i "$fat" "$work/zImage" "$STORE/$kernel"/usr/lib/linux-image-*/"$tree" ::
mcopy -i "$fat" "$work/extlinux.conf" ::extlinux
mv -- "$card" "$out"
say "made: $out, $CARD_MIB MiB: ${raw[*]} (KiB), FAT from $fat_mib MiB with zImage, $tree, extlinux/extlinux.conf"
