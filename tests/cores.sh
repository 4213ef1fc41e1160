# shellcheck shell=bash
# Sourced by tests/run.sh: how the other cores of a vexpress-a9 come in, or do not. What holds them is played by QEMU's
# own boot code, which knows the system registers' flags, or by a few instructions in RAM.

cores() {
    local pen='
        / { reserved-memory {
            #address-cells = <1>; #size-cells = <1>; ranges;
            pen@6ff00000 { reg = <0x6ff00000 0x1000>; };
        }; };'
    local spin='enable-method = "spin-table"; cpu-release-addr = <0 0x6ff00800>;'
    local all="/ { cpus { cpu@1 { $spin }; cpu@2 { $spin }; cpu@3 { $spin }; }; };"
    wait_for 'the flags and an interrupt' 0 '' '' 'cores: 4 are in'
    wait_for 'a spin table' 0 "$pen $all" '1 2 3' 'cores: 4 are in'
    wait_for 'a spin table, one of them elsewhere' 0 "$pen $all" '1 3' \
        'refused: cpu@2: sent for, it did not come within 1000 ms' 'cores: 3 are in'
    wait_for 'a spin table in carved memory' 0 \
        '/ { cpus { cpu@1 { enable-method = "spin-table"; cpu-release-addr = <0 0x70000000>; }; };
            reserved-memory { #address-cells = <1>; #size-cells = <1>; ranges;
            pool@70000000 { compatible = "shared-dma-pool"; no-map; reg = <0x70000000 0x200000>; }; }; };' '' \
        'refused: registers at 0x70000000-0x70001000 (4 KiB) not mapped: *' \
        'refused: cpu@1: cpu-release-addr 0x70000000 is in memory that was carved out' 'cores: 3 are in'
    wait_for 'a spin table without an address' 0 '/ { cpus { cpu@3 { enable-method = "spin-table"; }; }; };' '' \
        'refused: cpu@3: cpu-release-addr is missing, no multiple of 4, or above 4 GiB' 'cores: 3 are in'
    wait_for 'a method that is not known' 0 '/ { cpus { cpu@3 { enable-method = "psci"; }; }; };' '' \
        'refused: cpu@3: enable-method "psci" is not known' 'cores: 3 are in'
    wait_for 'a board that is not known' 0 '/ { motherboard { /delete-node/ sysreg@10000000; }; };' '' \
        'refused: cpu@1: no enable-method, and no board that is known to start it' \
        'refused: cpu@2: no enable-method, and no board that is known to start it' \
        'refused: cpu@3: no enable-method, and no board that is known to start it'
    check 'cores: two of four' outcome 0 'cores: 2 of the 4 in the device tree are not there' 'cores: 2 are in' \
        'demo: ok' -- boot_penned '' '' -smp 2
    # The bits of its diagnostic control register, by revision: kernel/armv7a/src/errata.rs.
    local elf
    for elf in "${on_target_elfs[@]}"; do
        [[ $elf == */errata-* ]] || continue
        of_revision r1p2 0x411fc092 0x00600810 "$elf"
        of_revision r2p0 0x412fc090 0x00601850 "$elf"
        of_revision r2p3 0x412fc093 0x00600840 "$elf"
        of_revision r3p0 0x413fc090 0x00600000 "$elf"
        of_revision r4p1 0x414fc091 0x00400000 "$elf"
    done
    # Cores by other names: kernel/armv7a/src/ids.rs.
    check 'cores: a Cortex-A7' outcome 0 'cores: 4 are in' 'demo: ok' -- boot_penned '' '' -smp 4 \
        -global cortex-a9-arm-cpu.midr=0x410fc075
    check 'cores: a Cortex-A15 of which one alone is right' outcome 0 \
        'refused: 3 more cores: this Cortex-A15 has erratum 798181: a TLB invalidate may end too early' 'demo: ok' -- \
        boot_penned '' '' -smp 4 -global cortex-a9-arm-cpu.midr=0x412fc0f1
    check 'cores: one that is not known' outcome 0 \
        'refused: 3 more cores: how a core with MIDR 0x510f06f0 joins coherency is not known' 'demo: ok' -- \
        boot_penned '' '' -smp 4 -global cortex-a9-arm-cpu.midr=0x510f06f0
    # QEMU's caches hold nothing.
    check 'cores: coherency, as far as QEMU shows it' outcome 0 \
        'coherency: core 3, invalidate: 0 of 64 lines were held, 0 after it: nothing shown, no line was held' \
        'coherency: 0 of 8 shown, 0 failed' 'demo: ok' -- coherency
    # How a boot loader may hand over: with the MMU and caches on, and in the non-secure world.
    check 'cores: entered with MMU and caches on' outcome 1 'audit: *' \
        'error: demo: no disk: none on virtio or SATA, and no memory card' -- entered_by mapped 0x60010000
    check 'cores: entered with an MMU that translates' outcome 101 \
        'carveout: head: entered with the MMU on, and not at its physical address' -- entered_by mapped 0x30010000
    check 'cores: entered in Hyp mode' outcome 101 'carveout: head: entered in Hyp mode: Supervisor mode is needed' -- \
        in_hyp_mode
    check 'cores: entered in the non-secure world' outcome 1 'world: non-secure: *' \
        'refused: outer cache: off, and the non-secure world may not turn it on: the secure world*' \
        'error: demo: no disk: none on virtio or SATA, and no memory card' -- entered_by non_secure 0x60010000
    # No -kernel, so no disk, and the tree as it is.
    check 'cores: all enter at once' outcome 1 'cores: 4 are in' \
        'error: demo: no disk: none on virtio or SATA, and no memory card' -- all_enter
}

: "${work=}" "${on_target_elfs=}"

# of_revision NAME MIDR BITS ELF: four cores that call themselves so.
of_revision() {
    check "cores: errata of $1" outcome 0 "errata: MIDR $2, diagnostic control $3 on 4 cores" \
        'every_core_has_the_bits_of_its_revision: ok' -- boot_revision "$2" "$4"
}

# boot_revision MIDR ELF
boot_revision() {
    flatten "$2" "$work/kernel.bin"
    dtc -q -I dts -O dtb -o "$work/board.dtb" "$ROOT/boards/vexpress-a9/vexpress-a9.dts"
    emulate -global "cortex-a9-arm-cpu.midr=$1" -smp 4 -kernel "$work/kernel.bin" -dtb "$work/board.dtb" \
        -append 'cma=64M semihosting'
}

# wait_for NAME EXIT DTS PENNED LINE...: four cores, of which those PENNED wait for the word at 0x6ff00800.
wait_for() {
    check "cores: waiting for $1" outcome "$2" "${@:5}" 'demo: ok' -- boot_penned "$3" "$4" -smp 4
}

# words WORD...: to the standard output, little-endian.
words() {
    local word
    for word; do printf '%b' "\\x${word:6:2}\\x${word:4:2}\\x${word:2:2}\\x${word:0:2}"; done
}

# boot_penned DTS PENNED QEMU-OPTION...
boot_penned() {
    local pen=() core
    picture_small "$work/picture.jpg"
    tree_with "$work/variant.dtb" "$1" vexpress-a9
    # ldr r1, =0x6ff00800; 1: ldr r0, [r1]; cmp r0, #0; beq 1b; bx r0
    words e59f100c e5910000 e3500000 0afffffc e12fff10 6ff00800 >"$work/pen"
    [[ -z $2 ]] || pen=(-device "loader,file=$work/pen,addr=0x6ff00000,force-raw=on")
    for core in $2; do pen+=(-device "loader,addr=0x6ff00000,cpu-num=$core"); done
    flatten "$DEMO_ELF" "$work/kernel.bin"
    disk_args vexpress-a9 "$work/picture.jpg" "$work"
    emulate "${DISK_ARGS[@]}" "${pen[@]}" -kernel "$work/kernel.bin" -dtb "$work/variant.dtb" \
        -append 'cma=64M loglevel=6 semihosting' "${@:3}"
}

# A boot loader that releases all cores at once.
all_enter() {
    local core entry=()
    tree_with "$work/variant.dtb" '/ { chosen { bootargs = "cma=64M loglevel=6 semihosting"; }; };' vexpress-a9
    flatten "$DEMO_ELF" "$work/kernel.bin"
    # mov r2, #0x68000000; ldr pc, =0x60010000
    words e3a02468 e51ff004 60010000 >"$work/loader"
    for core in 0 1 2 3; do entry+=(-device "loader,addr=0x6f000000,cpu-num=$core"); done
    emulate -smp 4 -device "loader,file=$work/kernel.bin,addr=0x60010000,force-raw=on" \
        -device "loader,file=$work/variant.dtb,addr=0x68000000,force-raw=on" \
        -device "loader,file=$work/loader,addr=0x6f000000,force-raw=on" "${entry[@]}"
}

coherency() {
    flatten "$DEMO_ELF" "$work/kernel.bin"
    dtc -q -I dts -O dtb -o "$work/board.dtb" "$ROOT/boards/vexpress-a9/vexpress-a9.dts"
    emulate -smp 4 -kernel "$work/kernel.bin" -dtb "$work/board.dtb" \
        -append 'cma=64M loglevel=6 semihosting demo=coherency'
}

# entered_by LOADER ADDRESS: one core, sent to the image by a few instructions, with the device tree in r2.
entered_by() {
    tree_with "$work/variant.dtb" '/ { cpus { /delete-node/ cpu@1; /delete-node/ cpu@2; /delete-node/ cpu@3; };
        chosen { bootargs = "cma=64M loglevel=6 semihosting"; }; };' vexpress-a9
    flatten "$DEMO_ELF" "$work/kernel.bin"
    {
        "$1"
        # mov r2, #0x68000000; ldr pc, =ADDRESS
        words e3a02468 e51ff004 "${2#0x}"
    } >"$work/loader"
    emulate -smp 1 -device "loader,file=$work/kernel.bin,addr=0x60010000,force-raw=on" \
        -device "loader,file=$work/variant.dtb,addr=0x68000000,force-raw=on" \
        -device "loader,file=$work/loader,addr=0x6f000000,force-raw=on" -device loader,addr=0x6f000000,cpu-num=0
}

in_hyp_mode() {
    flatten "$DEMO_ELF" "$work/kernel.bin"
    timeout --foreground --kill-after=5 900 qemu-system-arm -machine vexpress-a15,virtualization=on,secure=off -m 512M \
        -display none -serial stdio -monitor none -semihosting-config 'enable=on,target=native' \
        -audiodev none,id=silent -global pl041.audiodev=silent -nic none -kernel "$work/kernel.bin"
}

# SCR.NS. mrc p15, 0, r0, c1, c1, 0; orr r0, r0, #1; mcr p15, 0, r0, c1, c1, 0; isb
non_secure() { words ee110f11 e3800001 ee010f11 f57ff06f; }

# All addresses write-back at themselves, and 0x30000000 at 0x60000000 too; the table at 0x6e000000.
mapped() {
    # mov r0, #0x6e000000; movw r1, #0xc0e; mov r2, #0
    words e3a0046e e3001c0e e3a02000
    # 1: str r1, [r0], #4; add r1, r1, #0x100000; add r2, r2, #1; cmp r2, #0x1000; bne 1b
    words e4801004 e2811601 e2822001 e3520a01 1afffffa
    # mov r0, #0x6e000000; mov r1, #0x60000000; orr r1, r1, #0xc00; orr r1, r1, #0xe; str r1, [r0, #0xc00]
    words e3a0046e e3a01206 e3811b03 e381100e e5801c00
    # TTBR0 = r0; TTBCR = 0; DACR = all ones; TLBIALL
    words ee020f10 e3a00000 ee020f50 e3e00000 ee030f10 ee080f17
    # SCTLR |= M | C | I; isb
    words ee110f10 e3011005 e1800001 ee010f10 f57ff06f
}

emulate() {
    board_args vexpress-a9
    timeout --foreground --kill-after=5 900 qemu-system-arm "${BOARD_ARGS[@]}" -display none -serial stdio \
        -monitor none -semihosting-config 'enable=on,target=native' "$@"
}
