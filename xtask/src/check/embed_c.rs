//! The interface for C: its header, its library, and `examples/embed-c`, built by `make` as a user builds it.
//!
//! A host test of `carveout-c` checks that the header is what cbindgen makes from the sources.

use std::fs;
use std::process::Command;

use super::{Check, Job, Kit, Verdict, wrong};
use crate::boards;
use crate::build::Toolchain;
use crate::content::{DISK, content};
use crate::failure::{Context, Result};
use crate::project::{self, TARGET};

/// The crate's folder.
const ADAPTER: &str = "kernel/adapters/c";
/// The cores that the example boots on.
const CORES: [&str; 2] = ["cortex-a15", "cortex-a7"];

/// The lines that the kernel prints, except the disk's line.
const LINES: [&str; 47] = [
    "refused: an outer cache that is not there: *: outer cache: no PL310 answers there: its ID reads 0x00000000, *",
    "refused: a buffer of memory that is still the kernel's: *",
    "taken, unmapped by the module",
    "a look where the kernel had it",
    "fault: 0x46000000: free carved frame 0x46000000",
    "refused: a core with other registers: *: this core has DACR 0xc0000001, and the first one 0x00000001: *",
    "refused: a buffer of no bytes: *: allocation of no bytes",
    "refused: a buffer larger than the area: *: no room for 64 MiB: * free in the area",
    "refused: no device: *: dev is NULL, and is needed",
    "refused: another device's buffer: *: a buffer of camera was named as one of codec",
    "refused: a free of another size: *: a buffer of 4096 bytes was named as one of 8192",
    "refused: a stream freed as a coherent buffer: *",
    "refused: a sync for the CPU, which owns it: the CPU owns the buffer: *",
    "refused: a sync in another direction: *: a stream from the device was named as one to the device: *",
    "a look while the device owns it",
    "fault: 0xc*: device-owned buffer 0x46010000-0x460a6000 (600 KiB) of camera",
    "refused: a sync for the device, which owns it: the device owns the buffer: *",
    "refused: a free while the device owns it: the device owns the buffer: *",
    "holder: disk has 240 bytes at 0x46000000, accessed by both",
    "holder: camera has 4096 bytes at 0x46001000, accessed by both",
    "holder: camera has 614400 bytes at 0x46010000, accessed by device",
    "holder: camera has 1024 bytes at 0x46002000, accessed by both",
    "refused: a device that goes away: *: camera still has 3 buffers",
    "refused: the end of a pool that is in use: *: 1 blocks of the pool did not come back; free them first",
    "refused: a block freed twice: *",
    "refused: a block of a pool that ended: *",
    "refused: a stream that the device alone writes, written by the CPU: *: the CPU wrote to a stream that camera alone *",
    "refused: the memory back while it is in use: *: area not given back: it has the *",
    "refused: a buffer freed twice: *",
    "audit: clean, 1 of 2048 pages mapped, and 0 for programs",
    "refused: a client before sharing is made possible: *: carveout_share_init has not succeeded yet: call it first",
    "share: disk's driver has pages 0 to 3 of film, rights 7, paid by disk's driver",
    "share: program has pages 1 to 2 of part, rights 3, paid by disk's driver",
    "refused: a buffer of a client that pays for none: *: 1 frames are over the quota: 0 of 0 are in use; give some up",
    "refused: a mapping for a driver: *: client * has no address space: a driver maps nothing",
    "program: fault: page 0 of part, which nobody made the CPU's to write",
    "program: fault: nothing of a shared buffer",
    "program: fault: a page of part, which disk has",
    "refused: a lease finished twice: *: the handle names no lease: it was given back, or there never was one",
    "program: fault: page 1 of part, which nobody made the CPU's",
    "audit: clean, 2 of 2048 pages mapped, and 1 for programs",
    "program: fault: part, which was revoked",
    "refused: a handle that was revoked: *: handle * names nothing of this client's: it was given up or revoked",
    "given back: zeros",
    "taken, unmapped by the kernel",
    "audit: clean, 0 of 2048 pages mapped, and 0 for programs",
    "embed-c: ok",
];

/// The line about what `carveout_init` took.
const TAKEN: &str = "module: * bytes of heap, told in advance *; * bytes of stack";
/// The most stack that it may take: the stack of a kernel's thread.
const STACK: u32 = 8192;

pub(super) fn checks(kit: &'static Kit) -> Vec<Check> {
    let header = Check::new("carveout.h: C99 and C++", header);
    let symbols = Check::new("carveout-c: no symbol is left to others", |job| symbols(&kit.toolchain, job));
    let boots = CORES.map(|core| {
        Check::new(format!("embed-c: {core}"), move |job| {
            let wrong = boot(&kit.toolchain, core, job)?;
            job.judged(&wrong)
        })
    });
    [header, symbols].into_iter().chain(boots).collect()
}

/// Checks the header by itself with each compiler.
fn header(job: &mut Job) -> Result<Verdict> {
    let header = project::root().join(ADAPTER).join("include/carveout.h");
    let arm = format!("--target={TARGET}");
    let compilers: [&[&str]; 3] = [
        &["cc", "-std=c99", "-x", "c"],
        &["c++", "-std=c++11", "-x", "c++"],
        &["clang", &arm, "-ffreestanding", "-std=c99", "-x", "c"],
    ];
    for words in compilers {
        let mut compiler = Command::new(words[0]);
        compiler.args(["-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only"]).args(&words[1..]).arg(&header);
        job.run(&mut compiler)?;
    }
    Ok(Verdict::Passed(None))
}

/// Links the whole library without a kernel. The linker names each symbol that the library lacks.
fn symbols(toolchain: &Toolchain, job: &mut Job) -> Result<Verdict> {
    toolchain.embed_c()?;
    let library = project::target_dir().join(TARGET).join("release/libcarveout_c.a");
    let mut linker = Command::new("ld.lld");
    linker.args(["--error-limit=0", "--whole-archive"]).arg(library).arg("-o").arg(job.folder().join("whole"));
    let (_, output) = job.output(&mut linker)?;
    let lacks: Vec<&str> = output.lines().filter_map(|line| line.split_once("error: ").map(|(_, what)| what)).collect();
    let only = ["undefined symbol: carveout_panic"];
    job.judged(&if lacks == only { Vec::new() } else { vec![format!("the linker says {lacks:?}, not {only:?}")] })
}

/// Boots the kernel with a disk. Says what was wrong.
fn boot(toolchain: &Toolchain, core: &str, job: &mut Job) -> Result<Vec<String>> {
    let kernel = toolchain.embed_c()?;
    let disk = job.folder().join("disk.img");
    let content = content(DISK);
    fs::write(&disk, &content).doing(disk.display())?;
    let mut qemu = boards::qemu(60, "none");
    qemu.args(["-machine", "virt,highmem=off", "-cpu", core, "-m", "128M", "-nic", "none"]);
    qemu.args(["-global", "virtio-mmio.force-legacy=false", "-device", "virtio-blk-device,drive=disk", "-drive"]);
    qemu.arg(format!("if=none,id=disk,format=raw,file={}", disk.display())).arg("-kernel").arg(kernel);
    let (exit, output) = job.output(&mut qemu)?;
    let mut lines = LINES.map(str::to_owned).to_vec();
    lines.push(format!("disk: {} sectors, FNV-1a {:#x}", DISK / 512, fnv_1a(&content)));
    lines.push(format!("program: reads {:#x} where the disk has its sector 16", word(&content, 2 * 4096)));
    lines.push(TAKEN.to_owned());
    let mut wrong = wrong(exit, &output, 0, &lines);
    wrong.extend(too_much_stack(&output));
    Ok(wrong)
}

/// Says whether the kernel printed no use of stack, or too much.
fn too_much_stack(output: &str) -> Option<String> {
    let words = output.lines().find_map(|line| line.trim_end().strip_suffix(" bytes of stack"));
    let used = words.and_then(|words| words.rsplit(' ').next()?.parse().ok());
    let fits = used.is_some_and(|used: u32| (1..=STACK).contains(&used));
    (!fits).then(|| format!("carveout_init took {used:?} bytes of stack; {STACK} are there"))
}

/// Returns the word at a place of a disk.
fn word(content: &[u8], at: usize) -> u32 {
    content[at..].first_chunk().map_or(0, |&bytes| u32::from_le_bytes(bytes))
}

/// Returns the hash that the kernel prints.
fn fnv_1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stack_is_compared() {
        let line = |used: &str| format!("x\r\nmodule: 1 bytes of heap, told in advance 2; {used} bytes of stack\r\n");
        assert_eq!(too_much_stack(&line("8192")), None);
        for wrong in [line("8193"), line("0"), String::new()] {
            assert!(too_much_stack(&wrong).is_some(), "{wrong}");
        }
    }

    #[test]
    fn the_hash_is_the_one_that_everybody_has() {
        assert_eq!(fnv_1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv_1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
