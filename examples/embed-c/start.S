/* Enters the kernel: SVC, MMU and caches off, one core. */

    .syntax unified
    .arm

    .section .text.start, "ax"
    .global _start
_start:
    cpsid   aif, #0x17              /* abort mode, for its stack */
    ldr     sp, =abort_stack_top
    cpsid   aif, #0x13              /* SVC from here on */
    ldr     sp, =stack_top

    ldr     r0, =bss_start
    ldr     r1, =bss_end
    mov     r2, #0
1:  cmp     r0, r1
    strlo   r2, [r0], #4
    blo     1b

    bl      fill_table              /* in C: it writes the first-level table, to memory */
    bl      invalidate_data_caches  /* no line of another program is left */

    mov     r0, #0
    mcr     p15, 0, r0, c7, c5, 0   /* ICIALLU */
    mcr     p15, 0, r0, c7, c5, 6   /* BPIALL */
    mcr     p15, 0, r0, c8, c7, 0   /* TLBIALL */
    mcr     p15, 0, r0, c2, c0, 2   /* TTBCR: N = 0, short descriptors */
    mov     r1, #1
    mcr     p15, 0, r1, c3, c0, 0   /* DACR: domain 0 is a client's */
    ldr     r1, =first_level
    orr     r1, r1, #0x6a           /* walks: write-back, write-allocate, Shareable */
    mcr     p15, 0, r1, c2, c0, 0   /* TTBR0 */
    ldr     r1, =vectors
    mcr     p15, 0, r1, c12, c0, 0  /* VBAR */
    mrc     p15, 0, r1, c1, c0, 1
    orr     r1, r1, #1 << 6         /* ACTLR.SMP: this core is coherent with the others, before its caches are on */
    mcr     p15, 0, r1, c1, c0, 1
    dsb
    isb
    mrc     p15, 0, r1, c1, c0, 0
    ldr     r2, =0x1805             /* SCTLR: M, C, Z, I */
    orr     r1, r1, r2
    bic     r1, r1, #1 << 1         /* A: off, as C compilers expect; this kernel makes no unaligned access */
    mcr     p15, 0, r1, c1, c0, 0
    isb
    bl      kernel_main
    b       end

/* Invalidates every level of data cache up to the point of coherency, by set and way: nothing is in use yet. */
invalidate_data_caches:
    push    {r4-r9, lr}
    mrc     p15, 1, r0, c0, c0, 1   /* CLIDR */
    ubfx    r1, r0, #24, #3         /* levels up to the point of coherency */
    mov     r2, #0                  /* twice the level */
2:  cmp     r2, r1, lsl #1
    bhs     5f
    add     r3, r2, r2, lsr #1      /* three times the level */
    lsr     r3, r0, r3
    and     r3, r3, #7
    cmp     r3, #2                  /* less: no data cache there */
    blo     4f
    mcr     p15, 2, r2, c0, c0, 0   /* CSSELR */
    isb
    mrc     p15, 1, r3, c0, c0, 0   /* CCSIDR */
    and     r4, r3, #7
    add     r4, r4, #4              /* log2 of a line's bytes */
    ubfx    r5, r3, #3, #10         /* the last way */
    ubfx    r6, r3, #13, #15        /* the last set */
    clz     r7, r5                  /* where the way stands */
3:  lsl     r8, r6, r4
    orr     r8, r8, r2
    mov     r9, r5
6:  lsl     r12, r9, r7
    orr     r12, r12, r8
    mcr     p15, 0, r12, c7, c6, 2  /* DCISW */
    subs    r9, r9, #1
    bpl     6b
    subs    r6, r6, #1
    bpl     3b
4:  add     r2, r2, #2
    b       2b
5:  dsb
    pop     {r4-r9, pc}

/* Ends the emulator with an exit code: semihosting's SYS_EXIT_EXTENDED. */
    .global end_with
end_with:
    mov     r1, r0
    ldr     r0, =0x20026            /* ADP_Stopped_ApplicationExit */
    push    {r0, r1}
    mov     r0, #0x20
    mov     r1, sp
    svc     0x123456
end:
    wfi
    b       end

/* A data abort: C says what lies there. The instruction that met it is passed over. */
on_data_abort:
    sub     lr, lr, #4
    push    {r0-r3, r12, lr}
    mrc     p15, 0, r0, c6, c0, 0   /* DFAR */
    mrc     p15, 0, r1, c5, c0, 0   /* DFSR */
    bl      data_abort
    ldm     sp!, {r0-r3, r12, pc}^

on_other:
    mov     r0, #2
    b       end_with

    .balign 32
vectors:
    b       on_other                /* reset */
    b       on_other                /* undefined */
    b       on_other                /* svc */
    b       on_other                /* prefetch abort */
    b       on_data_abort
    b       on_other
    b       on_other                /* irq */
    b       on_other                /* fiq */
