# shellcheck shell=bash
# Sourced by tests/run.sh: the table of faults a program can die of, and its last words. A row is
#
#     dies NAME EXIT FAULT LINE...
#
# where FAULT is what tests/on-target/src/faults.rs is told to do, EXIT the guest's exit code, and each LINE a pattern
# that just one line of its output must match as a whole: what happened, and what lies there.

faults() {
    dies 'undefined instruction' 101 undefined \
        'exception: undefined instruction, in Supervisor mode, pc 0xff0?????'
    dies 'stray pointer to a device-owned buffer' 101 owned \
        'exception: data abort: translation fault, second level on a read at 0xc0101000, in Supervisor mode, pc 0xff0?????' \
        'exception: at 0xc0101000: CMA window: device-owned buffer 0x9c000000-0x9c002000 (8 KiB) of test-master'
    dies 'device-owned buffer through the direct map' 101 owned-direct \
        'exception: data abort: translation fault, first level on a read at 0xbc000000, in Supervisor mode, pc 0xff0?????' \
        'exception: at 0xbc000000: hole in the direct map, carved out: device-owned buffer 0x9c000000-0x9c002000 (8 KiB) of test-master'
    dies 'free frame through the direct map' 101 hole \
        'exception: data abort: translation fault, first level on a read at 0xbc000000, in Supervisor mode, pc 0xff0?????' \
        'exception: at 0xbc000000: hole in the direct map, carved out: free carved frame 0x9c000000'
    dies 'write past the end of a buffer' 101 guard \
        'exception: data abort: translation fault, second level on a write at 0xc0101000, in Supervisor mode, pc 0xff0?????' \
        'exception: at 0xc0101000: CMA window: guard page of the coherent buffer 0x9c000000-0x9c001000 (4 KiB) of test-master'
    dies 'stack overflow' 101 stack \
        'exception: data abort: translation fault, second level on a write at 0xff??????, in Supervisor mode, pc 0xff0?????' \
        'exception: at 0xff??????: guard page of the stack of core 0'
    dies 'call of data' 101 exec \
        'exception: prefetch abort: permission fault, second level on a fetch at 0xff??????, in Supervisor mode, pc 0xff??????' \
        'exception: at 0xff??????: kernel data'
    dies 'write to the text' 101 text \
        'exception: data abort: permission fault, second level on a write at 0xff010000, in Supervisor mode, pc 0xff0?????' \
        'exception: at 0xff010000: kernel text'
    dies 'null pointer' 101 null \
        'exception: data abort: translation fault, first level on a read at 0x00000000, in Supervisor mode, pc 0xff0?????' \
        'exception: at 0x00000000: lower half: no process is mapped'
    dies 'lock out of order' 102 lock-order 'panic: panicked at kernel/carveout/src/sync.rs:*' \
        'lock order: rank 4 at kernel/carveout/src/dma/mod.rs:*, while rank 7 is held since tests/on-target/src/faults.rs:*'
    dies 'lock taken twice' 102 lock-twice 'panic: panicked at kernel/carveout/src/sync.rs:*' \
        'lock order: rank 7 at tests/on-target/src/faults.rs:*, while rank 7 is held since tests/on-target/src/faults.rs:*'
    cores=4 dies 'deadlock of two cores' 103 deadlock \
        'deadlock: for more than 10 s core 2 waits for a lock' \
        'deadlock: core 0 works, waits for no lock, holds none' \
        'deadlock: core 1 works, waits for no lock, holds rank 7 since tests/on-target/src/faults.rs:*' \
        'deadlock: core 2 works, waits at tests/on-target/src/faults.rs:* for the lock of rank 7, holds none' \
        'deadlock: core 3 is idle, waits for no lock, holds none'
    dies 'panic' 102 panic 'panic: panicked at tests/on-target/src/faults.rs:*' 'as told'
}

# It is built with the on-target tests.
dies() {
    check "fault: $1" outcome "$2" "${@:4}" -- \
        boot --smp "${cores:-1}" --append "fault=$3" "$TARGET_DIR/$TARGET/release/faults"
}
