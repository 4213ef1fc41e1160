//! A core that runs the image over [`Caches`] and [`Mmu`]: the emulator's hooks and what they decide.
//!
//! The emulator translates by asking for each page; the answer's upper half says which memory the page is: 0, RAM as
//! the CPU sees it through its caches, or registers; 1, RAM past the caches; 2, nothing: a fault, whose address keeps
//! its lower bits.
//!
//! Guarantees: the same image, device tree and seed give the same run. Exceptions are delivered as the ARM ARM has them
//! (B1.8), but a store multiple that aborts may have written some of its words and its base.
//!
//! Not modelled: alignment faults, other cores, the instruction cache, asynchronous aborts, NEON and VFP.

use crate::cache::{Caches, Maintain};
use crate::devices::{BLOCKS, Devices};
use crate::image::{Image, Op, decode, is_broadcast};
use crate::mmu::{Mmu, NoEntry, Type};
use crate::model::Model;
use crate::report::{Outcome, Rule, Violation};
use std::collections::BTreeMap;
use std::ffi::c_void;
use unicorn_engine::hook::sys;
use unicorn_engine::{Arch, HookType, MemType, Mode, Prot, RegisterARM, RegisterARMCP, TlbEntry, TlbType};
use unicorn_engine::{Unicorn, uc_error};

/// Where a raw image is loaded, above RAM's base.
const LOAD_OFFSET: u32 = 0x1_0000;
/// Where the device tree is put: clear of the image, and not in the middle of a small RAM.
const TREE_OFFSET: u32 = 0x200_0000;
/// PERIPHBASE, in CBAR.
const PERIPHBASE: u64 = 0x1e00_0000;

const PAST: u64 = 1 << 32;
const NOWHERE: u64 = 2 << 32;

/// `svc 0x123456`, always executed.
const SEMIHOSTING: u32 = 0xef12_3456;
const YIELD: u32 = 0xe320_f001;
const WFE: u32 = 0xe320_f002;
/// `mrc p15, 0, r0, c1, c1, 0`.
const READ_SCR: u32 = 0xee11_0f11;

/// An exception to deliver.
#[derive(Clone, Copy, Debug)]
enum Exception {
    Undefined,
    SupervisorCall,
    Prefetch { status: u32 },
    Data { address: u32, status: u32 },
    Interrupt,
}

/// What a run needs.
pub struct Setup<'a> {
    /// The core and the board.
    pub model: &'static Model,
    /// The program.
    pub image: &'a Image,
    /// The device tree blob.
    pub tree: &'a [u8],
    /// The caches, cold, and the adversary.
    pub caches: Caches,
    /// The registers.
    pub devices: Devices,
    /// Instructions after which the run is given up.
    pub limit: u64,
    /// Instructions after which the run has seen enough.
    pub enough: u64,
}

/// The machine.
pub struct Machine {
    uc: Unicorn<'static, ()>,
    /// The caches, with what they noted.
    pub caches: Caches,
    /// The registers, with the console.
    pub devices: Devices,
    mmu: Mmu,
    /// The image's words, their linked base and where they are loaded.
    words: Vec<u32>,
    linked: u32,
    loaded: u32,
    /// What each word of the image does.
    operations: Vec<Option<(Op, u8)>>,
    /// How often each of them was executed.
    visits: Vec<u32>,
    vbar: u32,
    /// Fault status for the page last found without a translation.
    fault: u32,
    exception: Option<Exception>,
    outcome: Option<Outcome>,
    /// Instructions executed.
    pub instructions: u64,
    limit: u64,
    enough: u64,
}

impl Machine {
    /// Loads everything as a boot loader would.
    pub fn new(setup: Setup<'_>) -> Result<Box<Self>, uc_error> {
        let Setup { model, image, tree, mut caches, devices, limit, enough } = setup;
        let loaded = model.ram + LOAD_OFFSET;
        caches.put(loaded, &image.bytes);
        let tree_at = model.ram + TREE_OFFSET;
        caches.put(tree_at, tree);

        let mut uc = Unicorn::new(Arch::ARM, Mode::ARM)?;
        uc.ctl_set_page_size(4096)?;
        uc.ctl_set_cpu_model(model.core.into())?;
        uc.ctl_set_tlb_type(TlbType::VIRTUAL)?;
        let words: Vec<u32> =
            image.bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().expect("four"))).collect();
        let known = |word| {
            let tlb = matches!(decode(word), Some((Op::TlbPage | Op::TlbAll, _)));
            model.multiprocessing || !tlb || !is_broadcast(word)
        };
        let machine = Box::new(Self {
            uc,
            mmu: Mmu::new(caches.bytes() as usize >> 12),
            caches,
            devices,
            operations: words.iter().map(|&word| decode(word).filter(|_| known(word))).collect(),
            visits: vec![0; words.len()],
            words,
            linked: image.base,
            loaded,
            vbar: 0,
            fault: 0,
            exception: None,
            outcome: None,
            instructions: 0,
            limit,
            enough,
        });
        let mut uc = machine.uc.clone();
        // Supervisor mode, everything masked: as a boot loader leaves it.
        uc.reg_write(RegisterARM::CPSR, 0x1d3)?;
        uc.reg_write(RegisterARM::R0, 0)?;
        uc.reg_write(RegisterARM::R1, 0)?;
        uc.reg_write(RegisterARM::R2, tree_at.into())?;
        if model.multiprocessing {
            write_cp15(&mut uc, (4, 15, 0, 0), PERIPHBASE)?;
        }
        Ok(machine)
    }

    /// Gives the emulator its memory, registers and hooks.
    ///
    /// # Safety
    ///
    /// `this` is a machine that outlives its emulator's runs; during these it is reached through `this` alone.
    unsafe fn attach(this: *mut Self) -> Result<(), uc_error> {
        // SAFETY: `this` is a live machine by this function's contract, and no run is under way, so no hook has a
        // reference.
        let machine = unsafe { &mut *this };
        let ram = machine.caches.bytes();
        let base = machine.caches.base;
        let (cpu, memory) = machine.caches.hosts();
        let uc = &mut machine.uc;
        // SAFETY: both copies are of this size, and last as long as the emulator: the machine owns all three.
        unsafe { uc.mem_map_ptr(base.into(), ram.into(), Prot::ALL, cpu.cast())? };
        // SAFETY: as above.
        unsafe { uc.mem_map_ptr(u64::from(base) | PAST, ram.into(), Prot::ALL, memory.cast())? };
        for (base, bytes) in BLOCKS {
            let read = move |_: &mut Unicorn<'_, ()>, offset: u64, _: usize| {
                // SAFETY: the emulator calls back only inside `run`, which reaches the machine through `this`.
                let machine = unsafe { &mut *this };
                u64::from(machine.devices.read(base + offset as u32, machine.instructions, &mut machine.caches))
            };
            let write = move |_: &mut Unicorn<'_, ()>, offset: u64, _: usize, value: u64| {
                // SAFETY: as above.
                let machine = unsafe { &mut *this };
                let now = machine.instructions;
                machine.devices.write(base + offset as u32, value as u32, now, &mut machine.caches);
            };
            uc.mmio_map(base.into(), bytes.into(), Some(read), Some(write))?;
        }
        let unmapped = HookType::MEM_READ_UNMAPPED.0 | HookType::MEM_WRITE_UNMAPPED.0;
        let hooks: [(u32, *mut c_void); 7] = [
            (HookType::CODE.0, on_code as *mut c_void),
            (HookType::MEM_READ.0, on_read as *mut c_void),
            (HookType::MEM_WRITE.0, on_write as *mut c_void),
            (unmapped, on_unmapped as *mut c_void),
            (HookType::TLB_FILL.0, on_translate as *mut c_void),
            (HookType::INTR.0, on_exception as *mut c_void),
            (HookType::INSN_INVALID.0, on_invalid as *mut c_void),
        ];
        for (kind, callback) in hooks {
            let mut hook = std::mem::MaybeUninit::<sys::uc_hook>::uninit();
            // SAFETY: the callbacks have the signatures that unicorn.h gives their kinds; `this` outlives the
            // emulator's runs. A range that ends before it begins is every address.
            let result = unsafe {
                sys::uc_hook_add(uc.get_handle(), hook.as_mut_ptr(), kind as i32, callback, this.cast(), 1, 0)
            };
            if result != uc_error::OK {
                return Err(result);
            }
        }
        Ok(())
    }

    /// Runs until the guest exits, breaks a rule or gets stuck.
    pub fn run(self: Box<Self>) -> (Box<Self>, Outcome) {
        let this = Box::into_raw(self);
        // SAFETY: from here to `from_raw` the machine is reached through `this` and copies of it alone.
        let outcome = unsafe { Self::run_at(this) };
        // SAFETY: made by `into_raw` above.
        (unsafe { Box::from_raw(this) }, outcome)
    }

    /// # Safety
    ///
    /// As for `attach`.
    unsafe fn run_at(this: *mut Self) -> Outcome {
        // SAFETY: `attach` asks for what this function asks for.
        if let Err(error) = unsafe { Self::attach(this) } {
            return Outcome::Stuck(format!("the emulator could not be set up: {error:?}"));
        }
        // SAFETY: `this` is a live machine by this function's contract, and no run is under way yet.
        let (mut uc, mut pc) = unsafe { ((*this).uc.clone(), u64::from((*this).loaded)) };
        loop {
            // No instruction is at an odd address.
            let result = uc.emu_start(pc, 1, 0, 0);
            // SAFETY: `this` is a live machine by this function's contract; the run ended, and the hooks' references
            // with it.
            let machine = unsafe { &mut *this };
            if let Some(outcome) = machine.outcome.take() {
                return outcome;
            }
            let at = uc.reg_read(RegisterARM::PC).unwrap_or(0) as u32;
            let delivered = match (machine.exception.take(), result) {
                (Some(exception), _) => machine.deliver(&mut uc, exception, at),
                (None, Ok(())) => return Outcome::Stuck(format!("the core waits for ever at {at:#010x}")),
                (None, Err(error)) => return Outcome::Stuck(format!("the emulator stopped at {at:#010x}: {error:?}")),
            };
            match delivered {
                Ok(next) => pc = next.into(),
                Err(error) => return Outcome::Stuck(format!("no exception could be delivered: {error:?}")),
            }
        }
    }

    /// Enters an exception (ARM ARM B1.8.3). `at` is the emulator's PC; returns the vector's address.
    fn deliver(&self, uc: &mut Unicorn<'_, ()>, exception: Exception, at: u32) -> Result<u32, uc_error> {
        let pc = self.caches.pc;
        let (offset, mode, mask, link) = match exception {
            Exception::Undefined => (0x04, 0x1b, 0, pc + 4),
            Exception::SupervisorCall => (0x08, 0x13, 0, pc + 4),
            Exception::Prefetch { status } => {
                write_cp15(uc, (0, 5, 0, 1), status.into())?;
                write_cp15(uc, (0, 6, 0, 2), at.into())?;
                (0x0c, 0x17, 0x100, at.wrapping_add(4))
            }
            Exception::Data { address, status } => {
                write_cp15(uc, (0, 5, 0, 0), status.into())?;
                write_cp15(uc, (0, 6, 0, 0), address.into())?;
                (0x10, 0x17, 0x100, pc + 8)
            }
            Exception::Interrupt => (0x18, 0x12, 0x100, pc + 4),
        };
        let saved = uc.reg_read(RegisterARM::CPSR)? as u32;
        // Mode, T, J and IT are replaced; I is set.
        let entered = saved & !0x0700_fc3f | mode | 0x80 | mask;
        uc.reg_write(RegisterARM::CPSR, entered.into())?;
        uc.reg_write(RegisterARM::SPSR, saved.into())?;
        uc.reg_write(RegisterARM::LR, link.into())?;
        uc.reg_write(RegisterARM::PC, u64::from(self.vbar + offset))?;
        // The page that faulted may be mapped next, and that takes no TLB invalidate.
        uc.ctl_flush_tlb()?;
        Ok(self.vbar + offset)
    }

    fn stop(&mut self, outcome: Outcome) {
        self.outcome.get_or_insert(outcome);
        // It fails only where nothing runs.
        let _ = self.uc.emu_stop();
    }

    fn violated(&mut self, (rule, line): (Rule, u32)) {
        let violation = Violation { rule, line, pc: self.caches.pc, instruction: self.instructions };
        self.stop(Outcome::Violation(violation));
    }

    fn register(&self, n: u8) -> u32 {
        let id = RegisterARM::R0 as i32 + i32::from(n);
        self.uc.reg_read(id).unwrap_or(0) as u32
    }

    fn index(&self, pc: u32) -> Option<usize> {
        let bytes = self.words.len() as u32 * 4;
        let places = [pc.wrapping_sub(self.linked), pc.wrapping_sub(self.loaded)];
        places.into_iter().find(|&offset| offset < bytes).map(|offset| offset as usize / 4)
    }

    /// The linked address of an instruction, wherever it runs.
    pub fn linked(&self, pc: u32) -> u32 {
        self.index(pc).map_or(pc, |index| self.linked + 4 * index as u32)
    }

    /// How often each operation was executed, by linked address.
    pub fn visits(&self) -> BTreeMap<u32, u32> {
        let visits = self.visits.iter().enumerate().filter(|&(_, &count)| count > 0);
        visits.map(|(index, &count)| (self.linked + 4 * index as u32, count)).collect()
    }

    /// The mappings of a line that the TLB may hold.
    pub fn mappings(&self, line: u32) -> Vec<(u32, Type)> {
        self.mmu.mappings(line)
    }

    /// Before an instruction is executed.
    fn step(&mut self, pc: u32) {
        if self.exception.is_some() || self.outcome.is_some() {
            return;
        }
        self.instructions += 1;
        self.caches.pc = pc;
        if self.instructions == self.limit {
            self.stop(Outcome::Stuck(format!("no end after {} instructions", self.limit)));
        }
        if self.instructions == self.enough {
            self.stop(Outcome::Enough);
        }
        if let Some(index) = self.index(pc)
            && let Some((op, register)) = self.operations[index]
        {
            self.visits[index] += 1;
            if let Err(broken) = self.operate(op, register) {
                self.violated(broken);
            }
        }
        if self.caches.is_rung()
            && let Err(broken) = self.devices.look(&mut self.caches, self.instructions)
        {
            self.violated(broken);
        }
        if self.devices.due <= self.instructions
            && let Err(broken) = self.devices.step(&mut self.caches, self.instructions)
        {
            self.violated(broken);
        }
        if self.devices.interrupt() && self.uc.reg_read(RegisterARM::CPSR).is_ok_and(|cpsr| cpsr & 0x80 == 0) {
            self.exception = Some(Exception::Interrupt);
            let _ = self.uc.emu_stop();
        }
    }

    fn operate(&mut self, op: Op, register: u8) -> Result<(), (Rule, u32)> {
        let value = self.register(register);
        let maintain = match op {
            Op::Clean => Maintain::Clean,
            Op::CleanToUnification => Maintain::CleanToUnification,
            Op::Invalidate => Maintain::Invalidate,
            Op::Flush => Maintain::Flush,
            Op::Dsb => {
                let (devices, now) = (&mut self.devices, self.instructions);
                self.caches.complete(&mut |caches| devices.look(caches, now))?;
                if self.mmu.complete(&mut self.caches)? {
                    let _ = self.uc.ctl_flush_tlb();
                }
                return Ok(());
            }
            Op::Dmb => {
                self.caches.fence();
                return Ok(());
            }
            Op::TlbPage => {
                self.mmu.invalidate_page(value);
                return Ok(());
            }
            Op::TlbAll => {
                self.mmu.invalidate_all();
                return Ok(());
            }
            Op::Vbar => {
                self.vbar = value & !31;
                return Ok(());
            }
            Op::Sctlr | Op::Ttbr0 | Op::Ttbr1 | Op::Ttbcr => {
                match op {
                    Op::Sctlr => self.mmu.sctlr = value,
                    Op::Ttbr0 => self.mmu.ttbr0 = value,
                    Op::Ttbr1 => self.mmu.ttbr1 = value,
                    _ => self.mmu.ttbcr = value,
                }
                return if self.mmu.is_on() { self.mmu.rebuild(&mut self.caches) } else { Ok(()) };
            }
        };
        let pa = if self.mmu.is_on() {
            let entry = self.mmu.translate(&mut self.caches, value)?;
            let entry = entry.map_err(|_| (Rule::Unmapped { va: value }, value))?;
            entry.frame() | value & 0xfff
        } else {
            value
        };
        self.caches.issue(maintain, pa);
        Ok(())
    }

    fn access(&mut self, address: u64, size: u32, value: Option<u64>) {
        let pa = address as u32;
        if self.outcome.is_some() || self.exception.is_some() || address >= NOWHERE || !self.caches.has(pa) {
            return;
        }
        if value.is_some() {
            self.mmu.stored(&self.caches, pa);
        }
        if let Err(broken) = self.caches.access(pa, size, value, address & PAST == 0, self.mmu.is_on()) {
            self.violated(broken);
        }
    }

    /// The page of `va` for an access of the kind, or `None`: an abort.
    fn translate(&mut self, va: u32, kind: MemType) -> Option<(u64, Prot)> {
        if !self.mmu.is_on() {
            let memory = if self.caches.has(va) { PAST } else { 0 };
            if memory != 0 {
                self.caches.look_at(va);
            }
            return Some((u64::from(va) | memory, Prot::ALL));
        }
        let found = match self.mmu.translate(&mut self.caches, va) {
            Ok(found) => found,
            Err(broken) => {
                self.violated(broken);
                return None;
            }
        };
        // DFSR and IFSR (ARM ARM table B3-23).
        let status = match found {
            Err(NoEntry::First) => 0x5,
            Err(NoEntry::Second) => 0x7,
            Ok(entry) => {
                let (read, write, execute) = entry.permits();
                let allowed = match kind {
                    MemType::WRITE => write,
                    MemType::FETCH => execute,
                    _ => read,
                };
                if allowed {
                    let pa = entry.frame();
                    let cached = entry.memory_type() == Type::Cacheable && self.mmu.caches_on();
                    let memory = if cached || !self.caches.has(pa) { 0 } else { PAST };
                    if self.caches.has(pa) {
                        self.caches.look_at(pa);
                    }
                    let mut prot = Prot::NONE;
                    for (allowed, one) in [(read, Prot::READ), (write, Prot::WRITE), (execute, Prot::EXEC)] {
                        if allowed {
                            prot = Prot(prot.0 | one.0);
                        }
                    }
                    return Some((u64::from(pa) | memory, prot));
                }
                if entry.is_section() { 0xd } else { 0xf }
            }
        };
        match kind {
            MemType::FETCH => {
                self.exception.get_or_insert(Exception::Prefetch { status });
                None
            }
            kind => {
                self.fault = status;
                let prot = if kind == MemType::WRITE { Prot::WRITE } else { Prot::READ };
                Some((u64::from(va) | NOWHERE, prot))
            }
        }
    }

    /// A byte as the CPU reads it.
    fn byte(&mut self, va: u32) -> Option<u8> {
        let (at, _) = self.translate(va & !0xfff, MemType::READ)?;
        let pa = at as u32 | va & 0xfff;
        if at >= NOWHERE || !self.caches.has(pa) {
            return None;
        }
        Some((self.caches.word(pa & !3, at & PAST == 0) >> (pa % 4 * 8)) as u8)
    }

    fn guest_word(&mut self, va: u32) -> u32 {
        let bytes = [0, 1, 2, 3].map(|n| self.byte(va.wrapping_add(n)).unwrap_or(0));
        u32::from_le_bytes(bytes)
    }

    /// Arm's semihosting calls, those that print and those that end the program. The rest fail.
    fn semihosting(&mut self) {
        let (call, argument) = (self.register(0), self.register(1));
        let result = match call {
            // SYS_OPEN: whatever is opened is the console.
            0x01 => 1,
            // SYS_WRITEC
            0x03 => {
                let byte = self.byte(argument).unwrap_or(b'?');
                self.devices.console.push(byte);
                0
            }
            // SYS_WRITE0
            0x04 => {
                let mut at = argument;
                while let Some(byte @ 1..) = self.byte(at) {
                    self.devices.console.push(byte);
                    at += 1;
                }
                0
            }
            // SYS_WRITE: handle, address, length
            0x05 => {
                let (from, length) = (self.guest_word(argument + 4), self.guest_word(argument + 8));
                for n in 0..length {
                    let byte = self.byte(from + n).unwrap_or(b'?');
                    self.devices.console.push(byte);
                }
                0
            }
            // SYS_EXIT_EXTENDED: ADP_Stopped_ApplicationExit and the code
            0x20 => {
                let code = self.guest_word(argument + 4);
                match self.devices.finish(&mut self.caches) {
                    Err(broken) => self.violated(broken),
                    Ok(()) => self.stop(Outcome::Exit(code)),
                }
                0
            }
            _ => u32::MAX,
        };
        let _ = self.uc.clone().reg_write(RegisterARM::R0, result.into());
    }
}

/// Writes p15, by opc1, CRn, CRm, opc2.
fn write_cp15(uc: &mut Unicorn<'_, ()>, place: (u32, u32, u32, u32), value: u64) -> Result<(), uc_error> {
    let (opc1, crn, crm, opc2) = place;
    uc.reg_write_arm_coproc(&RegisterARMCP { cp: 15, is64: 0, sec: 0, crn, crm, opc1, opc2, val: value })
}

/// The machine behind a callback's `user_data`.
///
/// # Safety
///
/// `user_data` is what `attach` gave the emulator, and the emulator runs; no other reference to the machine is in use.
unsafe fn machine<'a>(user_data: *mut c_void) -> &'a mut Machine {
    // SAFETY: `attach` gave `this`, which outlives the run; a hook has the machine's one reference while it runs.
    unsafe { &mut *user_data.cast::<Machine>() }
}

extern "C" fn on_code(_: *mut sys::uc_engine, address: u64, _: u32, user_data: *mut c_void) {
    // SAFETY: a hook of `attach`.
    unsafe { machine(user_data) }.step(address as u32);
}

extern "C" fn on_read(_: *mut sys::uc_engine, _: MemType, at: u64, size: i32, _: i64, user_data: *mut c_void) {
    // SAFETY: a hook of `attach`.
    unsafe { machine(user_data) }.access(at, size as u32, None);
}

extern "C" fn on_write(_: *mut sys::uc_engine, _: MemType, at: u64, size: i32, value: i64, user_data: *mut c_void) {
    // SAFETY: a hook of `attach`.
    unsafe { machine(user_data) }.access(at, size as u32, Some(value as u64));
}

extern "C" fn on_unmapped(
    _: *mut sys::uc_engine,
    kind: MemType,
    at: u64,
    _: i32,
    _: i64,
    user_data: *mut c_void,
) -> bool {
    // SAFETY: a hook of `attach`.
    let machine = unsafe { machine(user_data) };
    let write = if kind == MemType::WRITE_UNMAPPED { 1 << 11 } else { 0 };
    // Where translation is not at fault, nobody answers on the bus: an external abort.
    let status = if at >= NOWHERE { machine.fault } else { 0x8 };
    machine.exception.get_or_insert(Exception::Data { address: at as u32, status: status | write });
    false
}

extern "C" fn on_translate(
    _: *mut sys::uc_engine,
    va: u64,
    kind: MemType,
    result: *mut TlbEntry,
    user_data: *mut c_void,
) -> bool {
    // SAFETY: a hook of `attach`.
    let Some((paddr, perms)) = unsafe { machine(user_data) }.translate(va as u32, kind) else { return false };
    // SAFETY: the emulator passes room for the answer.
    unsafe { result.write(TlbEntry { paddr, perms }) };
    true
}

extern "C" fn on_exception(_: *mut sys::uc_engine, _: u32, user_data: *mut c_void) {
    // SAFETY: a hook of `attach`.
    let machine = unsafe { machine(user_data) };
    let pc = machine.caches.pc;
    let word = machine.index(pc).map(|index| machine.words[index]);
    match word {
        Some(SEMIHOSTING) => machine.semihosting(),
        Some(word) if word >> 24 & 0xf == 0xf => {
            machine.exception.get_or_insert(Exception::SupervisorCall);
            let _ = machine.uc.emu_stop();
        }
        _ => machine.stop(Outcome::Stuck(format!("an exception that is not modelled, at {pc:#010x}"))),
    }
}

extern "C" fn on_invalid(_: *mut sys::uc_engine, user_data: *mut c_void) -> bool {
    // SAFETY: a hook of `attach`.
    let machine = unsafe { machine(user_data) };
    // The emulator reports hints that give up the core this way, with the PC past them.
    if let Some(YIELD | WFE) = machine.index(machine.caches.pc).map(|index| machine.words[index]) {
        return true;
    }
    // The core is in the secure world, whose SCR the emulator does not have.
    if let Some(word) = machine.index(machine.caches.pc).map(|index| machine.words[index])
        && word & !0xf000 == READ_SCR
    {
        let read = machine.uc.reg_write(RegisterARM::R0 as i32 + (word >> 12 & 0xf) as i32, 0);
        return read.and_then(|()| machine.uc.reg_write(RegisterARM::PC, u64::from(machine.caches.pc) + 4)).is_ok();
    }
    machine.exception.get_or_insert(Exception::Undefined);
    false
}
