# shellcheck shell=bash
# Sourced by tests/run.sh: the cards that boards/flash.sh makes, looked at by other means than those it was made by, and
# the real boot chain: Debian's U-Boot for the Cubieboard, from its own card, in QEMU.

: "${work=}" "${scratch=}" "${logs=}" "${quick=}"

of_cubieboard='card: cubieboard' of_beaglebone='card: beaglebone-black'
drivers="card: drivers for the distribution's device trees"
uboot='U-Boot: cubieboard, from its card to the demo'
direct="U-Boot: cubieboard, the distribution's tree without it"
video="card: video memory in the distribution's tree"
CARD_CHECKS=("$of_cubieboard" "$of_beaglebone" "$drivers" "$uboot" "$direct" "$video")

# build_cards: the cards that the checks look at; sets cards_absent to the reason where Debian's packages cannot be had.
build_cards() {
    local board name wanted='' status=0
    cards_absent=''
    for name in "${CARD_CHECKS[@]}"; do
        ! selected "$name" || wanted=1
    done
    [[ -n $wanted ]] || return 0
    for board in cubieboard beaglebone-black; do
        say "building: the card for $board"
        "$ROOT/boards/flash.sh" --board "$board" --out "$logs/$board.img" >"$logs/card_$board.log" 2>&1 || status=$?
        ((status != 3)) || cards_absent=$(tail -n 1 "$logs/card_$board.log")
    done
}

cards() {
    local name
    check 'card: an unknown board' outcome 2 "error: no card for board 'toaster'; there are: *" -- \
        "$ROOT/boards/flash.sh" --board toaster --out "$scratch/toaster.img"
    check 'card: no such folder' outcome 2 'error: no such folder: /nowhere' -- \
        "$ROOT/boards/flash.sh" --board cubieboard --out /nowhere/card.img
    check 'card: not over a device' outcome 2 'error: not a file: /dev/null; *' -- \
        "$ROOT/boards/flash.sh" --board cubieboard --out /dev/null
    if [[ -n $cards_absent ]]; then
        for name in "${CARD_CHECKS[@]}"; do skip "$name" "$cards_absent"; done
        return
    fi
    check "$of_cubieboard" card cubieboard 2048 u-boot-sunxi/usr/lib/u-boot/Cubieboard/u-boot-sunxi-with-spl.bin@8
    check "$of_beaglebone" card beaglebone-black 8192 \
        u-boot-omap/usr/lib/u-boot/am335x_boneblack/MLO@128 u-boot-omap/usr/lib/u-boot/am335x_boneblack/u-boot.img@384
    [[ -n $quick ]] || check "$drivers" \
        env CARVEOUT_TREES="$(distribution_trees)" PATH="$RUST_BIN:$PATH" cargo test --quiet \
        --manifest-path "$ROOT/Cargo.toml" --package carveout-boards --test distribution -- --ignored
    # The area is the tree's default-pool, and both it and U-Boot's copy of the tree are where they would be on a board.
    check "$uboot" outcome 0 \
        'U-Boot 20* Allwinner Technology' 'Retrieving file: /zImage' 'Retrieving file: /sun4i-a10-cubieboard.dtb' \
        'Kernel image @ 0x42000000 *' 'board: Cubietech Cubieboard, Cortex-A8 *' 'RAM bank: 0x40000000-0x80000000 (1 GiB)' \
        'memblock: 0x42010000-* reserved for the kernel image' 'memblock: 0x49ff?000-0x49ff?000 * reserved for the device tree' \
        'memblock: 0x4a000000-0x50000000 (96 MiB) carved out for reserved-memory/default-pool' \
        'carve-out: default-pool, 96 MiB, no-map and reusable, the default' \
        'demo: no mock devices in the device tree: the memory part only' 'camera      4 x Stream    7372800 *' 'demo: ok' \
        'halted: exit code 0; the board can be switched off' -- uboot "$logs/cubieboard.img"
    # The same kernel and tree by QEMU's loader, which gives cma=.
    check "$direct" outcome 0 \
        'refused: reserved-memory/default-pool: linux,cma-default gives way to cma=; left as ordinary memory' \
        'carve-out: cma, 64 MiB, no-map and reusable, the default' 'demo: ok' -- \
        boot --board cubieboard --dtb "$(distribution_trees)/sun4i-a10-cubieboard.dtb" "$DEMO_ELF"
    # QEMU takes pictures of the other display alone; tests/distribution.dts has this memory at that one.
    check "$video" outcome 0 \
        'memblock: 0x4c000000-0x4c800000 (8 MiB) carved out for reserved-memory/vram@4c000000' \
        'carve-out: vram@4c000000, 8 MiB, no-map, outside RAM' 'carve-out: vram@4c000000 serves /bus@40000000/*/clcd@1f000' \
        'picture: colour bars at 0x4c000000-0x4c12c000 (1200 KiB), shown by /bus@40000000/*/clcd@1f000' \
        'audit: clean: *; of 18432 carved frames 300 mapped, none in the direct map; *' 'demo: ok' -- \
        boot --dtb "$(distribution_trees)/vexpress-v2p-ca9.dtb" "$DEMO_ELF"
}

# The folder that has both; flash.sh has put it there.
distribution_trees() {
    local trees=("$TARGET_DIR"/distribution/*/usr/lib/linux-image-*/am335x-boneblack.dtb)
    dirname -- "${trees[-1]}"
}

# card BOARD START FILE@KIBIBYTE...: its size, its one partition, what stands before that, and the files in it.
card() {
    local image=$logs/$1.img start=$2 tree size file at fat
    size=$(stat -c %s "$image")
    ((size > 0 && (size & (size - 1)) == 0)) || fail "$size bytes are no power of two"
    sfdisk --json "$image" | tee "$work/table"
    grep -q '"label": "dos"' "$work/table"
    [[ $(grep -c '"node"' "$work/table") == 1 ]] || fail "not one partition"
    grep -q "\"start\": $start," "$work/table"
    grep -q "\"size\": $((size / 512 - start))," "$work/table"
    for file in "${@:3}"; do
        at=$((${file#*@} << 10)) file=$TARGET_DIR/distribution/${file%@*}
        cmp -n "$(stat -c %s "$file")" -i "0:$at" "$file" "$image"
        ((at + $(stat -c %s "$file") <= start * 512)) || fail "$file reaches into the partition"
    done
    fat=$image@@$((start * 512))
    mdir -b -/ -i "$fat" :: | LC_ALL=C sort | tee "$work/files"
    tree=$(grep -o '[^/]*\.dtb' "$work/files")
    # The folder has a line of its own.
    grep -v '/$' "$work/files" | cmp - <(printf '::/%s\n' "$tree" extlinux/extlinux.conf zImage | LC_ALL=C sort)
    mcopy -i "$fat" ::zImage ::"$tree" ::extlinux/extlinux.conf "$work"
    flatten "$DEMO_ELF" "$work/kernel.bin"
    cmp "$work/zImage" "$work/kernel.bin"
    # Linux's magic number for zImages.
    cmp -n 4 -i 36:0 "$work/zImage" <(printf '\x18\x28\x6f\x01')
    cmp "$work/$tree" "$(distribution_trees)/$tree"
    grep -qx '    kernel /zImage' "$work/extlinux.conf"
    grep -qx "    fdt /$tree" "$work/extlinux.conf"
}

fail() {
    echo "$*"
    return 1
}

# uboot CARD: boots the card by the U-Boot that is on it, until the kernel says that it has halted. QEMU 7.2 has no boot
# ROM to load the SPL and no DRAM controller for it to set up: U-Boot's second part is put where the SPL would put it,
# less the header of 64 bytes that told the SPL where.
uboot() {
    local qemu end=$((SECONDS + 100))
    dd if="$1" of="$work/u-boot.bin" bs=64 skip=$(((8192 + 0x8000 + 64) / 64)) count=$((1 << 14)) status=none
    cp -- "$1" "$work/card.img"
    qemu-system-arm -machine cubieboard -m 1G -display none -serial stdio -monitor none \
        -device "loader,file=$work/u-boot.bin,addr=0x4a000000,force-raw=on,cpu-num=0" \
        -drive "if=sd,format=raw,file=$work/card.img" >"$work/console" 2>&1 </dev/null &
    qemu=$!
    until grep -q '^halted:' "$work/console" || ((SECONDS > end)) || ! kill -0 "$qemu"; do sleep 1; done
    kill "$qemu"
    wait "$qemu" || true
    cat -- "$work/console"
}
