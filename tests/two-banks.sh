# shellcheck shell=bash
# Sourced by tests/run.sh: realview-pb-a8, whose RAM is two banks far apart, the first part of one of them at address 0
# too. What its bus masters do there, and what must be refused because of the alias, in one line and before anything is
# written.

two_banks() {
    local areas='
        / { reserved-memory {
            both: both { compatible = "shared-dma-pool"; reusable; reg = <0x28000000 0x800000 0x7a000000 0x800000>; };
            low: low { compatible = "shared-dma-pool"; no-map; reg = <0x24000000 0x800000>; };
            high: high { compatible = "shared-dma-pool"; no-map; reg = <0x74000000 0x800000>; };
        }; };
        &camera { memory-region = <&both>; };
        &codec { memory-region = <&low>; };
        &scaler { memory-region = <&high>; };'
    check 'on target: realview-pb-a8: two banks' two_banks_on_target "$areas"
    # Nothing of it in the way of the demo: the camera's ring in one area over both banks, codec and scaler in a bank each.
    banks 'an area over both, an area in each' 0 "$areas" \
        'memblock: 0x28000000-0x28800000 (8 MiB) carved out for reserved-memory/both' \
        'memblock: 0x7a000000-0x7a800000 (8 MiB) carved out for reserved-memory/both' \
        'carve-out: both, 16 MiB, no-map and reusable' 'carve-out: both serves /camera' \
        'carve-out: low, 8 MiB, no-map' 'carve-out: low serves /codec' \
        'carve-out: high, 8 MiB, no-map' 'carve-out: high serves /scaler' \
        'RAM alias: 0x00000000-0x10000000 (256 MiB) is 0x70000000-0x80000000 (256 MiB) by another name' \
        'picture: copied from 0x74*-0x74* (1200 KiB) to 0x2fc00000-0x2fd2c000 (1200 KiB)' 'demo: ok'
    banks 'cma= in the second' 0 '' --append 'cma=64M@0x20000000-0x30000000' \
        'memblock: 0x2bc00000-0x2fc00000 (64 MiB) carved out for cma=' \
        'picture: copied from 0x2b*-0x2b* (1200 KiB) to 0x2fc00000-0x2fd2c000 (1200 KiB)' 'demo: ok'

    local second='0x01000000-0x01200000 (2 MiB) is 0x71000000-0x71200000 (2 MiB) by another name'
    banks 'an area by its second name' 0 '
        / { reserved-memory { pool { compatible = "shared-dma-pool"; reusable; reg = <0x1000000 0x200000>; }; }; };' \
        "refused: reserved-memory/pool: $second" 'demo: ok'
    banks 'cma= by its second name' 1 '' --append 'cma=2M@0x1000000' \
        "refused: cma=2M@0x1000000: $second" 'error: demo: JPEG file: the device has no area to allocate from'
    banks 'areas that overlap by the alias' 0 '
        / { reserved-memory {
            first { compatible = "shared-dma-pool"; reusable; reg = <0x71000000 0x200000>; };
            second { compatible = "shared-dma-pool"; no-map; reg = <0x1000000 0x200000>; };
        }; };' \
        'carve-out: first, 2 MiB, no-map and reusable' "refused: reserved-memory/second: $second" 'demo: ok'
    banks 'an area over firmware by the alias' 0 '
        / { reserved-memory {
            firmware { no-map; reg = <0x1100000 0x100000>; };
            pool { compatible = "shared-dma-pool"; reusable; reg = <0x71000000 0x200000>; };
        }; };' \
        'memblock: 0x71100000-0x71200000 (1 MiB) carved out for firmware: reserved-memory/firmware' \
        'refused: reserved-memory/pool: 0x71000000-0x71200000 (2 MiB) overlaps reserved-memory/firmware at 0x71100000-0x71200000 (1 MiB)' \
        'demo: ok'
    banks 'a bank by its second name' 0 \
        '/ { ram@8000000 { device_type = "memory"; reg = <0x8000000 0x10000000>; }; };' \
        'refused: ram@8000000: 0x08000000-0x10000000 (128 MiB) is 0x78000000-0x80000000 (128 MiB) by another name' \
        'demo: ok'
    banks 'registers by the alias' 1 \
        '/ { /delete-node/ clcd@10020000; clcd@7000 { compatible = "arm,pl111"; reg = <0x7000 0x1000>; }; };' \
        'refused: registers at 0x00007000-0x00008000 (4 KiB) not mapped: they overlap RAM at 0x00000000-0x10000000 (256 MiB) (I1)' \
        'error: demo: no display (arm,pl111) in the device tree'
    banks 'an alias of itself' 0 '
        / { ram-alias@70001000 {
            compatible = "carveout,ram-alias"; reg = <0x70001000 0x2000>; carveout,alias-of = <0x70000000>;
        }; };' \
        'refused: ram-alias@70001000: 0x70001000-0x70002000 (4 KiB) cannot be named twice' 'demo: ok'
    banks 'an alias of nothing' 0 \
        '/ { ram-alias@90000000 { compatible = "carveout,ram-alias"; reg = <0x90000000 0x1000>; }; };' \
        'refused: ram-alias@90000000: carveout,alias-of is missing' 'demo: ok'
    check 'bad input: no card in the slot' outcome 1 \
        'error: demo: no disk: none on virtio or SATA, and no memory card' -- \
        boot --board realview-pb-a8 "$DEMO_ELF"
    check 'bad input: RAM of another size than the tree says' outcome 2 \
        'error: --memory sizes the first bank alone, and realview-pb-a8 has 2: give a --dtb that says what there is' -- \
        boot --board realview-pb-a8 --memory 512M "$DEMO_ELF"
}

: "${work=}"

# banks NAME EXIT DTS [--append ARGS] LINE...: DTS is added to the board's tree.
banks() {
    local name=$1 exit=$2 dts=$3 append=()
    shift 3
    if [[ $1 == --append ]]; then
        append=(--append "$2")
        shift 2
    fi
    check "two banks: $name" outcome "$exit" "$@" -- boot_banks "$dts" "${append[@]}"
}

# boot_banks DTS OPTION...
boot_banks() {
    picture_small "$work/picture.jpg"
    tree_with "$work/variant.dtb" "$1" realview-pb-a8
    boot --board realview-pb-a8 --dtb "$work/variant.dtb" --image "$work/picture.jpg" "${@:2}" "$DEMO_ELF"
}

# It is built with the on-target tests.
two_banks_on_target() {
    tree_with "$work/variant.dtb" "$1" realview-pb-a8
    on_target realview-pb-a8 "$TARGET_DIR/$TARGET/release/two_banks" --dtb "$work/variant.dtb"
}
