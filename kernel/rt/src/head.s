@ From the boot loader's jump to the first line of Rust, on the first core and, from `carveout_secondary` on, on the
@ others of an MPCore. The contracts are in start.rs, which assembles this file, and secondary.rs.
@
@ Everything here runs at whatever physical address the image was loaded to, so it takes addresses either
@ pc-relative (adr) or as "linked address + r10". Register use from `head` to `virtual`:
@
@   r7   1 in the non-secure world, else 0     r9   size of the device tree in bytes, 0 if there is none
@   r8   physical address of the device tree  r10  physical address minus linked address (modulo 2^32)
@   r11  DTB_* code, how the device tree was found
@
@ It makes no use of a stack before `virtual`.

    .syntax unified
    .arch armv7-a
    .arch_extension virt
    .arm

    .equ ZIMAGE_MAGIC,    0x016f2818
    .equ MODE_SVC,        0x13
    .equ MASKED_SVC,      0x1d3             @ with aborts and interrupts masked
    .equ MODE_ABT,        0x17
    .equ MODE_HYP,        0x1a

    @ MIDR without the revision (ids.rs).
    .equ CORE_MASK,       {core_mask}
    .equ CORTEX_A5,       0x410fc050
    .equ CORTEX_A8,       0x410fc080
    .equ CORTEX_A9,       0x410fc090

    @ SCTLR (ARM ARM B4.1.130).
    .equ SCTLR_M,         1 << 0
    .equ SCTLR_A,         1 << 1
    .equ SCTLR_C,         1 << 2
    .equ SCTLR_Z,         1 << 11
    .equ SCTLR_I,         1 << 12
    .equ SCTLR_V,         1 << 13
    .equ SCTLR_EE,        1 << 25
    .equ SCTLR_TRE,       1 << 28
    .equ SCTLR_AFE,       1 << 29
    .equ SCTLR_TE,        1 << 30

    @ Descriptors (vm::desc), windows (vm::layout) and codes are start.rs's; in braces, since it substitutes them.
    .equ PAGE_RX,         {page_rx}         @ non-shareable
    .equ PAGE_RO,         {page_ro}
    .equ PAGE_RW,         {page_rw}
    .equ PAGE_S,          {page_s}          @ what makes them Shareable
    .equ COARSE,          {coarse}          @ first-level pointer to a second-level table
    .equ IMAGE_WINDOW,    {image_window}
    .equ FIXMAP_WINDOW,   {fixmap_window}
    .equ IMAGE_TABLES,    {image_tables}
    .equ FIXMAP_TABLES,   {fixmap_tables}
    .equ TABLE,           0x400             @ bytes in a second-level table
    .equ CORES,           {cores}               @ that have stacks
    .equ FIRST_FIXED_MIB, {fixmap_window} >> 20 @ from here up every first-level slot is spoken for

    .equ DTB_FOUND,       {dtb_found}
    .equ DTB_ABSENT,      {dtb_absent}
    .equ DTB_MISALIGNED,  {dtb_misaligned}
    .equ DTB_UNREADABLE,  {dtb_unreadable}
    .equ DTB_BAD_MAGIC,   {dtb_bad_magic}
    .equ DTB_BAD_SIZE,    {dtb_bad_size}
    .equ DTB_MAGIC_SWAPPED, 0xedfe0dd0
    .equ DTB_SIZE_MIN,    0x28
    .equ DTB_SIZE_MAX,    0x100000

    @ Runs the instructions between `attempt` and `attempted` so that an abort or an undefined instruction among
    @ them continues at \otherwise instead of being reported. TPIDRPRW holds that address, else 0.
    .macro attempt otherwise, scratch
    adr     \scratch, \otherwise
    mcr     p15, 0, \scratch, c13, c0, 4
    isb
    .endm
    .macro attempted scratch
    dsb
    mov     \scratch, #0
    mcr     p15, 0, \scratch, c13, c0, 4
    isb
    .endm

    @ \reg = physical address of \symbol.
    .macro phys reg, symbol
    ldr     \reg, =\symbol
    add     \reg, \reg, r10
    .endm

    .section .head, "ax", %progbits
    .global _start
_start:
    @ The zImage header: boot loaders look for the magic at 0x24 (Linux, Documentation/arch/arm/booting.rst). The
    @ end includes .bss, so that a loader that keeps clear of the image keeps clear of all of it.
    .rept   8
    mov     r0, r0
    .endr
    b       head
    .word   ZIMAGE_MAGIC
    .word   0                               @ start: position-independent
    .word   __image_size                    @ end
    .word   0x04030201                      @ little-endian

    @ VBAR takes multiples of 32.
    .balign 32
early_vectors:
    b       early_reset
    b       early_undefined
    b       park                            @ svc: nobody answers semihosting
    b       early_prefetch_abort
    b       early_data_abort
    b       early_reserved
    b       early_irq
    b       early_fiq

early_undefined:
    mrc     p15, 0, sp, c13, c0, 4          @ this mode's own sp, which has no other use yet
    cmp     sp, #0
    movsne  pc, sp
    adr     r1, message_undefined
    b       die
early_data_abort:
    mrc     p15, 0, sp, c13, c0, 4
    cmp     sp, #0
    movsne  pc, sp
    adr     r1, message_data_abort
    b       die
early_prefetch_abort:
    adr     r1, message_prefetch_abort
    b       die
early_reset:
    adr     r1, message_reset
    b       die
early_reserved:
    adr     r1, message_reserved
    b       die
early_irq:
    adr     r1, message_irq
    b       die
early_fiq:
    adr     r1, message_fiq
    b       die

    @ fn carveout_die(message: *const u8) -> !: says so over semihosting, exits with 101, else parks.
    .global carveout_die
    .type   carveout_die, %function         @ called from Thumb too
carveout_die:
    mov     r1, r0
die:
    mov     r0, #0x04                       @ SYS_WRITE0
    svc     0x123456
    mov     r0, #0x20                       @ SYS_EXIT_EXTENDED
    adr     r1, exit_block
    svc     0x123456
    @ fn carveout_park() -> !
    .global carveout_park
    .type   carveout_park, %function
carveout_park:
park:
    cpsid   aif
1:  wfi
    b       1b

    .balign 4
exit_block:
    .word   0x20026                         @ ADP_Stopped_ApplicationExit
    .word   101
    .macro message name, text
    .balign 4
message_\name:
    .asciz  "\text\n"
    .endm
    message reset,          "carveout: head: reset vector taken"
    message undefined,      "carveout: head: undefined instruction"
    message prefetch_abort, "carveout: head: prefetch abort"
    message data_abort,     "carveout: head: data abort"
    message reserved,       "carveout: head: reserved vector taken"
    message irq,            "carveout: head: interrupt while masked"
    message fiq,            "carveout: head: fast interrupt while masked"
    message alignment,      "carveout: head: image not loaded at a multiple of 32 bytes"
    message no_room,        "carveout: head: no place for the image above its load address"
    message hyp,            "carveout: head: entered in Hyp mode with its MMU or caches on"
    message no_security,    "carveout: head: the core has no Security Extensions, and so no VBAR and no ISR"
    message mapped,         "carveout: head: entered with the MMU on, and not at its physical address"
    .balign 4

refuse_alignment:
    adr     r1, message_alignment
    b       die
refuse_no_room:
    adr     r1, message_no_room
    b       die
refuse_hyp:
    adr     r1, message_hyp
    b       die
refuse_no_security:
    adr     r1, message_no_security
    b       die
refuse_mapped:
    adr     r1, message_mapped
    b       die

    @ ------------------------------------------------------------------------------------------------------------
head:
    bl      supervisor
    mov     r8, r2

    @ With the Multiprocessing Extensions (bit 31) the first core boots.
    mrc     p15, 0, r0, c0, c0, 5           @ MPIDR
    tst     r0, #0x80000000
    beq     1f
    tst     r0, #0xff
    bne     pen
1:  bl      core_init
    b       device_tree

    @ A core that enters along with the first waits for the word that `secondary::open_pen` writes, in the image where
    @ it was loaded: one that moves leaves the core behind.
pen:
    adr     r10, early_vectors
    ldr     r0, =early_vectors
    sub     r10, r10, r0
    phys    r1, CARVEOUT_PEN
    @ It looks before it waits: the event may have come and gone before the core was here.
1:  ldr     r0, [r1]
    cmp     r0, #0
    wfeeq
    beq     1b

    @ Where the other cores are sent (secondary.rs), MMU and caches off, once `carveout_start` runs on the first.
    .global carveout_secondary
    .type   carveout_secondary, %function
carveout_secondary:
    bl      supervisor
    bl      core_init
    mov     r11, #PAGE_S                    @ no core without the Multiprocessing Extensions comes here
    phys    r4, carveout_boot_l1
    b       mmu_on

    @ ------------------------------------------------------------------------------------------------------------
    @ What each core does for itself before its caches are on: control registers, caches, coherency. Sets r7 and r10, keeps
    @ r8; r9 holds the way back.
core_init:
    mov     r9, lr
    adr     r10, early_vectors
    ldr     r0, =early_vectors
    sub     r10, r10, r0

    @ VBAR, which is written below, and ISR, which the lock reads, are the Security Extensions' (ARM ARM B4.1.156,
    @ B4.1.83). Each core of ids.rs has them; QEMU has the registers, and says otherwise on boards with one world.
    mrc     p15, 0, r0, c0, c1, 1           @ ID_PFR1
    tst     r0, #0xf0
    bne     2f
    mrc     p15, 0, r1, c0, c0, 0           @ MIDR
    ldr     r2, =CORE_MASK
    and     r1, r1, r2
    phys    r3, CARVEOUT_CORES
1:  ldr     r0, [r3], #12
    cmp     r0, #0
    beq     refuse_no_security
    cmp     r0, r1
    bne     1b
2:
    mov     r0, #0
    mcr     p15, 0, r0, c13, c0, 4          @ TPIDRPRW: no attempt under way
    mrc     p15, 0, r7, c1, c0, 0           @ SCTLR, as the boot loader left it
    ldr     r1, =(SCTLR_A | SCTLR_V | SCTLR_EE | SCTLR_TE)
    bic     r0, r7, r1
    mcr     p15, 0, r0, c1, c0, 0
    phys    r0, early_vectors
    mcr     p15, 0, r0, c12, c0, 0          @ VBAR
    isb
    tst     r0, #31
    bne     refuse_alignment

    @ --- MMU and caches, if the boot loader left them on. Code, device tree and what else it wrote may be in dirty lines
    @ alone: they are cleaned while the core fetches through them, and again once no access allocates, for another core's
    @ dirty line may have come over. The MMU goes only from where it changes no address.
    tst     r7, #SCTLR_M
    beq     1f
    phys    r0, early_vectors
    mcr     p15, 0, r0, c7, c8, 0           @ ATS1CPR
    isb
    mrc     p15, 0, r1, c7, c4, 0           @ PAR
    eor     r1, r1, r0                      @ no fault: the core fetches by this translation
    lsrs    r1, r1, #12
    bne     refuse_mapped
1:  tst     r7, #SCTLR_C
    beq     1f
    bl      each_line
1:  mrc     p15, 0, r0, c1, c0, 0           @ SCTLR
    ldr     r1, =(SCTLR_M | SCTLR_C | SCTLR_Z | SCTLR_I)
    bic     r0, r0, r1
    mcr     p15, 0, r0, c1, c0, 0
    isb
    @ If the caches were off their contents are of no use to anyone. They go before the first write, so that no stale line
    @ can hit once they are on; a Cortex-A9's come out of reset with anything in them.
    bl      each_line
    mov     r0, #0
    mcr     p15, 0, r0, c7, c5, 0           @ ICIALLU
    mcr     p15, 0, r0, c7, c5, 6           @ BPIALL
    mcr     p15, 0, r0, c8, c7, 0           @ TLBIALL
    dsb
    isb

    @ --- The world. SCR is the secure world's to read, and undefined in the other (ARM ARM B4.1.129). A core that says
    @ it has no Security Extensions has one world, which may do all.
    mov     r7, #0
    mrc     p15, 0, r0, c0, c1, 1           @ ID_PFR1
    tst     r0, #0xf0
    beq     world_known
    mov     r7, #1
    attempt world_known, r1
    mrc     p15, 0, r0, c1, c1, 0           @ SCR
    mov     r7, #0
world_known:

    mrc     p15, 0, r2, c0, c0, 0           @ MIDR
    ldr     r1, =CORE_MASK
    and     r6, r2, r1
    ubfx    r3, r2, #20, #4
    bfi     r2, r3, #4, #28                 @ variant << 4 | revision
    ldr     r0, =CORTEX_A8
    cmp     r6, r0
    bne     not_cortex_a8

    @ Cortex-A8: the second level, if CLIDR names one, in the manual's order (DDI 0344K 8.3): its auxiliary control, then
    @ L2EN, and SCTLR.C far below. A non-secure world may not write these; its firmware has done it. Errata by revision:
    @ 430973, r1p*: a stale prediction after code moved: IBE makes the predictor's invalidate one.
    @ 458693, r2p0: a deadlock of L1 allocation: L1NEON and PLDNOP.
    @ 460075, r2p0: a write-allocate in the second level loses data: it is turned off.
    attempt core_done, r1
    cmp     r2, #0x20
    bne     1f
    mrc     p15, 1, r0, c9, c0, 2           @ second level's auxiliary control
    tst     r0, #1 << 22
    orreq   r0, r0, #1 << 22
    mcreq   p15, 1, r0, c9, c0, 2
1:
    mrc     p15, 1, r1, c0, c0, 1           @ CLIDR
    tst     r1, #7 << 3
    mrc     p15, 0, r0, c1, c0, 1           @ ACTLR
    mov     r1, r0
    orrne   r1, r1, #1 << 1
    cmp     r3, #1
    orreq   r1, r1, #1 << 6
    cmp     r2, #0x20
    orreq   r1, r1, #1 << 5
    orreq   r1, r1, #1 << 9
    teq     r0, r1
    mcrne   p15, 0, r1, c1, c0, 1
    b       core_done

not_cortex_a8:
    @ Diagnostic control and SCU are the secure world's: in the other its firmware has done what follows.
    cmp     r7, #0
    bne     join
    ldr     r0, =CORTEX_A9
    cmp     r6, r0
    bne     scu
    @ Errata by revision: the bits of those it has (errata.rs).
    phys    r3, CARVEOUT_ERRATA
    mov     r1, #0
1:  ldr     r0, [r3], #4                    @ bits
    ldr     r4, [r3], #4                    @ first revision
    ldr     r5, [r3], #4                    @ last
    cmp     r2, r4
    blo     2f
    cmp     r2, r5
    orrls   r1, r1, r0
2:  cmp     r0, #0
    bne     1b
    attempt scu, r2
    mrc     p15, 0, r0, c15, c0, 1          @ diagnostic control
    bics    r2, r1, r0
    orrne   r0, r0, r1
    mcrne   p15, 0, r0, c15, c0, 1

    @ The SCU of Cortex-A5 and Cortex-A9, before SMP. Later cores have none that software turns on.
scu:
    ldr     r0, =CORTEX_A9
    cmp     r6, r0
    ldrne   r0, =CORTEX_A5
    cmpne   r6, r0
    bne     join
    attempt join, r1
    mrc     p15, 0, r0, c0, c0, 5           @ MPIDR.U: a uniprocessor has no SCU
    tst     r0, #1 << 30
    bne     join
    mrc     p15, 4, r0, c15, c0, 0          @ CBAR
    ldr     r1, =CORTEX_A9
    cmp     r6, r1
    bne     1f
    @ Erratum 764369: maintenance by address may miss another core's line. A boot loader may have left the SCU on.
    ldr     r2, [r0, #0x30]
    orr     r2, r2, #1
    str     r2, [r0, #0x30]
1:  ldr     r1, [r0]                        @ SCU control
    mrc     p15, 0, r3, c0, c0, 5           @ MPIDR
    ands    r3, r3, #3
    bne     1f
    tst     r1, #1
    bne     join
1:  lsl     r3, r3, #2
    mov     r2, #0xf
    lsl     r2, r2, r3
    str     r2, [r0, #0x0c]                 @ invalidate this core's tags, all ways
    orr     r1, r1, #1
    str     r1, [r0]

    @ The core joins coherency before any cache is on: without SMP and FW Shareable memory is not cached and maintenance
    @ is not broadcast. Which bits a core has for it, and which a boot loader must not have left, ids.rs says; a core that
    @ is not in its table stays as it is.
join:
    phys    r3, CARVEOUT_CORES
1:  ldr     r0, [r3], #4                    @ MIDR without the revision
    ldr     r1, [r3], #4                    @ bits to set
    ldr     r2, [r3], #4                    @ bits to clear
    cmp     r0, #0
    beq     core_done
    cmp     r0, r6
    bne     1b
    attempt core_done, r0
    mrc     p15, 0, r0, c1, c0, 1           @ ACTLR
    bic     r2, r0, r2
    orr     r2, r2, r1
    teq     r0, r2
    mcrne   p15, 0, r2, c1, c0, 1
core_done:
    attempted r0
    bx      r9

    @ Every line of this core's caches, by set and way: invalidated if r7, an SCTLR, says that they were off, else cleaned too.
    @ Set and way are right here and only here: no other core has a line of this memory that matters.
    @ CLIDR counts the levels: the first core goes to the level of coherency, which is the second on Cortex-A8, Cortex-A7
    @ and Cortex-A15. Another core stays within its own: what lies beyond, the first core uses.
each_line:
    dmb
    mrc     p15, 1, r0, c0, c0, 1           @ CLIDR
    ubfx    r1, r0, #24, #3                 @ level of coherency
    mrc     p15, 0, r2, c0, c0, 5           @ MPIDR
    tst     r2, #0x80000000
    beq     1f
    tst     r2, #0xff
    beq     1f
    ubfx    r1, r0, #21, #3                 @ level of unification for the inner shareable domain
    cmp     r1, #0                          @ erratum 643719 of Cortex-A9: 0 is 1
    moveq   r1, #1
1:  mov     r3, #0                          @ level << 1
level:
    cmp     r3, r1, lsl #1
    bhs     levels_done
    add     r4, r3, r3, lsr #1              @ level * 3
    lsr     r4, r0, r4
    and     r4, r4, #7
    cmp     r4, #2                          @ 2 and up: a data or a unified cache
    blo     level_next
    mcr     p15, 2, r3, c0, c0, 0           @ CSSELR
    isb
    mrc     p15, 1, r4, c0, c0, 0           @ CCSIDR
    and     r5, r4, #7
    add     r5, r5, #4                      @ log2 of the line in bytes: where the set goes
    ubfx    r6, r4, #3, #10                 @ ways - 1
    ubfx    r4, r4, #13, #15                @ sets - 1
    clz     r12, r6                         @ where the way goes; 32 with one way, and the way is then 0
way:
    mov     r2, r4
set:
    lsl     r11, r6, r12
    orr     r11, r11, r2, lsl r5
    orr     r11, r11, r3
    tst     r7, #SCTLR_C
    mcreq   p15, 0, r11, c7, c6, 2          @ DCISW
    mcrne   p15, 0, r11, c7, c14, 2         @ DCCISW
    subs    r2, r2, #1
    bpl     set
    subs    r6, r6, #1
    bpl     way
level_next:
    dsb                                     @ erratum 814220 of Cortex-A7: the next level's may come first
    add     r3, r3, #2
    b       level
levels_done:
    mov     r0, #0
    mcr     p15, 2, r0, c0, c0, 0           @ CSSELR
    dsb
    bx      lr

    @ To Supervisor mode, with everything masked, from any mode. Keeps r2.
supervisor:
    setend  le
    mov     r3, lr                          @ a mode has its own
    mrs     r0, cpsr
    and     r0, r0, #0x1f
    cmp     r0, #MODE_HYP
    beq     1f
    cpsid   aif, #MODE_SVC
    bx      r3

    @ Hyp mode is left for good: nothing is trapped to it or translated a second time, and below it the core sees itself
    @ as it is, with its counters and its timer (ARM ARM B1.9, B8.1). Lines that Hyp mode left would be in nobody's hands.
1:  mrc     p15, 4, r0, c1, c0, 0           @ HSCTLR
    tst     r0, #SCTLR_M | SCTLR_C
    bne     refuse_hyp
    mov     r1, #0
    mcr     p15, 4, r1, c1, c1, 0           @ HCR
    mcr     p15, 4, r1, c1, c1, 3           @ HSTR
    ldr     r0, =0x33ff                     @ the bits that are always 1
    mcr     p15, 4, r0, c1, c1, 2           @ HCPTR
    mrc     p15, 4, r0, c1, c1, 1           @ HDCR
    and     r0, r0, #0x1f                   @ how many counters are not Hyp mode's: all
    mcr     p15, 4, r0, c1, c1, 1
    mcrr    p15, 6, r1, r1, c2              @ VTTBR: VMID 0
    mrc     p15, 0, r0, c0, c0, 0           @ MIDR
    mcr     p15, 4, r0, c0, c0, 0           @ VPIDR
    mrc     p15, 0, r0, c0, c0, 5           @ MPIDR
    mcr     p15, 4, r0, c0, c0, 5           @ VMPIDR
    mrc     p15, 0, r0, c0, c1, 1           @ ID_PFR1: the Generic Timer
    tst     r0, #0xf0000
    beq     1f
    mrc     p15, 4, r0, c14, c1, 0          @ CNTHCTL
    orr     r0, r0, #3
    mcr     p15, 4, r0, c14, c1, 0
    mcrr    p15, 4, r1, r1, c14             @ CNTVOFF
    @ The SCTLR of the modes below may never have been written.
1:  mrc     p15, 0, r0, c1, c0, 0           @ SCTLR
    ldr     r1, =(SCTLR_M | SCTLR_A | SCTLR_C | SCTLR_Z | SCTLR_I | SCTLR_V | SCTLR_EE | SCTLR_TE)
    bic     r0, r0, r1
    mcr     p15, 0, r0, c1, c0, 0
    ldr     r0, =MASKED_SVC
    msr     spsr_cxsf, r0
    msr     elr_hyp, r3
    eret

    @ --- The device tree, if r2 points to one. A wild r2 may abort.
device_tree:
    mov     r9, #0
    mov     r11, #DTB_ABSENT
    cmp     r8, #0
    beq     dtb_done
    mov     r11, #DTB_MISALIGNED
    tst     r8, #3
    bne     dtb_done
    mov     r11, #DTB_UNREADABLE
    attempt dtb_done, r0
    ldr     r0, [r8]
    ldr     r1, [r8, #4]
    dsb
    mov     r11, #DTB_BAD_MAGIC
    ldr     r2, =DTB_MAGIC_SWAPPED
    cmp     r0, r2
    bne     dtb_done
    mov     r11, #DTB_BAD_SIZE
    rev     r1, r1
    cmp     r1, #DTB_SIZE_MIN
    blo     dtb_done
    cmp     r1, #DTB_SIZE_MAX
    bhi     dtb_done
    adds    r2, r8, r1
    bcs     dtb_done
    mov     r9, r1
    mov     r11, #DTB_FOUND
dtb_done:
    attempted r0

    @ --- Where the image goes: the first address T from here up that is 0x10000 modulo 1 MiB and keeps
    @ [T, T + size) clear of the device tree. Here, if that is such an address.
    phys    r4, __image_start
    ldr     r5, =__image_size
    sub     r6, r4, #0x10000
    ldr     r0, =0xfffff
    add     r6, r6, r0
    bic     r6, r6, r0
    add     r6, r6, #0x10000                @ T
    cmp     r6, r4
    blo     refuse_no_room                  @ past 4 GiB
place:
    adds    r0, r6, r5
    bcs     refuse_no_room
    cmp     r9, #0
    beq     placed
    cmp     r8, r0
    bhs     placed
    add     r0, r8, r9
    cmp     r6, r0
    bhs     placed
    adds    r6, r6, #0x100000
    bcc     place
    b       refuse_no_room
placed:
    lsr     r0, r6, #20
    ldr     r1, =FIRST_FIXED_MIB
    cmp     r0, r1
    bhs     refuse_no_room
    cmp     r6, r4
    beq     moved

    @ --- Move up, last word first, since the two may overlap. The loop would overwrite itself: it runs from a copy
    @ just past the moved file, where .bss will be, which is clear of old, new and device tree.
    ldr     r5, =__load_end
    ldr     r0, =__image_start
    sub     r5, r5, r0                      @ bytes in the file
    add     r12, r6, r5
    adr     r0, mover
    adr     r1, mover_end
    mov     r2, r12
1:  ldr     r3, [r0], #4
    str     r3, [r2], #4
    cmp     r0, r1
    blo     1b
    sub     r0, r6, r4
    add     r10, r10, r0
    phys    lr, moved
    dsb
    mcr     p15, 0, r0, c7, c5, 0           @ ICIALLU
    mcr     p15, 0, r0, c7, c5, 6           @ BPIALL
    dsb
    isb
    bx      r12
mover:
    subs    r5, r5, #4
    ldr     r0, [r4, r5]
    str     r0, [r6, r5]
    bne     mover
    dsb
    mcr     p15, 0, r0, c7, c5, 0           @ ICIALLU
    mcr     p15, 0, r0, c7, c5, 6           @ BPIALL
    dsb
    isb
    bx      lr
mover_end:

    .ltorg

moved:
    phys    r0, early_vectors
    mcr     p15, 0, r0, c12, c0, 0          @ VBAR
    isb

    @ --- .bss, whole blocks of 128 bytes. Nobody reads what a stack held before.
    mov     sp, r8                          @ it has no other use yet
    mov     r2, #0
    mov     r3, #0
    mov     r4, #0
    mov     r5, #0
    mov     r6, #0
    mov     r8, #0
    mov     r12, #0
    mov     lr, #0
    phys    r0, __bss_start
    phys    r1, __svc_guard
1:  stm     r0!, {{r2-r6, r8, r12, lr}}
    stm     r0!, {{r2-r6, r8, r12, lr}}
    stm     r0!, {{r2-r6, r8, r12, lr}}
    stm     r0!, {{r2-r6, r8, r12, lr}}
    cmp     r0, r1
    blo     1b
    mov     r8, sp

    phys    r0, CARVEOUT_BOOT
    str     r10, [r0]
    str     r8, [r0, #4]
    str     r9, [r0, #8]
    str     r11, [r0, #12]
    str     r7, [r0, #16]

    @ --- Tables: pages only, so that nothing is mapped but the image, its head a second time where it lies, and the
    @ device tree.
    mov     r11, #0                         @ S bit, on cores with the Multiprocessing Extensions
    mrc     p15, 0, r0, c0, c0, 5           @ MPIDR
    tst     r0, #0x80000000
    movne   r11, #PAGE_S

    .macro map_image from, to, attributes
    ldr     r0, =\from
    ldr     r1, =\to
    ldr     r2, =\attributes
    bl      map_image
    .endm
    map_image __image_start, __text_end, PAGE_RX
    map_image __rodata_start, __rodata_end, PAGE_RO
    map_image __data_start, __svc_guard, PAGE_RW
    mov     r5, #0                          @ from the first core's stacks to this one's
    mov     r6, #CORES
3:  ldr     r0, =__svc_stack
    ldr     r1, =__fault_guard
    ldr     r2, =PAGE_RW
    add     r0, r0, r5
    add     r1, r1, r5
    bl      map_image
    ldr     r0, =__fault_stack
    ldr     r1, =__fault_stack_top
    ldr     r2, =PAGE_RW
    add     r0, r0, r5
    add     r1, r1, r5
    bl      map_image
    ldr     r0, =__core_stacks
    add     r5, r5, r0
    subs    r6, r6, #1
    bne     3b

    phys    r4, carveout_l1
    phys    r5, carveout_l2
    orr     r1, r5, #COARSE
    ldr     r0, =(IMAGE_WINDOW >> 20) * 4   @ its first slot, in bytes
    mov     r2, #IMAGE_TABLES
    bl      link_tables
    ldr     r0, =(FIXMAP_WINDOW >> 20) * 4
    mov     r2, #FIXMAP_TABLES
    bl      link_tables
    @ The table that turns the MMU on, here and on the other cores later, has the page at its physical address too. In
    @ the one that stays, that address may be the direct map's or a process's.
    phys    r4, carveout_boot_l1
    phys    r2, __image_start
    lsr     r0, r2, #20
    str     r1, [r4, r0, lsl #2]
    bic     r1, r1, #COARSE
    ubfx    r0, r2, #12, #8
    ldr     r3, =PAGE_RX
    orr     r3, r3, r11
    orr     r3, r3, r2
    str     r3, [r1, r0, lsl #2]
    orr     r1, r5, #COARSE
    ldr     r0, =(IMAGE_WINDOW >> 20) * 4
    mov     r2, #IMAGE_TABLES
    bl      link_tables

    cmp     r9, #0
    beq     2f
    add     r0, r5, #IMAGE_TABLES * TABLE
    ldr     r2, =PAGE_RO
    orr     r2, r2, r11
    add     r1, r8, r9
    bic     r3, r8, #0xff
    bic     r3, r3, #0xf00
1:  orr     r12, r3, r2
    str     r12, [r0], #4
    add     r3, r3, #0x1000
    sub     r12, r1, r3                     @ bytes left; a device tree's end is below 4 GiB, r3 may be 4 GiB
    cmp     r12, #0x100000
    bhi     2f
    cmp     r12, #0
    bne     1b
2:
    @ --- MMU. Walks: with the Multiprocessing Extensions inner and outer write-back write-allocate and Shareable,
    @ the tables' own attributes. Else bit 0 is C and bit 6 is reserved: outer write-back write-allocate, inner
    @ cacheable; a Cortex-A8 walks in its second level and not in its first (TRM 3.2.31), so later changes of tables
    @ are cleaned to the point of unification. What was written so far went to memory: caches are off.
mmu_on:
    cmp     r11, #0
    moveq   r11, #0x09
    movne   r11, #0x6a
    orr     r0, r4, r11
    mcr     p15, 0, r0, c2, c0, 0           @ TTBR0
    mcr     p15, 0, r0, c2, c0, 1           @ TTBR1
    mov     r0, #1
    mcr     p15, 0, r0, c2, c0, 2           @ TTBCR.N = 1
    mcr     p15, 0, r0, c3, c0, 0           @ DACR: client of domain 0
    mov     r0, #0
    dsb                                     @ erratum 754322 of Cortex-A9: before a change of ASID
    mcr     p15, 0, r0, c13, c0, 1          @ CONTEXTIDR
    dsb
    mcr     p15, 0, r0, c8, c7, 0           @ TLBIALL
    mcr     p15, 0, r0, c7, c5, 6           @ BPIALL
    dsb
    isb
    ldr     r1, =(SCTLR_TRE | SCTLR_AFE)
    ldr     r2, =(SCTLR_M | SCTLR_C | SCTLR_Z | SCTLR_I)
    ldr     r3, =virtual
    mrc     p15, 0, r0, c1, c0, 0           @ SCTLR
    bic     r0, r0, r1
    orr     r0, r0, r2
    mcr     p15, 0, r0, c1, c0, 0
    isb
    bx      r3

virtual:
    @ To the table that stays: both have the image where it runs, and nothing else was used.
    phys    r0, carveout_l1
    orr     r0, r0, r11
    mcr     p15, 0, r0, c2, c0, 1           @ TTBR1
    mcr     p15, 0, r0, c2, c0, 0           @ TTBR0
    isb
    mcr     p15, 0, r0, c8, c7, 0           @ TLBIALL
    mcr     p15, 0, r0, c7, c5, 6           @ BPIALL
    dsb
    ldr     r0, =carveout_vectors
    mcr     p15, 0, r0, c12, c0, 0          @ VBAR
    isb
    mrc     p15, 0, r0, c0, c0, 5           @ MPIDR
    tst     r0, #0x80000000
    moveq   r0, #0
    and     r0, r0, #CORES - 1
    ldr     r1, =__core_stacks
    mul     r1, r0, r1
    cps     #MODE_ABT
    ldr     sp, =__fault_stack_top
    add     sp, sp, r1
    cps     #MODE_SVC
    ldr     sp, =__svc_stack_top
    add     sp, sp, r1
    mov     fp, #0
    mov     lr, #0
    cpsie   a
    ldr     r1, =carveout_start             @ which may be Thumb
    cmp     r0, #0
    ldrne   r1, =carveout_secondary_start
    bx      r1

    @ Maps the image's pages [r0, r1) with attributes r2 | r11. An empty range maps nothing.
map_image:
    phys    r3, carveout_l2
    orr     r2, r2, r11
    sub     r4, r0, #IMAGE_WINDOW
    add     r3, r3, r4, lsr #10             @ four bytes a page
1:  cmp     r0, r1
    bxhs    lr
    add     r4, r0, r10
    orr     r4, r4, r2
    str     r4, [r3], #4
    add     r0, r0, #0x1000
    b       1b

    @ Writes r2 first-level descriptors from byte r0 of the table on, each to the next second-level table; r1 is the
    @ first descriptor, and on return the next.
link_tables:
    add     r0, r0, r4
1:  str     r1, [r0], #4
    add     r1, r1, #TABLE
    subs    r2, r2, #1
    bne     1b
    bx      lr

    .ltorg

    @ For linker/kernel.ld.
    .global carveout_cores
    .equ carveout_cores, CORES

    @ The tables of start.rs's BootTables, and the one that turns the MMU on. The second-level ones: the image's, the fixmap's, the identity page's.
    .section .bss.carveout_tables, "aw", %nobits
    .global carveout_l1
    .global carveout_l2
    .balign 0x4000
carveout_l1:
    .space  0x4000
carveout_boot_l1:
    .space  0x4000
carveout_l2:
    .space  {tables} * TABLE
