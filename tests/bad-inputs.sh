# shellcheck shell=bash
# Sourced by tests/run.sh: the table of inputs that must be refused, of some beside them that must not, and what makes
# them. A row is
#
#     KIND NAME EXIT INPUT... LINE...
#
# where EXIT is the guest's exit code and each LINE a pattern that just one line of its output must match as a whole.
# Every line of complaint must be among them: that one input gets one line is part of what a row says.

bad_inputs() {
    local no_area='error: demo: disk: the device has no area to allocate from'
    local default='memblock: 0x9c000000-0xa0000000 (64 MiB) carved out for cma='

    # Boot arguments: INPUT is appended to the defaults, and the last cma= counts. Without an area the boot goes on and
    # the demo cannot.
    arguments 'cma= malformed' 1 'cma=64Q' 'refused: cma=64Q: unexpected "Q"' "$no_area"
    arguments 'cma= without a size' 1 'cma=@0x70000000' 'refused: cma=@0x70000000: the size is missing' "$no_area"
    arguments 'cma= too large a number' 1 'cma=99999999999999999999' \
        'refused: cma=99999999999999999999: a number is too large' "$no_area"
    arguments 'cma= with its end before its start' 1 'cma=16M@0x78000000-0x70000000' \
        'refused: cma=16M@0x78000000-0x70000000: the end 0x70000000 is not above the start 0x78000000' "$no_area"
    arguments 'cma= bigger than RAM' 1 'cma=2G' 'refused: cma=2G: 2 GiB asked for, but all RAM is 1 GiB' "$no_area"
    arguments 'cma= bigger than what is free' 1 'cma=1000M' \
        'refused: cma=1000M: no free run of 1000 MiB aligned to 1 MiB; the largest is * MiB' "$no_area"
    arguments 'cma= base misaligned' 1 'cma=16M@0x70000800' \
        'refused: cma=16M@0x70000800: 0x70000800-0x71000800 (16 MiB) does not start and end at a multiple of 4 KiB' \
        "$no_area"
    arguments 'cma= outside RAM' 1 'cma=16M@0x20000000' \
        'refused: cma=16M@0x20000000: 0x20000000-0x21000000 (16 MiB) is not all RAM' "$no_area"
    arguments 'cma= partly outside RAM' 1 'cma=16M@0x9f800000' \
        'refused: cma=16M@0x9f800000: 0x9f800000-0xa0800000 (16 MiB) is not all RAM' "$no_area"
    arguments 'cma= over the kernel image' 1 'cma=16M@0x60000000' \
        'refused: cma=16M@0x60000000: 0x60000000-0x61000000 (16 MiB) overlaps the kernel image at 0x60010000-*' \
        "$no_area"
    # QEMU puts the device tree 128 MiB above the start of RAM.
    arguments 'cma= over the DTB' 1 'cma=16M@0x68000000' \
        'refused: cma=16M@0x68000000: 0x68000000-0x69000000 (16 MiB) overlaps the device tree at 0x68000000-*' \
        "$no_area"
    arguments 'a byte that is no text' 0 $'root=/de\xff/sda' \
        'refused: root=/de: byte 0xff follows, which is no text; the argument is ignored' "$default" 'demo: ok'
    arguments 'mem=' 0 'mem=512M' 'memblock: 0x80000000-0xa0000000 (512 MiB) withheld by mem=512M' \
        'memblock: 0x7c000000-0x80000000 (64 MiB) carved out for cma=' 'demo: ok'
    arguments 'mem= of two places' 0 'mem=512M@0x60000000 mem=64M@0x90000000' \
        'memblock: 0x80000000-0x90000000 (256 MiB) withheld by mem=512M@0x60000000' \
        'memblock: 0x94000000-0xa0000000 (192 MiB) withheld by mem=512M@0x60000000' \
        'memblock: 0x90000000-0x94000000 (64 MiB) carved out for cma=' 'demo: ok'
    arguments 'mem= with more than a size' 0 'mem=512MB' 'refused: mem=512MB: unexpected "B"' \
        'memblock: 0x80000000-0xa0000000 (512 MiB) withheld by mem=512MB' 'demo: ok'
    arguments 'mem= malformed' 0 'mem=lots' 'refused: mem=lots: the size is missing' "$default" 'demo: ok'
    arguments 'mem= of more than there is' 0 'mem=2G' \
        'refused: mem=2G: 0xa0000000-0xe0000000 (1 GiB) is not RAM that the device tree names; not used' "$default" 'demo: ok'
    arguments 'mem= without the kernel' 1 'mem=64M@0x70000000' \
        'error: the kernel image at 0x60010000-* is in RAM that mem=64M@0x70000000 withholds'
    # shellcheck disable=SC2016 # a dollar is Linux's sign for "reserved"
    arguments 'memmap=' 0 'memmap=4M$0x9e000000,4K#0x9f000000' \
        'memblock: 0x9e000000-0x9e400000 (4 MiB) withheld by memmap=4M$0x9e000000,4K#0x9f000000' \
        'memblock: 0x9f000000-0x9f001000 (4 KiB) withheld by memmap=4M$0x9e000000,4K#0x9f000000' \
        'memblock: 0x9a000000-0x9e000000 (64 MiB) carved out for cma=' 'demo: ok'
    arguments 'memmap= malformed' 0 'memmap=64M%0x60000000-1' \
        'refused: memmap=64M%0x60000000-1: unexpected "%0x60000000-1"' "$default" 'demo: ok'
    arguments 'memmap=exactmap' 0 'memmap=exactmap,512M@0x60000000' \
        'memblock: 0x80000000-0xa0000000 (512 MiB) withheld by memmap=exactmap,512M@0x60000000' 'demo: ok'
    arguments 'loglevel= malformed' 0 'loglevel=loud' \
        'refused: loglevel=loud: not a level from 0 to 8' 'demo: ok'
    arguments 'cma= at a place' 0 'cma=16M@0x70000000' \
        'memblock: 0x70000000-0x71000000 (16 MiB) carved out for cma=' \
        'carve-out: cma, 16 MiB, no-map and reusable, the default' \
        'direct map: *-0x70000000 (* KiB) at 0x80*, write-back, rw-' \
        'direct map: 0x71000000-0xa0000000 (752 MiB) at 0x91000000, write-back, rw-' \
        'demo: ok'
    arguments 'cma= within a range' 0 'cma=16M@0x70000000-0x78000000' \
        'memblock: 0x77000000-0x78000000 (16 MiB) carved out for cma=' 'demo: ok'
    arguments 'cma=0 for no area' 1 'cma=0' "$no_area"

    # Nodes of /reserved-memory: the demo has the default area of the command line and goes on.
    local area='carve-out: cma, 64 MiB, no-map and reusable, the default'
    reserved 'overlapping' 0 '
        a@70000000 { compatible = "shared-dma-pool"; reg = <0x70000000 0x200000>; no-map; };
        b@70100000 { compatible = "shared-dma-pool"; reg = <0x70100000 0x200000>; no-map; };' \
        'refused: reserved-memory/b@70100000: 0x70100000-0x70300000 (2 MiB) overlaps reserved-memory/a@70000000 at 0x70000000-0x70200000 (2 MiB)' \
        'carve-out: a@70000000, 2 MiB, no-map' "$area" 'demo: ok'
    reserved 'overlapping with firmware' 0 '
        pool@70000000 { compatible = "shared-dma-pool"; reg = <0x70000000 0x200000>; reusable; };
        firmware@70100000 { reg = <0x70100000 0x200000>; no-map; };' \
        'refused: reserved-memory/pool@70000000: 0x70000000-0x70200000 (2 MiB) overlaps reserved-memory/firmware@70100000 at 0x70100000-0x70300000 (2 MiB)' \
        "$area" 'demo: ok'
    reserved 'overlapping with cma=' 1 \
        'pool@70000000 { compatible = "shared-dma-pool"; reg = <0x70000000 0x200000>; no-map; };' \
        --append 'cma=32M@0x6f000000' \
        'refused: cma=32M@0x6f000000: 0x6f000000-0x71000000 (32 MiB) overlaps reserved-memory/pool@70000000 at 0x70000000-0x70200000 (2 MiB)' \
        'carve-out: pool@70000000, 2 MiB, no-map' "$no_area"
    reserved 'over the kernel image' 0 \
        'pool@60000000 { compatible = "shared-dma-pool"; reg = <0x60000000 0x100000>; no-map; };' \
        'refused: reserved-memory/pool@60000000: 0x60000000-0x60100000 (1 MiB) overlaps the kernel image at 0x60010000-*' \
        "$area" 'demo: ok'
    reserved 'firmware over the kernel image' 0 'firmware@60000000 { reg = <0x60000000 0x100000>; no-map; };' \
        'refused: reserved-memory/firmware@60000000: 0x60000000-0x60100000 (1 MiB) overlaps the kernel image at 0x60010000-*' \
        'memblock: 0x60000000-0x60010000 (64 KiB) carved out for firmware: reserved-memory/firmware@60000000' \
        "$area" 'demo: ok'
    reserved 'over the DTB' 0 \
        'pool@68000000 { compatible = "shared-dma-pool"; reg = <0x68000000 0x100000>; no-map; };' \
        'refused: reserved-memory/pool@68000000: 0x68000000-0x68100000 (1 MiB) overlaps the device tree at 0x68000000-*' \
        "$area" 'demo: ok'
    reserved 'outside RAM and reusable' 0 \
        'pool@20000000 { compatible = "shared-dma-pool"; reg = <0x20000000 0x100000>; reusable; };' \
        'refused: reserved-memory/pool@20000000: 0x20000000-0x20100000 (1 MiB) is no RAM, so it cannot be reusable: no-map is what fits' \
        'memblock: 0x20000000-0x20100000 (1 MiB) reserved for reserved-memory/pool@20000000' "$area" 'demo: ok'
    reserved 'outside RAM, over registers' 0 \
        'pool@10009000 { compatible = "shared-dma-pool"; reg = <0x10009000 0x1000>; no-map; };' \
        'refused: reserved-memory/pool@10009000: 0x10009000-0x1000a000 (4 KiB) is no RAM and meets the registers of serial@10009000 (I1)' \
        "$area" 'demo: ok'
    reserved 'partly outside RAM' 0 \
        'pool@9ff00000 { compatible = "shared-dma-pool"; reg = <0x9ff00000 0x200000>; no-map; };' \
        'refused: reserved-memory/pool@9ff00000: 0x9ff00000-0xa0100000 (2 MiB) is not all RAM' \
        'memblock: 0x9ff00000-0xa0100000 (2 MiB) carved out for firmware: reserved-memory/pool@9ff00000' \
        'memblock: 0x9bf00000-0x9ff00000 (64 MiB) carved out for cma=' "$area" 'demo: ok'
    reserved 'misaligned' 0 'pool@70000800 { compatible = "shared-dma-pool"; reg = <0x70000800 0x100000>; no-map; };' \
        'refused: reserved-memory/pool@70000800: 0x70000800-0x70100800 (1 MiB) does not start and end at a multiple of 4 KiB' \
        'memblock: 0x70000000-0x70101000 (1028 KiB) carved out for firmware: reserved-memory/pool@70000800' "$area" 'demo: ok'
    reserved 'no-map and reusable' 0 \
        'pool@70000000 { compatible = "shared-dma-pool"; reg = <0x70000000 0x400000>; no-map; reusable; };' \
        'refused: reserved-memory/pool@70000000: no-map and reusable exclude each other' \
        'memblock: 0x70000000-0x70400000 (4 MiB) carved out for firmware: reserved-memory/pool@70000000' \
        'direct map: *-0x70000000 (* KiB) at 0x80*, write-back, rw-' "$area" 'demo: ok'
    # The default area goes as high as it can: below what is kept.
    local below='memblock: 0x9a000000-0x9e000000 (64 MiB) carved out for cma='
    reserved 'neither no-map nor reusable' 0 \
        'video@9e000000 { compatible = "shared-dma-pool"; reg = <0x9e000000 0x400000>; };' \
        'refused: reserved-memory/video@9e000000: a shared-dma-pool must be no-map or reusable' \
        'memblock: 0x9e000000-0x9e400000 (4 MiB) reserved for reserved-memory/video@9e000000' "$below" "$area" 'demo: ok'
    reserved 'reg cut off' 0 'tz@9e000000 { reg = <0x9e000000 0x400000 0x9f000000>; no-map; };' \
        'refused: reserved-memory/tz@9e000000: reg is malformed' \
        'memblock: 0x9e000000-0x9e400000 (4 MiB) carved out for firmware: reserved-memory/tz@9e000000' \
        'memblock: 0x9f000000-0x9f001000 (4 KiB) carved out for firmware: reserved-memory/tz@9e000000' \
        "$below" "$area" 'demo: ok'
    reserved 'a status that is neither okay nor disabled' 0 \
        'tz@9e000000 { compatible = "shared-dma-pool"; reg = <0x9e000000 0x400000>; no-map; status = "reserved"; };' \
        'refused: reserved-memory/tz@9e000000: its status is neither "okay" nor "disabled": kept reserved, no area' \
        'memblock: 0x9e000000-0x9e400000 (4 MiB) carved out for firmware: reserved-memory/tz@9e000000' "$below" "$area" 'demo: ok'
    reserved 'a static default beside cma=' 0 \
        'pool@9e000000 { compatible = "shared-dma-pool"; reg = <0x9e000000 0x400000>; reusable; linux,cma-default; };' \
        'refused: reserved-memory/pool@9e000000: linux,cma-default gives way to cma=; kept reserved, no area' \
        'memblock: 0x9e000000-0x9e400000 (4 MiB) reserved for reserved-memory/pool@9e000000' "$below" "$area" 'demo: ok'
    tree 'reserved-memory: without ranges' 0 '
        / { reserved-memory {
            #address-cells = <1>; #size-cells = <1>;
            tz@9e000000 { no-map; reg = <0x9e000000 0x400000>; };
            pool@9f000000 { compatible = "shared-dma-pool"; no-map; reg = <0x9f000000 0x400000>; };
        }; };' \
        'refused: reserved-memory: ranges must be there and empty; its children are kept, and none is an area' \
        'memblock: 0x9e000000-0x9e400000 (4 MiB) carved out for firmware: reserved-memory/tz@9e000000' \
        'memblock: 0x9f000000-0x9f400000 (4 MiB) carved out for firmware: reserved-memory/pool@9f000000' \
        "$below" "$area" 'demo: ok'
    tree 'reserved-memory: of cells that cannot be' 0 '
        / { reserved-memory {
            #address-cells = <3>; #size-cells = <1>; ranges;
            tz@9e000000 { no-map; reg = <0x9e000000 0x400000>; };
        }; };' \
        'refused: reserved-memory: #address-cells and #size-cells must be 1 or 2' \
        'memblock: 0x9e000000-0x9e400000 (4 MiB) carved out for firmware: reserved-memory/tz@9e000000' \
        "$below" "$area" 'demo: ok'
    # As many as there are, and nothing is refused.
    local n nodes='' ranges=''
    for ((n = 0; n < 200; n++)); do nodes+=$(printf 'q%d { no-map; reg = <0x%x 0x1000>; };' $n $((0x70000000 + n * 0x102000))); done
    for ((n = 0; n < 64; n++)); do ranges+=$(printf ' 0x%x 0x1000' $((0x9e000000 + n * 0x3000))); done
    reserved 'two hundred nodes' 0 "$nodes tz@9e000000 { no-map; reg = <0x9e000000 0x400000>; };" \
        'memblock: 0x9e000000-0x9e400000 (4 MiB) carved out for firmware: reserved-memory/tz@9e000000' \
        'memblock: 0x7c88e000-0x7c88f000 (4 KiB) carved out for firmware: reserved-memory/q199' "$below" "$area" 'demo: ok'
    reserved 'sixty-four ranges' 0 "tz@9e000000 { no-map; reg = <$ranges>; };" \
        'memblock: 0x9e0bd000-0x9e0be000 (4 KiB) carved out for firmware: reserved-memory/tz@9e000000' \
        "$below" "$area" 'demo: ok'
    blob 'forty reservations in the header' 0 with_forty_memreserves \
        'memblock: 0x9f04e000-0x9f04f000 (4 KiB) reserved for /memreserve/' \
        'memblock: 0x9d000000-0x9f000000 (32 MiB) carved out for reserved-memory/pool' \
        'carve-out: pool, 32 MiB, no-map and reusable, the default' 'demo: ok'
    tree 'chosen: an initrd' 0 '
        / { chosen { linux,initrd-start = <0x9e000000>; linux,initrd-end = <0x9e800000>; }; };' \
        'memblock: 0x9e000000-0x9e800000 (8 MiB) reserved for the initrd' "$below" "$area" 'demo: ok'
    tree 'chosen: an initrd in two cells, and an ELF header' 0 '
        / { chosen {
            linux,initrd-start = <0 0x9e000000>; linux,initrd-end = <0 0x9e800001>;
            linux,elfcorehdr = <0 0x9f000000 0 0x1000>;
        }; };' \
        'memblock: 0x9e000000-0x9e801000 (8196 KiB) reserved for the initrd' \
        'memblock: 0x9f000000-0x9f001000 (4 KiB) reserved for linux,elfcorehdr' "$below" "$area" 'demo: ok'
    tree 'chosen: an initrd without an end' 0 '/ { chosen { linux,initrd-start = <0x9e000000>; }; };' \
        'refused: chosen: linux,initrd-end is missing' "$area" 'demo: ok'
    tree 'chosen: usable memory' 0 '/ { chosen { linux,usable-memory-range = <0x60000000 0x3e000000>; }; };' \
        'memblock: 0x9e000000-0xa0000000 (32 MiB) withheld by linux,usable-memory-range' "$below" "$area" 'demo: ok'
    tree 'more RAM banks than there is room for' 0 \
        "/ { $(printf 'ram@%d { device_type = "memory"; reg = <0x60000000 0x40000000>; };' {0..17}) };" \
        'refused: *: more than 16 RAM banks are not supported; 3 from here on are not used' "$area" 'demo: ok'
    tree 'nodes deeper than a device can be' 0 \
        "/ { $(printf 'n%d { ' {1..30}) $(printf '%.0s}; ' {1..30}) };" "$area" 'demo: ok'
    reserved 'size 0' 0 'pool { compatible = "shared-dma-pool"; size = <0>; reusable; };' \
        'refused: reserved-memory/pool: size is 0' "$area" 'demo: ok'
    reserved 'bigger than RAM' 0 'pool { compatible = "shared-dma-pool"; size = <0x80000000>; reusable; };' \
        'refused: reserved-memory/pool: 2 GiB asked for, but all RAM is 1 GiB' "$area" 'demo: ok'
    reserved 'alignment not a power of two' 0 \
        'pool { compatible = "shared-dma-pool"; size = <0x400000>; alignment = <0x300000>; reusable; };' \
        'refused: reserved-memory/pool: alignment 0x300000 is not a power of two' "$area" 'demo: ok'
    reserved 'alloc-ranges too small' 0 \
        'pool { compatible = "shared-dma-pool"; size = <0x400000>; alloc-ranges = <0x70000000 0x200000>; reusable; };' \
        'refused: reserved-memory/pool: alloc-ranges are too small: 4 MiB asked for, room for 2 MiB' "$area" 'demo: ok'
    reserved 'alloc-ranges taken' 0 '
        a@70000000 { compatible = "shared-dma-pool"; reg = <0x70000000 0x400000>; no-map; };
        b { compatible = "shared-dma-pool"; size = <0x400000>; alloc-ranges = <0x70000000 0x400000>; reusable; };' \
        'refused: reserved-memory/b: no free run of 4 MiB aligned to 1 MiB; the largest is 0 B' "$area" 'demo: ok'
    reserved 'linux,cma-default beside cma=' 0 \
        'pool { compatible = "shared-dma-pool"; size = <0x400000>; reusable; linux,cma-default; };' \
        'refused: reserved-memory/pool: linux,cma-default gives way to cma=; left as ordinary memory' "$area" 'demo: ok'
    reserved 'linux,cma-default where cma= is malformed' 0 \
        'pool { compatible = "shared-dma-pool"; size = <0x1000000>; reusable; linux,cma-default; };' \
        --append 'cma=64Q' 'refused: cma=64Q: unexpected "Q"' \
        'carve-out: pool, 16 MiB, no-map and reusable, the default' 'demo: ok'
    local homeless='error: demo: decoded picture: the device has no area to allocate from:'
    tree 'memory-region names nothing' 1 '&codec { memory-region = <&l2>; };' \
        'refused: /codec: no area: memory-region names 0x*, which is no usable region' "$area" \
        "$homeless memory-region names 0x*, which is no usable region"
    tree 'memory-region names what was refused' 1 '
        / { reserved-memory {
            #address-cells = <1>; #size-cells = <1>; ranges;
            bank: mfc@9ff00000 { compatible = "shared-dma-pool"; no-map; reg = <0x9ff00000 0x200000>; };
        }; };
        &codec { memory-region = <&bank>; };' \
        'refused: reserved-memory/mfc@9ff00000: 0x9ff00000-0xa0100000 (2 MiB) is not all RAM' \
        'refused: /codec: no area: its reserved-memory/mfc@9ff00000 was refused: 0x9ff00000-0xa0100000 (2 MiB) is not all RAM' \
        "$area" "$homeless its reserved-memory/mfc@9ff00000 was refused: 0x9ff00000-0xa0100000 (2 MiB) is not all RAM"
    tree 'memory-region names memory of firmware' 1 '
        / { reserved-memory {
            #address-cells = <1>; #size-cells = <1>; ranges;
            tz: tz@70000000 { no-map; reg = <0x70000000 0x200000>; };
        }; };
        &codec { memory-region = <&tz>; };' "$area" "$homeless its reserved-memory/tz@70000000 is no shared-dma-pool"
    tree 'another device of the same name' 0 '
        / {
            reserved-memory {
                #address-cells = <1>; #size-cells = <1>; ranges;
                bank: mfc@9ff00000 { compatible = "shared-dma-pool"; no-map; reg = <0x9ff00000 0x200000>; };
            };
            bus { codec { memory-region = <&bank>; }; };
        };' \
        'refused: reserved-memory/mfc@9ff00000: 0x9ff00000-0xa0100000 (2 MiB) is not all RAM' \
        'refused: /bus/codec: no area: its reserved-memory/mfc@9ff00000 was refused: 0x9ff00000-0xa0100000 (2 MiB) is not all RAM' \
        "$area" 'demo: ok'

    # What is in order: nothing is refused.
    reserved 'firmware, reservations, ranges, status' 0 '
        firmware@72000000 { reg = <0x72000000 0x100000>; no-map; };
        plain@73000000 { reg = <0x73000000 0x100000>; };
        pool@74000000 { compatible = "shared-dma-pool"; reg = <0x74000000 0x100000 0x76000000 0x200000>; no-map; };
        off@75000000 { reg = <0x75000000 0x100000>; no-map; status = "disabled"; };' \
        'memblock: 0x72000000-0x72100000 (1 MiB) carved out for firmware: reserved-memory/firmware@72000000' \
        'memblock: 0x73000000-0x73100000 (1 MiB) reserved for reserved-memory/plain@73000000' \
        'memblock: 0x74000000-0x74100000 (1 MiB) carved out for reserved-memory/pool@74000000' \
        'memblock: 0x76000000-0x76200000 (2 MiB) carved out for reserved-memory/pool@74000000' \
        'carve-out: pool@74000000, 3 MiB, no-map' "$area" \
        'direct map: 0x72100000-0x74000000 (31 MiB) at 0x92100000, write-back, rw-' \
        'direct map: 0x74100000-0x76000000 (31 MiB) at 0x94100000, write-back, rw-' 'demo: ok'
    tree 'areas of devices' 0 '
        / { reserved-memory {
            #address-cells = <1>; #size-cells = <1>; ranges;
            still: still@70000000 { compatible = "shared-dma-pool"; reg = <0x70000000 0x800000>; no-map; };
            moving: moving {
                compatible = "shared-dma-pool"; size = <0x600000>; alignment = <0x200000>;
                alloc-ranges = <0x74000000 0x1000000>; reusable;
            };
        }; };
        &codec { memory-region = <&still>; }; &scaler { memory-region = <&still>; };
        &camera { memory-region = <&moving>; };' \
        'memblock: 0x70000000-0x70800000 (8 MiB) carved out for reserved-memory/still@70000000' \
        'memblock: 0x74a00000-0x75000000 (6 MiB) carved out for reserved-memory/moving' \
        'carve-out: still@70000000, 8 MiB, no-map' 'carve-out: moving, 6 MiB, no-map and reusable' "$area" \
        'carve-out: still@70000000 serves /codec' 'carve-out: still@70000000 serves /scaler' \
        'carve-out: moving serves /camera' 'demo: ok'
    tree 'an area too small for its device' 1 '
        / { reserved-memory {
            #address-cells = <1>; #size-cells = <1>; ranges;
            small: small { compatible = "shared-dma-pool"; size = <0x200000>; reusable; };
        }; };
        &camera { memory-region = <&small>; };' \
        'carve-out: small, 2 MiB, no-map and reusable' 'carve-out: small serves /camera' "$area" \
        'error: demo: camera frame: no room for 600 KiB: 248 KiB free in the area'

    # Device trees that QEMU would refuse or repair: INPUT is a command that writes the blob to the file it is given.
    # Without one the kernel knows no UART, and the line comes over semihosting.
    blob 'garbage' 1 of_garbage 'error: no device tree: no magic at 0x68000000, where r2 pointed at entry'
    blob 'truncated' 1 truncated 'error: device tree: corrupt at byte 0x*'
    blob 'no memory node' 1 without_memory 'error: device tree: no node with device_type "memory" names any RAM'
    blob 'the image outside RAM' 1 with_other_memory \
        'error: the kernel image at 0x60010000-* is not in the RAM the tree names'
    blob 'an area by linux,cma-default' 0 with_default_area \
        'carve-out: pool, 32 MiB, no-map and reusable, the default' 'demo: ok'
    # The emulator would answer a semihosting call, and end.
    check 'a board that nobody debugs' outcome 124 'demo: ok' \
        'halted: exit code 0; the board can be switched off' -- boot_blob of_a_board 20

    # The device tree of a Linux distribution has other shapes, and a region of video memory that is no RAM.
    check 'bad input: DTB: of the shape that distributions have' outcome 0 \
        'carve-out: vram@4c000000, 8 MiB, no-map, outside RAM' 'carve-out: vram@4c000000 serves /clcd@10020000' "$area" \
        'demo: ok' -- boot_distribution

    # Pictures: INPUT is a command that writes the JPEG to the file it is given, and options. What had been allocated
    # goes back: a line would say if it did not.
    picture 'truncated' 1 truncated_at_4000 '' \
        'error: demo: codec: the JPEG file is cut short at byte *: it ends before the picture does'
    picture 'truncated in its header' 1 truncated_at_200 '' \
        'error: demo: codec: the JPEG file is cut short at byte *: it ends before the picture does'
    picture 'progressive and truncated' 1 truncated_progressive '' \
        'error: demo: codec: the JPEG file is cut short at byte *: it ends before the picture does'
    picture 'corrupt' 1 corrupt '' 'error: demo: codec: the JPEG file is corrupt in the part that starts at byte *'
    picture 'arithmetic coding' 1 arithmetic '' \
        'error: demo: codec: the JPEG file is of an unsupported kind: arithmetic coding'
    picture 'lossless' 1 lossless '' 'error: demo: codec: the JPEG file is of an unsupported kind: lossless'
    picture 'another height behind the scan' 1 with_two_heights '' \
        'error: demo: codec: the JPEG file is of an unsupported kind: with another height after its first scan (DNL) than before it'
    picture 'not one' 1 text '' 'error: demo: codec: not a JPEG file'
    picture 'nothing but zeros' 1 zeros '' 'error: demo: codec: not a JPEG file'
    picture 'file too large for the area' 1 large 'cma=256K' \
        'error: demo: JPEG file: no room for * KiB: * KiB free in the area'
    picture 'decoded picture too large for the area' 1 large 'cma=8M' \
        'error: demo: decoded picture: no room for 15000 KiB: * KiB free in the area'
    picture 'screen too large for the area' 1 small 'cma=1M' \
        'error: demo: screen: no room for 1200 KiB: * KiB free in the area'
    picture 'camera too large for the area' 1 small 'cma=3M' \
        'error: demo: camera frame: no *run of 600 KiB: * free in the area*'
    picture 'no room for the rings' 1 small 'cma=4K' 'error: demo: disk: no room for 4 KiB: 0 B free in the area'
    picture 'more than the codec takes' 1 huge '' \
        'error: demo: codec: the picture is too large: 5000 x 3000 pixels, the codec takes 12582912'
    picture 'disk absent' 1 none '' 'error: demo: no disk: none on virtio or SATA, and no memory card'
    check 'bad input: JPEG: more than the codec has memory for' outcome 1 \
        'error: demo: codec: the codec has less memory than the picture needs: * bytes' -- \
        boot_picture of_12_megapixels_progressive --memory 256M
    check 'bad input: SATA: no disk' outcome 1 'error: demo: no disk: *' -- boot --board cubieboard "$DEMO_ELF"
    check 'bad input: SATA: a disk that cannot be read' outcome 1 \
        'error: demo: disk: SATA command 0x25 failed: task file 0x?41, port events 0x4000000?' -- boot_sata ide-hd
    check 'bad input: SATA: a drive for discs' outcome 1 \
        'error: demo: disk: SATA command 0xec failed: task file 0x?41, port events 0x4000000?' -- boot_sata ide-cd
    # Flash keeps its words whatever is written to it, so such a disk does not reset; SRAM takes what is written.
    check 'bad input: virtio: a disk that stays silent' outcome 1 'error: demo: disk: a request did not end' -- \
        boot_silent 48000000 00000000
    # The two pages of its ring, and the page for its 4 KiB.
    check 'bad input: virtio: a disk that stays silent and does not reset' outcome 1 \
        'demo: disk: a request did not end, and the device does not reset' \
        'warn: carveout::dma: quarantined buffer 0x9c001000-0x9c002000 (4 KiB) of virtio-blk was dropped: *' \
        'warn: carveout::dma: quarantined buffer 0x9c002000-0x9c003000 (4 KiB) of virtio-blk was dropped: *' \
        'warn: carveout::dma: quarantined buffer 0x9c003000-0x9c004000 (4 KiB) of virtio-blk was dropped: *' \
        'error: demo: memory was not given back: *' -- boot_silent 40000000 0000000b
    # Other registers play a display's. Where LCDControl would be stands an identification register, whose bit 0 is set,
    # or the flags of the system registers, of which a write clears none.
    tree 'a display that is on and stays on' 1 '/ { motherboard { clcd@10020000 { reg = <0x10020fe0 0x20>; }; }; };' \
        'error: demo: display: the display does not switch off'
    tree 'a display that does not switch off again' 1 \
        '/ { motherboard { clcd@10020000 { reg = <0x10000018 0x20>; }; }; };' \
        'warn: carveout::dma: quarantined buffer *-* (1200 KiB) of clcd@10020000 was dropped: *' \
        'error: demo: memory was not given back: *'
    check 'bad input: no such picture' outcome 2 'error: no such picture: /nowhere.jpg' -- boot --image /nowhere.jpg
    check 'bad input: empty picture' outcome 2 'error: the picture is an empty file: *' -- boot_picture empty
}

# --- the kinds of row -----------------------------------------------------------------------------------------------

# arguments NAME EXIT ARGS LINE...
arguments() { check "bad input: $1" outcome "$2" "${@:4}" -- boot_picture small --append "$3"; }

# tree NAME EXIT DTS [--append ARGS] LINE...: DTS is added to the board's tree.
tree() {
    local name=$1 exit=$2 dts=$3 append=()
    shift 3
    if [[ $1 == --append ]]; then
        append=(--append "$2")
        shift 2
    fi
    check "bad input: DTB: $name" outcome "$exit" "$@" -- boot_tree "$dts" "${append[@]}"
}

# reserved NAME EXIT CHILDREN [--append ARGS] LINE...: the children of /reserved-memory.
reserved() {
    tree "reserved-memory: $1" "$2" "/ { reserved-memory { #address-cells = <1>; #size-cells = <1>; ranges; $3 }; };" \
        "${@:4}"
}

# blob NAME EXIT COMMAND LINE...
blob() { check "bad input: DTB: $1" outcome "$2" "${@:4}" -- boot_blob "$3"; }

# picture NAME EXIT COMMAND ARGS LINE...
picture() { check "bad input: JPEG: $1" outcome "$2" "${@:5}" -- boot_picture "$3" --append "$4"; }

# --- booting --------------------------------------------------------------------------------------------------------
# Each check has a scratch directory of its own, in $work.

: "${work=}"

# boot_picture COMMAND OPTION...: with the picture that the command makes on the disk.
boot_picture() {
    local image=()
    if [[ $1 != none ]]; then
        "picture_$1" "$work/picture.jpg"
        image=(--image "$work/picture.jpg")
    fi
    boot "${image[@]}" "${@:2}" "$DEMO_ELF"
}

# boot_tree DTS OPTION...
boot_tree() {
    tree_with "$work/variant.dtb" "$1"
    boot_picture small --dtb "$work/variant.dtb" "${@:2}"
}

boot_distribution() {
    dtc -q -I dts -O dtb -o "$work/variant.dtb" "$ROOT/tests/distribution.dts"
    boot_picture small --dtb "$work/variant.dtb"
}

# boot_blob COMMAND [SECONDS]: boots the kernel on a device tree that QEMU never sees: kernel, tree and a stub that enters the one
# with the address of the other are put into memory as they are.
boot_blob() {
    "blob_$1" "$work/variant.dtb"
    picture_small "$work/picture.jpg"
    flatten "$DEMO_ELF" "$work/kernel.bin"
    board_args vexpress-a9
    disk_args vexpress-a9 "$work/picture.jpg" "$work"
    # mov r0, #0; mov r1, #0; ldr r2, [pc, #4]; ldr pc, [pc, #4]; (a word not read); tree; kernel
    printf '%b' '\x00\x00\xa0\xe3' '\x00\x10\xa0\xe3' '\x04\x20\x9f\xe5' '\x04\xf0\x9f\xe5' \
        '\x00\x00\x00\x00' '\x00\x00\x00\x68' '\x00\x00\x01\x60' >"$work/stub.bin"
    timeout "${2:-900}" qemu-system-arm "${BOARD_ARGS[@]}" "${DISK_ARGS[@]}" -display none -serial stdio -monitor none \
        -semihosting-config 'enable=on,target=native' \
        -device "loader,file=$work/kernel.bin,addr=0x60010000,force-raw=on" \
        -device "loader,file=$work/variant.dtb,addr=0x68000000,force-raw=on" \
        -device "loader,file=$work/stub.bin,addr=0x60000000,force-raw=on" \
        -device 'loader,addr=0x60000000,cpu-num=0'
}

# boot_sata DEVICE: the Cubieboard with such a drive, whose ninth sector cannot be read.
boot_sata() {
    local medium
    picture_small "$work/picture.jpg"
    flatten "$DEMO_ELF" "$work/kernel.bin"
    dtc -q -I dts -O dtb -o "$work/board.dtb" "$ROOT/boards/cubieboard/cubieboard.dts"
    board_args cubieboard
    medium='"driver": "blkdebug", "inject-error": [{"event": "read_aio", "errno": 5, "sector": 8}]'
    medium+=', "image": {"driver": "file", "filename": "'$work/picture.jpg'"}'
    timeout 900 qemu-system-arm "${BOARD_ARGS[@]}" -display none -serial stdio -monitor none \
        -semihosting-config 'enable=on,target=native' -kernel "$work/kernel.bin" -dtb "$work/board.dtb" \
        -append 'cma=64M semihosting' -blockdev '{"driver": "raw", "node-name": "disk", "file": {'"$medium"'}}' \
        -device "$1,drive=disk,rerror=report"
}

# boot_silent ADDRESS STATUS: with a virtio disk of 4 KiB whose registers are memory, with that status to begin with.
boot_silent() {
    local n word=([0]=74726976 [1]=00000002 [2]=00000002 [4]=00000001 [13]=00000040 [28]=$2 [64]=00000008)
    for n in {0..127}; do words "${word[n]:-00000000}"; done >"$work/registers"
    tree_with "$work/variant.dtb" "/ { disk@$1 { compatible = \"virtio,mmio\"; reg = <0x$1 0x200>; }; };"
    flatten "$DEMO_ELF" "$work/kernel.bin"
    emulate -device "loader,file=$work/registers,addr=0x$1,force-raw=on" -kernel "$work/kernel.bin" \
        -dtb "$work/variant.dtb" -append 'cma=64M loglevel=6 semihosting'
}

# --- device trees ---------------------------------------------------------------------------------------------------

# tree_with OUT.dtb DTS [BOARD]: the board's tree with more source after it; vexpress-a9's, if not said.
tree_with() {
    local board=${3:-vexpress-a9}
    {
        cat "$ROOT/boards/$board/$board.dts"
        # For trees that QEMU does not see; where it does, it writes its own.
        echo '/ { chosen { bootargs = "semihosting"; }; };'
        echo "$2"
    } | dtc -q -I dts -O dtb -o "$1" -
}

blob_of_garbage() { picture_small "$1"; }

# The header, and part of what it says is there.
blob_truncated() {
    tree_with "$work/whole.dtb" ''
    head -c 700 "$work/whole.dtb" >"$1"
}

blob_without_memory() { tree_with "$1" '/ { /delete-node/ memory@60000000; };'; }

blob_with_other_memory() {
    tree_with "$1" '
        / {
            /delete-node/ memory@60000000;
            memory@80000000 { device_type = "memory"; reg = <0x80000000 0x20000000>; };
        };'
}

# QEMU takes no part, so that the one transport with the disk must be named, and an area.
blob_with_default_area() { tree_with "$1" "$pool_and_disk"; }

# A tree's reservations stand in its header, before the first node.
blob_with_forty_memreserves() {
    local n
    {
        for ((n = 0; n < 40; n++)); do printf '/memreserve/ 0x%x 0x1000; ' $((0x9f000000 + n * 0x2000)); done
        dtc -q -I dts -O dts <(
            cat "$ROOT/boards/vexpress-a9/vexpress-a9.dts"
            echo '/ { chosen { bootargs = "semihosting"; }; };'
            echo "$pool_and_disk"
        ) | grep -v '^/dts-v1/'
    } | sed '1s|^|/dts-v1/; |' | dtc -q -I dts -O dtb -o "$1" -
}

blob_of_a_board() { tree_with "$1" "$pool_and_disk / { chosen { bootargs = \"loglevel=6\"; }; };"; }

pool_and_disk='
    / {
        reserved-memory {
            #address-cells = <1>; #size-cells = <1>; ranges;
            pool { compatible = "shared-dma-pool"; size = <0x2000000>; reusable; linux,cma-default; };
        };
        virtio_mmio@10013600 { compatible = "virtio,mmio"; reg = <0x10013600 0x200>; interrupts = <0 43 1>; };
    };'

# --- pictures -------------------------------------------------------------------------------------------------------

picture_small() { "$PICTURE" generate "$1" --size 320x240; }

picture_large() { "$PICTURE" generate "$1" --size 2560x2000; }

picture_huge() { "$PICTURE" generate "$1" --size 5000x3000; }

picture_of_12_megapixels_progressive() { "$PICTURE" generate "$1" --size 4000x3000 --mode 444 --progressive; }

picture_truncated_at_4000() {
    picture_small "$work/whole.jpg"
    head -c 4000 "$work/whole.jpg" >"$1"
}

picture_truncated_at_200() {
    picture_small "$work/whole.jpg"
    head -c 200 "$work/whole.jpg" >"$1"
}

picture_truncated_progressive() {
    "$PICTURE" generate "$work/whole.jpg" --size 320x240 --progressive
    head -c 9000 "$work/whole.jpg" >"$1"
}

picture_corrupt() {
    picture_small "$work/whole.jpg"
    "$PICTURE" corrupt "$work/whole.jpg" "$1"
}

# What the frame's marker says, not what is in it.
picture_arithmetic() { picture_with_frame "$1" '\xc9'; }

picture_lossless() { picture_with_frame "$1" '\xc3'; }

picture_with_frame() {
    picture_small "$work/whole.jpg"
    LC_ALL=C sed "s/\xff\xc0\x00\x11/\xff$2\x00\x11/" "$work/whole.jpg" >"$1"
}

# 240 lines in the frame header, 239 behind the scan.
picture_with_two_heights() {
    "$PICTURE" unusual restarts "$work/other.jpg" "$work/whole.jpg" --size 320x240
    head -c -2 "$work/whole.jpg" >"$1"
    printf '\xff\xdc\x00\x04\x00\xef\xff\xd9' >>"$1"
}

picture_text() { echo 'This is no picture.' >"$1"; }

picture_zeros() { head -c 512 /dev/zero >"$1"; }

picture_empty() { : >"$1"; }
