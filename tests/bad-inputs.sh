# shellcheck shell=bash
# Sourced by tests/run.sh: the table of bad inputs, and what makes them. A row is
#
#     KIND NAME EXIT MESSAGE INPUT...
#
# where EXIT is the guest's exit code and MESSAGE a text that one line of its output must contain, to the letter.

# Made by the script that sources this one: a scratch directory.
: "${work:?}"

bad_inputs() {
    # Boot arguments: INPUT is appended to the defaults, and the last cma= counts.
    bad_args 'cma= malformed' 1 'cma=64Q: unexpected "Q"' 'cma=64Q'
    bad_args 'cma= bigger than RAM' 1 'cma=2G: 2 GiB asked for, but all RAM is 1 GiB' 'cma=2G'
    bad_args 'cma= base misaligned' 1 \
        'cma=16M@0x70000800: 0x70000800-0x71000800 (16 MiB) does not start and end at a multiple of 4 KiB' \
        'cma=16M@0x70000800'
    bad_args 'cma= outside RAM' 1 \
        'cma=16M@0x20000000: 0x20000000-0x21000000 (16 MiB) is not all RAM' 'cma=16M@0x20000000'
    bad_args 'cma= over the kernel image' 1 \
        'cma=16M@0x60000000: 0x60000000-0x61000000 (16 MiB) overlaps the kernel image at 0x60010000-' 'cma=16M@0x60000000'
    # QEMU puts the device tree 128 MiB above the start of RAM.
    bad_args 'cma= over the DTB' 1 \
        'cma=16M@0x68000000: 0x68000000-0x69000000 (16 MiB) overlaps the device tree at 0x68000000-' 'cma=16M@0x68000000'

    # Nodes of /reserved-memory: the demo has its default area and goes on.
    bad_tree 'reserved-memory: overlapping' 0 \
        'reserved-memory/b@70100000: 0x70100000-0x70300000 (2 MiB) overlaps reserved-memory/a@70000000 at 0x70000000-' '
        a@70000000 { reg = <0x70000000 0x200000>; no-map; };
        b@70100000 { reg = <0x70100000 0x200000>; no-map; };'
    bad_tree 'reserved-memory: no-map and reusable' 0 \
        'reserved-memory/pool@70000000: no-map and reusable exclude each other' '
        pool@70000000 { reg = <0x70000000 0x400000>; compatible = "shared-dma-pool"; no-map; reusable; };'
    bad_tree 'reserved-memory: size 0' 0 'reserved-memory/pool: size is 0' '
        pool { size = <0>; compatible = "shared-dma-pool"; reusable; };'
    bad_tree 'reserved-memory: alignment not a power of two' 0 \
        'reserved-memory/pool: alignment 0x300000 is not a power of two' '
        pool { size = <0x400000>; alignment = <0x300000>; compatible = "shared-dma-pool"; reusable; };'
    bad_tree 'reserved-memory: alloc-ranges too small' 0 \
        'reserved-memory/pool: alloc-ranges are too small: 4 MiB asked for, room for 2 MiB' '
        pool { size = <0x400000>; alloc-ranges = <0x70000000 0x200000>; compatible = "shared-dma-pool"; reusable; };'

    # Device trees that QEMU would refuse or repair: INPUT is a command that writes the blob to the file it is given.
    bad_blob 'DTB: garbage' 1 \
        'device tree: no device tree: the first word is 0xffd8ffe0, not 0xd00dfeed' blob_of_garbage
    bad_blob 'DTB: truncated' 1 'device tree: ' blob_truncated
    bad_blob 'DTB: no memory node' 1 'device tree: no node with device_type "memory" names any RAM' blob_without_memory

    # Pictures: INPUT is a command that writes the JPEG to the file it is given, and boot arguments.
    bad_picture 'JPEG: truncated' 1 'JPEG' picture_truncated ''
    bad_picture 'JPEG: corrupt' 1 'JPEG' picture_corrupt ''
    bad_picture 'JPEG: not one' 1 'JPEG' picture_of_text ''
    bad_picture 'JPEG: too large for the area' 1 'no capacity' picture_large 'cma=8M'
    bad_picture 'disk: absent' 1 'disk' none ''
}

# --- the kinds of row -----------------------------------------------------------------------------------------------

bad_args() { check "bad input: $1" refused "$2" "$3" boot_good_picture --append "$4"; }

bad_tree() { check "bad input: $1" bad_tree_boots "$2" "$3" "$4"; }

bad_blob() { check "bad input: $1" bad_blob_boots "$2" "$3" "$4"; }

bad_picture() { check "bad input: $1" bad_picture_boots "$2" "$3" "$4" "$5"; }

# refused EXIT MESSAGE COMMAND...: the command boots the kernel.
refused() {
    expect_exit "$1" "${@:3}" >"$work/serial" 2>&1 || {
        cat "$work/serial"
        return 1
    }
    cat "$work/serial"
    expect_text "$2" "$work/serial"
}

boot_good_picture() {
    "$PICTURE" generate "$work/picture.jpg" --size 320x240
    boot --image "$work/picture.jpg" "$@" "$DEMO_ELF"
}

bad_tree_boots() {
    tree_with "$work/variant.dtb" "reserved-memory { #address-cells = <1>; #size-cells = <1>; ranges; $3 };"
    refused "$1" "$2" boot_good_picture --dtb "$work/variant.dtb"
}

bad_blob_boots() {
    "$3" "$work/variant.dtb"
    refused "$1" "$2" boot_blob "$work/variant.dtb"
}

bad_picture_boots() {
    local image=()
    if [[ $3 != none ]]; then
        "$3" "$work/bad.jpg"
        image=(--image "$work/bad.jpg")
    fi
    refused "$1" "$2" boot "${image[@]}" --append "$4" "$DEMO_ELF"
}

# --- device trees ---------------------------------------------------------------------------------------------------

# tree_with OUT.dtb FRAGMENT: the board's tree with more nodes or properties at the root.
tree_with() {
    { cat "$ROOT/boards/vexpress-a9/vexpress-a9.dts" && echo "/ { $2 };"; } | dtc -q -I dts -O dtb -o "$1" -
}

blob_of_garbage() { "$PICTURE" generate "$1" --size 64x64; }

# The header and part of the structure: total size says more than is there.
blob_truncated() {
    tree_with "$work/whole.dtb" ''
    head -c 700 "$work/whole.dtb" >"$1"
}

blob_without_memory() {
    tree_with "$1" '/delete-node/ memory@60000000; chosen { bootargs = "cma=64M loglevel=6"; };'
}

# boot_blob FILE: boots the kernel on a device tree that QEMU never sees: kernel, tree and a stub that enters the one
# with the address of the other are put into memory as they are.
boot_blob() {
    flatten "$DEMO_ELF" "$work/kernel.bin"
    board_args vexpress-a9
    # mov r0, #0; mov r1, #0; ldr r2, [pc, #4]; ldr pc, [pc, #4]; (a word not read); tree; kernel
    printf '%b' '\x00\x00\xa0\xe3' '\x00\x10\xa0\xe3' '\x04\x20\x9f\xe5' '\x04\xf0\x9f\xe5' \
        '\x00\x00\x00\x00' '\x00\x00\x00\x68' '\x00\x00\x01\x60' >"$work/stub.bin"
    timeout 60 qemu-system-arm "${BOARD_ARGS[@]}" -display none -serial stdio -monitor none \
        -semihosting-config 'enable=on,target=native' \
        -device "loader,file=$work/kernel.bin,addr=0x60010000,force-raw=on" \
        -device "loader,file=$1,addr=0x68000000,force-raw=on" \
        -device "loader,file=$work/stub.bin,addr=0x60000000,force-raw=on" \
        -device 'loader,addr=0x60000000,cpu-num=0'
}

# --- pictures -------------------------------------------------------------------------------------------------------

picture_truncated() {
    "$PICTURE" generate "$work/whole.jpg" --size 320x240
    head -c 4000 "$work/whole.jpg" >"$1"
}

picture_corrupt() {
    "$PICTURE" generate "$work/whole.jpg" --size 320x240
    "$PICTURE" corrupt "$work/whole.jpg" "$1"
}

picture_of_text() { echo 'This is no picture.' >"$1"; }

picture_large() { "$PICTURE" generate "$1" --size 4000x3000; }
