@ The programs of demo=share. Each is copied to pages of its own process, so it names no absolute address. It reads its
@ own text by `adr` and keeps what it writes on its stack. r7 says which call it makes (boards/kernel/schedule.rs).

    .syntax unified
    .arm
    .section .rodata.carveout_programs, "a", %progbits
    .balign 4

    .equ EXIT,  0
    .equ WRITE, 1
    .equ SLEEP, 4
    .equ WAIT,  5

    .macro call number
    mov     r7, #\number
    svc     #0
    .endm

    @ Prints a line so many times (r0, at most 9), and counts to r1 after each. It never gives its core up. Ends with r0.
    .global carveout_talker, carveout_talker_end
carveout_talker:
    mov     r8, r0
    mov     r9, r1
    mov     r10, #0
1:  add     r10, r10, #1
    adr     r0, turn
    ldm     r0, {{r1, r2}}
    push    {{r1, r2}}
    add     r1, r10, #'0'
    strb    r1, [sp, #5]
    mov     r0, sp
    mov     r1, #6
    call    WRITE
    add     sp, sp, #8
    mov     r1, r9
2:  subs    r1, r1, #1
    bne     2b
    cmp     r10, r8
    blo     1b
    mov     r0, r10
    call    EXIT
turn:
    .ascii  "turn ?  "
carveout_talker_end:

    @ Sleeps for r1 microseconds, then reads the word at r0, which is the kernel's. It is killed there. If it is not, it
    @ ends with 0.
    .global carveout_intruder, carveout_intruder_end
carveout_intruder:
    mov     r4, r0
    mov     r0, r1
    call    SLEEP
    ldr     r0, [r4]
    mov     r0, #0
    call    EXIT
carveout_intruder_end:

    @ Waits until process r0 has ended, says so, and ends with 0.
    .global carveout_waiter, carveout_waiter_end
carveout_waiter:
    call    WAIT
    adr     r0, over
    adr     r1, over_end
    sub     r1, r1, r0
    call    WRITE
    mov     r0, #0
    call    EXIT
over:
    .ascii  "the painter has finished"
    .balign 4
over_end:
carveout_waiter_end:
