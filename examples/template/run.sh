#!/bin/sh
# Boots a program in QEMU, whose machine `virt` makes the device tree itself: cargo's runner.
set -e
objcopy -I elf32-little -O binary "$1" "$1.bin"
exec qemu-system-arm -machine virt -cpu cortex-a15 -m 256M -nic none -display none -serial stdio -monitor none \
    -semihosting -kernel "$1.bin" -append "cma=64M"
