@ The programs of demo=share. Each is copied to pages of its own process, so it names no absolute address. It reads its
@ own text by `adr` and keeps what it writes on its stack. r7 says which call it makes (boards/kernel/schedule.rs and
@ boards/demo/share/calls.rs). What is refused gets -1.
@
@ The picture: a page of text, then 640 x 480 pixels of three bytes. In the first page:
@   0   a line of text, 8 bytes
@   64  the number of the picture, once it is painted
@   68  the number of the picture, once the viewer has written on it

    .syntax unified
    .arm
    .section .rodata.carveout_programs, "a", %progbits
    .balign 4

    .equ EXIT,   0
    .equ WRITE,  1
    .equ YIELD,  2
    .equ SLEEP,  4
    .equ CREATE, 6
    .equ FIND,   7
    .equ SHARE,  8
    .equ MAP,    9
    .equ CPU,    10
    .equ SHOW,   11

    .equ WIDTH,   640
    .equ HEIGHT,  480
    .equ PAGES,   226
    .equ PAINTED, 64
    .equ WRITTEN, 68
    .equ VIEWER,  1
    .equ INTRUDER, 2
    .equ HASTY,    4

    .macro call number
    mov     r7, #\number
    svc     #0
    .endm

    @ Paints so many pictures (r0) into a buffer of its own, and has each shown once the viewer has written on it. Ends
    @ with their number.
    .global carveout_painter, carveout_painter_end
carveout_painter:
    mov     r8, r0
    mov     r0, #PAGES << 12
    adr     r1, 8f
    mov     r2, #7
    call    CREATE
    mov     r9, r0
    @ The viewer gets all of it, to read and write.
1:  mov     r0, r9
    mov     r1, #VIEWER
    mov     r2, #3
    mov     r3, #PAGES << 16
    adr     r4, 8f
    mov     r5, #7
    call    SHARE
    cmp     r0, #0
    beq     2f
    call    YIELD
    b       1b
    @ The intruder gets pages 1 to 8, to read.
2:  mov     r0, r9
    mov     r1, #INTRUDER
    mov     r2, #1
    mov     r3, #9 << 16
    orr     r3, r3, #1
    adr     r4, 9f
    mov     r5, #5
    call    SHARE
    cmp     r0, #0
    beq     12f
    call    YIELD
    b       2b
    @ The hasty process gets the first page, to read.
12: mov     r0, r9
    mov     r1, #HASTY
    mov     r2, #1
    mov     r3, #1 << 16
    adr     r4, 13f
    mov     r5, #5
    call    SHARE
    cmp     r0, #0
    beq     3f
    call    YIELD
    b       12b
3:  mov     r0, r9
    call    MAP
    mov     r10, r0
    mov     r11, #0
4:  add     r11, r11, #1
    mov     r0, r9
    mov     r1, #0
    mov     r2, #PAGES
    mov     r3, #1
    call    CPU
    add     r0, r10, #4096
    mov     r2, #0
5:  mov     r1, #0
6:  strb    r1, [r0], #1
    add     r3, r2, r11, lsl #6
    strb    r3, [r0], #1
    eor     r3, r1, r2
    strb    r3, [r0], #1
    add     r1, r1, #1
    cmp     r1, #WIDTH
    blo     6b
    add     r2, r2, #1
    cmp     r2, #HEIGHT
    blo     5b
    adr     r0, carveout_frame
    ldm     r0, {{r1, r2}}
    str     r1, [r10]
    str     r2, [r10, #4]
    add     r1, r11, #'0'
    strb    r1, [r10, #6]
    dmb
    str     r11, [r10, #PAINTED]
7:  call    YIELD
    ldr     r0, [r10, #WRITTEN]
    cmp     r0, r11
    bne     7b
    mov     r0, r9
    call    SHOW
    @ The scaler has the picture. This waits until it has finished.
    ldrb    r0, [r10, #4095]
    cmp     r11, r8
    blo     4b
    mov     r0, r8
    call    EXIT
8:  .ascii  "picture "
9:  .ascii  "strip   "
13: .ascii  "title   "
carveout_frame:
    .ascii  "FRAME ? "
carveout_painter_end:

    @ Reads the text of each of so many pictures (r0), prints it, and writes it on the picture. Ends with their number.
    .global carveout_viewer, carveout_viewer_end
carveout_viewer:
    mov     r8, r0
1:  adr     r0, carveout_viewed
    mov     r1, #7
    call    FIND
    cmn     r0, #1
    bne     2f
    mov     r0, #1000
    call    SLEEP
    b       1b
2:  call    MAP
    mov     r10, r0
    mov     r11, #0
3:  ldr     r0, [r10, #PAINTED]
    cmp     r0, r11
    bne     4f
    call    YIELD
    b       3b
4:  mov     r11, r0
    dmb
    ldm     r10, {{r1, r2}}
    push    {{r1, r2}}
    mov     r0, sp
    mov     r1, #7
    call    WRITE
    mov     r4, #0
5:  ldrb    r0, [sp, r4]
    adr     r1, carveout_font
6:  ldrb    r2, [r1], #1
    cmp     r2, #0
    beq     10f
    cmp     r2, r0
    addne   r1, r1, #8
    bne     6b
    @ r1: the letter's eight rows. Each dot becomes eight by eight pixels.
    mov     r2, #0
7:  ldrb    r5, [r1, r2, lsr #3]
    mov     r6, #WIDTH
    add     r0, r2, #208
    mul     r0, r0, r6
    mov     r6, #72
    mla     r0, r4, r6, r0
    add     r0, r0, #72
    add     r0, r0, r0, lsl #1
    add     r0, r0, r10
    add     r0, r0, #4096
    mov     r3, #0
8:  mov     r6, r3, lsr #3
    rsb     r6, r6, #7
    lsr     r6, r5, r6
    tst     r6, #1
    beq     9f
    mvn     r6, #0
    strb    r6, [r0]
    strb    r6, [r0, #1]
    strb    r6, [r0, #2]
9:  add     r0, r0, #3
    add     r3, r3, #1
    cmp     r3, #64
    blo     8b
    add     r2, r2, #1
    cmp     r2, #64
    blo     7b
10: add     r4, r4, #1
    cmp     r4, #7
    blo     5b
    add     sp, sp, #8
    dmb
    str     r11, [r10, #WRITTEN]
    cmp     r11, r8
    blo     3b
    mov     r0, r8
    call    EXIT
carveout_viewed:
    .ascii  "picture "
carveout_font:
    .byte   'F', 0x7e, 0x60, 0x60, 0x7c, 0x60, 0x60, 0x60, 0x00
    .byte   'R', 0x7c, 0x66, 0x66, 0x7c, 0x78, 0x6c, 0x66, 0x00
    .byte   'A', 0x3c, 0x66, 0x66, 0x7e, 0x66, 0x66, 0x66, 0x00
    .byte   'M', 0x63, 0x77, 0x7f, 0x6b, 0x63, 0x63, 0x63, 0x00
    .byte   'E', 0x7e, 0x60, 0x60, 0x7c, 0x60, 0x60, 0x7e, 0x00
    .byte   '1', 0x18, 0x38, 0x18, 0x18, 0x18, 0x18, 0x7e, 0x00
    .byte   '2', 0x3c, 0x66, 0x06, 0x1c, 0x30, 0x60, 0x7e, 0x00
    .byte   '3', 0x3c, 0x66, 0x06, 0x1c, 0x06, 0x66, 0x3c, 0x00
    .byte   0
    .balign 4
carveout_viewer_end:

    @ Reads a page that it may read, says so, and writes to it, which it may not. It is killed there. If it is not, it
    @ ends with 0.
    .global carveout_intruder, carveout_intruder_end
carveout_intruder:
1:  adr     r0, 2f
    mov     r1, #5
    call    FIND
    cmn     r0, #1
    bne     3f
    mov     r0, #1000
    call    SLEEP
    b       1b
2:  .ascii  "strip   "
3:  call    MAP
    mov     r10, r0
    ldrb    r4, [r10, #100]
    adr     r0, 4f
    mov     r1, #21
    call    WRITE
    strb    r4, [r10, #100]
    mov     r0, #0
    call    EXIT
4:  .ascii  "I may read the strip!   "
carveout_intruder_end:

    @ Sleeps for r1 microseconds, then reads the word at r0, which is the kernel's. It is killed there. If it is not, it
    @ ends with 0.
    .global carveout_burglar, carveout_burglar_end
carveout_burglar:
    mov     r4, r0
    mov     r0, r1
    call    SLEEP
    ldr     r0, [r4]
    mov     r0, #0
    call    EXIT
carveout_burglar_end:

    @ Reads a page that it may read, so often (r0), and does not wait while the scaler has it. It is killed there. If it
    @ is not, it ends with 0.
    .global carveout_hasty, carveout_hasty_end
carveout_hasty:
    mov     r8, r0
1:  adr     r0, 2f
    mov     r1, #5
    call    FIND
    cmn     r0, #1
    bne     3f
    mov     r0, #1000
    call    SLEEP
    b       1b
2:  .ascii  "title   "
3:  call    MAP
    mov     r10, r0
4:  ldr     r0, [r10]
    call    YIELD
    subs    r8, r8, #1
    bne     4b
    mov     r0, #0
    call    EXIT
carveout_hasty_end:
