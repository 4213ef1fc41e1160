//! Cores that run the image over [`Caches`] and an [`Mmu`] each: the emulator's hooks and what they decide.
//!
//! The emulator translates by asking for each page; the answer's upper half says which memory the page is: 0, RAM as
//! the CPU sees it through its caches, or registers; 1, RAM past the caches; 2, nothing: a fault, whose address keeps
//! its lower bits.
//!
//! Each core is an emulator of its own, over the same memory. One of them runs at a time, for as many instructions as
//! the seed says; then another one does. So an instruction of one core is before or after every one of another.
//!
//! Guarantees: the same image, device tree and seed give the same run. Exceptions are delivered as the ARM ARM has them
//! (B1.8), but a store multiple that aborts may have written some of its words and its base.
//!
//! Not modelled: alignment faults, the instruction cache, asynchronous aborts, NEON and VFP.

use crate::cache::{Caches, Maintain, Random};
use crate::devices::Devices;
use crate::image::{Image, Op, decode, is_broadcast, is_of_a_space, of_many_cores, passes};
use crate::mmu::{Mmu, NoEntry, Type};
use crate::model::{Board, Boot, Core, Model};
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

const PAST: u64 = 1 << 32;
const NOWHERE: u64 = 2 << 32;

/// `svc 0x123456`, always executed.
const SEMIHOSTING: u32 = 0xef12_3456;
const YIELD: u32 = 0xe320_f001;
const WFE: u32 = 0xe320_f002;
const WFI: u32 = 0xe320_f003;
/// `mrc p15, 0, r0, c1, c1, 0`.
const READ_SCR: u32 = 0xee11_0f11;

/// The emulator's number of a supervisor call.
const SUPERVISOR_CALL: u32 = 2;
/// CPSR.M of user mode.
const USER: u64 = 0x10;

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
    /// The device tree blob, if there is one.
    pub tree: Option<&'a [u8]>,
    /// The caches, cold, and the adversary.
    pub caches: Caches,
    /// The registers.
    pub devices: Devices,
    /// What decides which core runs for how long.
    pub seed: u64,
    /// Instructions after which the run is given up.
    pub limit: u64,
    /// Instructions after which the run has seen enough.
    pub enough: u64,
}

/// What a core is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// It waits in the boot monitor until it is sent for.
    Penned,
    /// It executes instructions.
    Runs,
    /// It waits for an interrupt, masked or not.
    Sleeps,
}

/// A core.
struct Cpu {
    uc: Unicorn<'static, ()>,
    state: State,
    /// The instruction to go on with.
    next: u32,
    vbar: u32,
    /// Fault status for the page last found without a translation.
    fault: u32,
    exception: Option<Exception>,
    /// It said that it only waits for another core: that goes first.
    yielded: bool,
}

/// The machine.
pub struct Machine {
    cpus: Vec<Cpu>,
    /// The one that runs.
    current: usize,
    /// How many instructions it still runs, and whether it was stopped because that is none.
    left: u32,
    turn_over: bool,
    random: Random,
    /// The caches, with what they noted.
    pub caches: Caches,
    /// The registers, with the console.
    pub devices: Devices,
    /// Of each core.
    mmus: Vec<Mmu>,
    core: Core,
    /// The image's words, their linked base and where they are loaded.
    words: Vec<u32>,
    linked: u32,
    loaded: u32,
    /// What each word of the image does.
    operations: Vec<Option<(Op, u8)>>,
    /// How often each of them was executed.
    visits: Vec<u32>,
    outcome: Option<Outcome>,
    /// Instructions executed.
    pub instructions: u64,
    /// For how many more all cores were asleep.
    asleep: u64,
    limit: u64,
    enough: u64,
}

/// Instructions that a core runs at most before another may; few, most often.
const TURNS: [u32; 4] = [8, 8, 64, 512];

impl Machine {
    /// Loads everything as a boot loader would.
    pub fn new(setup: Setup<'_>) -> Result<Box<Self>, uc_error> {
        let Setup { model, image, tree, mut caches, devices, seed, limit, enough } = setup;
        let (loaded, entry) = match model.boot {
            Boot::Image { .. } => (model.ram + LOAD_OFFSET, model.ram + LOAD_OFFSET),
            Boot::Elf => {
                caches.put(image.at, &vec![0; image.span as usize]);
                (image.at, image.entry)
            }
        };
        let words = image.bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().expect("four")));
        let words: Vec<u32> = words.map(|word| if model.cores > 1 { of_many_cores(word) } else { word }).collect();
        caches.put(loaded, &image.bytes);
        caches.put(loaded, &words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>());
        let tree_at = tree.map_or(0, |tree| {
            caches.put(model.ram + TREE_OFFSET, tree);
            model.ram + TREE_OFFSET
        });

        let known = |word| {
            let tlb = matches!(decode(word), Some((Op::TlbPage | Op::TlbAll, _)));
            model.core.multiprocessing || !tlb || !is_broadcast(word)
        };
        // PERIPHBASE, in CBAR.
        let private = match model.board {
            Board::Arm => Some(0x1e00_0000).filter(|_| model.core.multiprocessing),
            Board::Zynq => Some(0xf8f0_0000),
            Board::Virt => None,
        };
        let mut cpus = Vec::new();
        for core in 0..model.cores {
            let mut uc = Unicorn::new(Arch::ARM, Mode::ARM)?;
            uc.ctl_set_page_size(4096)?;
            uc.ctl_set_cpu_model(model.core.emulated.into())?;
            uc.ctl_set_tlb_type(TlbType::VIRTUAL)?;
            // Supervisor mode, everything masked: as a boot loader leaves it.
            uc.reg_write(RegisterARM::CPSR, 0x1d3)?;
            uc.reg_write(RegisterARM::R0, 0)?;
            uc.reg_write(RegisterARM::R1, 0)?;
            uc.reg_write(RegisterARM::R2, if core == 0 { tree_at.into() } else { 0 })?;
            if let Some(private) = private {
                write_cp15(&mut uc, (4, 15, 0, 0), private)?;
            }
            if model.cores > 1 {
                // Where `of_many_cores` has MPIDR read from.
                write_cp15(&mut uc, (0, 13, 0, 3), 1 << 31 | core as u64)?;
            }
            let state = if core == 0 { State::Runs } else { State::Penned };
            cpus.push(Cpu { uc, state, next: entry, vbar: 0, fault: 0, exception: None, yielded: false });
        }
        let frames = caches.bytes() as usize >> 12;
        Ok(Box::new(Self {
            cpus,
            current: 0,
            left: u32::MAX,
            turn_over: false,
            random: Random::new(seed.rotate_left(32)),
            mmus: (0..model.cores).map(|core| Mmu::new(core, frames, model.core.coherent_walks)).collect(),
            core: model.core,
            caches,
            devices,
            operations: words.iter().map(|&word| decode(word).filter(|_| known(word))).collect(),
            visits: vec![0; words.len()],
            words,
            linked: image.base,
            loaded,
            outcome: None,
            instructions: 0,
            asleep: 0,
            limit,
            enough,
        }))
    }

    const fn has_many(&self) -> bool {
        self.cpus.len() > 1
    }

    /// The core that runs.
    fn cpu(&mut self) -> &mut Cpu {
        &mut self.cpus[self.current]
    }

    fn mmu(&self) -> &Mmu {
        &self.mmus[self.current]
    }

    /// Has an exception delivered, unless another one is to be.
    fn except(&mut self, exception: Exception) {
        self.cpu().exception.get_or_insert(exception);
    }

    /// Gives the emulators their memory, registers and hooks.
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
        for (core, uc) in machine.cpus.iter_mut().map(|cpu| &mut cpu.uc).enumerate() {
            let (cpu, memory) = machine.caches.hosts(core);
            // SAFETY: both copies are of this size, and last as long as the emulator: the machine owns all three.
            unsafe { uc.mem_map_ptr(base.into(), ram.into(), Prot::ALL, cpu.cast())? };
            // SAFETY: as above.
            unsafe { uc.mem_map_ptr(u64::from(base) | PAST, ram.into(), Prot::ALL, memory.cast())? };
            for &(base, bytes) in machine.devices.blocks {
                let read = move |_: &mut Unicorn<'_, ()>, offset: u64, _: usize| {
                    // SAFETY: the emulator calls back only inside `run`, which reaches the machine through `this`.
                    let machine = unsafe { &mut *this };
                    let now = machine.now();
                    u64::from(machine.devices.read(base + offset as u32, now, &mut machine.caches))
                };
                let write = move |_: &mut Unicorn<'_, ()>, offset: u64, _: usize, value: u64| {
                    // SAFETY: as above.
                    let machine = unsafe { &mut *this };
                    let now = machine.now();
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
        loop {
            // SAFETY: `this` is a live machine by this function's contract; no run is under way.
            let machine = unsafe { &mut *this };
            if let Err(outcome) = machine.choose() {
                return outcome;
            }
            let mut uc = machine.cpu().uc.clone();
            let pc = u64::from(machine.cpu().next);
            // No instruction is at an odd address.
            let result = uc.emu_start(pc, 1, 0, 0);
            // SAFETY: `this` is a live machine by this function's contract; the run ended, and the hooks' references
            // with it.
            let machine = unsafe { &mut *this };
            if let Some(outcome) = machine.outcome.take() {
                return outcome;
            }
            if core::mem::take(&mut machine.turn_over) {
                continue;
            }
            let at = uc.reg_read(RegisterARM::PC).unwrap_or(0) as u32;
            let delivered = match (machine.cpu().exception.take(), result) {
                // The emulator stops there, and then looks for code where it was told to end, at 0: that may abort.
                (None | Some(Exception::Prefetch { .. }), _) if machine.executes(WFI) => {
                    machine.cpu().state = State::Sleeps;
                    Ok(at)
                }
                (Some(exception), _) => machine.deliver(&mut uc, exception, at),
                (None, Ok(())) => return Outcome::Stuck(format!("the emulator stopped at {at:#010x}")),
                (None, Err(error)) => return Outcome::Stuck(format!("the emulator stopped at {at:#010x}: {error:?}")),
            };
            match delivered {
                Ok(next) => machine.cpu().next = next,
                Err(error) => return Outcome::Stuck(format!("no exception could be delivered: {error:?}")),
            }
        }
    }

    /// Chooses the core that runs next, and for how long. While all of them sleep time passes.
    fn choose(&mut self) -> Result<(), Outcome> {
        if self.has_many() && self.left > 0 && self.cpu().state == State::Runs {
            // An exception is no reason for another's turn.
            return Ok(());
        }
        loop {
            let (mut ready, mut first) = (0u32, 0u32);
            for core in 0..self.cpus.len() {
                let cpu = &mut self.cpus[core];
                match cpu.state {
                    State::Sleeps if self.devices.interrupt(core) => {
                        cpu.state = State::Runs;
                        // Nothing was loaded in its sleep.
                        self.caches.show_all(core);
                    }
                    State::Penned => {
                        if let Some(entry) = self.devices.sent_for(core) {
                            (cpu.state, cpu.next) = (State::Runs, entry);
                        }
                    }
                    _ => {}
                }
                if cpu.state == State::Runs {
                    ready |= 1 << core;
                    first |= u32::from(!cpu.yielded) << core;
                }
            }
            if ready != 0 {
                if self.has_many() {
                    let among = if first != 0 && self.random.below(8) > 0 { first } else { ready };
                    let nth = self.random.below(among.count_ones());
                    let core = (0..self.cpus.len()).filter(|core| among & 1 << core != 0).nth(nth as usize);
                    self.current = core.unwrap_or(0);
                    self.caches.core = self.current;
                    self.cpu().yielded = false;
                    let most = TURNS[self.random.below(TURNS.len() as u32) as usize];
                    self.left = 1 + self.random.below(most);
                }
                return Ok(());
            }
            if self.devices.due >= self.limit {
                let cores = if self.has_many() { "all cores wait" } else { "the core waits" };
                return Err(Outcome::Stuck(format!("{cores} for ever at {:#010x}", self.caches.pc)));
            }
            self.asleep += self.devices.due.saturating_sub(self.now());
            let now = self.now();
            if let Err(broken) = self.devices.step(&mut self.caches, now) {
                return Err(Outcome::Violation(self.violation(broken)));
            }
        }
    }

    /// Enters an exception (ARM ARM B1.8.3). `at` is the emulator's PC; returns the vector's address.
    fn deliver(&mut self, uc: &mut Unicorn<'_, ()>, exception: Exception, at: u32) -> Result<u32, uc_error> {
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
        // Nothing that a handler loads was loaded before.
        self.caches.show_all(self.current);
        let saved = uc.reg_read(RegisterARM::CPSR)? as u32;
        // Mode, T, J and IT are replaced; I is set.
        let entered = saved & !0x0700_fc3f | mode | 0x80 | mask;
        uc.reg_write(RegisterARM::CPSR, entered.into())?;
        uc.reg_write(RegisterARM::SPSR, saved.into())?;
        uc.reg_write(RegisterARM::LR, link.into())?;
        let vbar = self.cpus[self.current].vbar;
        uc.reg_write(RegisterARM::PC, u64::from(vbar + offset))?;
        // The page that faulted may be mapped next, and that takes no TLB invalidate.
        uc.ctl_flush_tlb()?;
        Ok(vbar + offset)
    }

    /// The time, in instructions.
    pub const fn now(&self) -> u64 {
        self.instructions + self.asleep
    }

    fn stop(&mut self, outcome: Outcome) {
        self.outcome.get_or_insert(outcome);
        self.leave();
    }

    /// Has the emulator return before it executes another instruction.
    fn leave(&mut self) {
        // It fails only where nothing runs.
        let _ = self.cpu().uc.emu_stop();
    }

    const fn violation(&self, (rule, line): (Rule, u32)) -> Violation {
        Violation { rule, line, core: self.current, pc: self.caches.pc, instruction: self.instructions }
    }

    fn violated(&mut self, mut broken: (Rule, u32)) {
        if let (Rule::Alias { first, second }, frame) = &mut broken {
            // The other mapping may be in another core's TLB.
            for (va, cacheable) in [(first, true), (second, false)].into_iter().filter(|(va, _)| **va == 0) {
                *va = self.mmus.iter().find_map(|mmu| mmu.find(*frame, cacheable)).unwrap_or(0);
            }
        }
        self.stop(Outcome::Violation(self.violation(broken)));
    }

    fn register(&self, n: u8) -> u32 {
        let id = RegisterARM::R0 as i32 + i32::from(n);
        self.cpus[self.current].uc.reg_read(id).unwrap_or(0) as u32
    }

    fn index(&self, pc: u32) -> Option<usize> {
        let bytes = self.words.len() as u32 * 4;
        let places = [pc.wrapping_sub(self.linked), pc.wrapping_sub(self.loaded)];
        places.into_iter().find(|&offset| offset < bytes).map(|offset| offset as usize / 4)
    }

    /// Whether the instruction under way is this one.
    fn executes(&self, word: u32) -> bool {
        self.index(self.caches.pc).is_some_and(|index| self.words[index] == word)
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

    /// The mappings of a line that each core's TLB may hold.
    pub fn mappings(&self, line: u32) -> Vec<(usize, u32, Type)> {
        let of = |(core, mmu): (usize, &Mmu)| mmu.mappings(line).into_iter().map(move |(va, kind)| (core, va, kind));
        self.mmus.iter().enumerate().flat_map(of).collect()
    }

    /// Before an instruction is executed.
    fn step(&mut self, pc: u32) {
        if self.cpu().exception.is_some() || self.outcome.is_some() || self.turn_over {
            return;
        }
        if self.has_many() {
            if self.left == 0 {
                (self.turn_over, self.cpu().next) = (true, pc);
                self.leave();
                return;
            }
            self.left -= 1;
            self.caches.atomic = false;
        }
        self.instructions += 1;
        self.caches.pc = pc;
        let now = self.now();
        if now >= self.limit {
            self.stop(Outcome::Stuck(format!("no end after {} instructions", self.limit)));
        }
        if self.instructions == self.enough {
            self.stop(Outcome::Enough);
        }
        if let Some(index) = self.index(pc)
            && let Some((op, register)) = self.operations[index]
            && self.passes(self.words[index])
        {
            self.visits[index] += 1;
            if let Err(broken) = self.operate(op, register, self.words[index]) {
                self.violated(broken);
            }
        }
        if self.caches.is_rung()
            && let Err(broken) = self.devices.look(&mut self.caches, now)
        {
            self.violated(broken);
        }
        if self.devices.due <= now
            && let Err(broken) = self.devices.step(&mut self.caches, now)
        {
            self.violated(broken);
        }
        if self.devices.interrupt(self.current) && self.cpsr() & 0x80 == 0 {
            self.cpu().exception = Some(Exception::Interrupt);
            self.leave();
        }
    }

    fn cpsr(&self) -> u32 {
        self.cpus[self.current].uc.reg_read(RegisterARM::CPSR).unwrap_or(0x80) as u32
    }

    /// Whether an instruction's condition holds now.
    fn passes(&self, word: u32) -> bool {
        word >> 28 >= 14 || passes(word, self.cpsr())
    }

    /// Whether a barrier with this option is one for bus masters: they are in no inner domain (ARM ARM A8.8.43).
    const fn reaches_devices(&self, option: u8) -> bool {
        !self.core.domains || matches!(option >> 2, 0 | 3)
    }

    fn operate(&mut self, op: Op, register: u8, word: u32) -> Result<(), (Rule, u32)> {
        let value = self.register(register);
        let maintain = match op {
            Op::Clean => Maintain::Clean,
            Op::CleanToUnification => Maintain::CleanToUnification,
            Op::Invalidate => Maintain::Invalidate,
            Op::Flush => Maintain::Flush,
            Op::Dsb => {
                if self.reaches_devices(register) {
                    let now = self.now();
                    let devices = &mut self.devices;
                    self.caches.complete(&mut |caches| devices.look(caches, now))?;
                } else {
                    self.caches.perform_all();
                }
                let gone = Mmu::complete(&mut self.mmus, self.current, &mut self.caches)?;
                for core in (0..self.cpus.len()).filter(|core| gone & 1 << core != 0) {
                    // Accesses by a translation that is forgotten are done (ARM ARM B3.10.1).
                    self.caches.perform_stores(core);
                    let _ = self.cpus[core].uc.ctl_flush_tlb();
                }
                return Ok(());
            }
            Op::Dmb => {
                if self.reaches_devices(register) {
                    // The options for stores alone are even.
                    self.caches.fence(!self.core.domains || register & 1 != 0);
                }
                return Ok(());
            }
            Op::TlbPage => {
                let space = is_of_a_space(word).then_some(value as u8);
                self.mmus[self.current].invalidate_page(value, space, is_broadcast(word));
                return Ok(());
            }
            Op::TlbAll if is_of_a_space(word) => {
                self.mmus[self.current].invalidate_space(value as u8, is_broadcast(word));
                return Ok(());
            }
            Op::TlbAll => {
                self.mmus[self.current].invalidate_all(is_broadcast(word));
                return Ok(());
            }
            Op::Vbar => {
                self.cpu().vbar = value & !31;
                return Ok(());
            }
            Op::Contextidr => {
                let switched = self.mmus[self.current].switch(&mut self.caches, value as u8);
                let _ = self.cpu().uc.ctl_flush_tlb();
                return switched;
            }
            Op::Ttbr0 if self.mmu().is_on() && self.mmu().ttbcr & 7 != 0 => {
                let mmu = &mut self.mmus[self.current];
                mmu.ttbr0 = value;
                let taken = mmu.take_up_space(&mut self.caches);
                let _ = self.cpu().uc.ctl_flush_tlb();
                return taken;
            }
            Op::Sctlr | Op::Ttbr0 | Op::Ttbr1 | Op::Ttbcr => {
                let mmu = &mut self.mmus[self.current];
                match op {
                    Op::Sctlr => mmu.sctlr = value,
                    Op::Ttbr0 => mmu.ttbr0 = value,
                    Op::Ttbr1 => mmu.ttbr1 = value,
                    _ => mmu.ttbcr = value,
                }
                return if mmu.is_on() { mmu.rebuild(&mut self.caches) } else { Ok(()) };
            }
            Op::InvalidateBySet | Op::CleanBySet | Op::FlushBySet => {
                let operation = match op {
                    Op::InvalidateBySet => Maintain::Invalidate,
                    Op::CleanBySet => Maintain::Clean,
                    _ => Maintain::Flush,
                };
                self.caches.issue_by_set(operation, value);
                return Ok(());
            }
            Op::Actlr => {
                if self.has_many() {
                    // SMP and FW (DDI 0388, 4.3.10).
                    self.caches.join(self.current, value & 1 << 6 != 0, value & 1 != 0);
                    let _ = self.cpu().uc.ctl_flush_tlb();
                }
                return Ok(());
            }
            Op::Isr => {
                if self.has_many() {
                    let raised = u64::from(self.devices.interrupt(self.current));
                    // It fails only where there is no such register.
                    let _ = write_cp15(&mut self.cpu().uc, (0, 13, 0, 2), raised << 7);
                }
                return Ok(());
            }
            Op::Clrex => {
                self.caches.unmark();
                return Ok(());
            }
            Op::LoadExclusive => {
                self.caches.mark();
                return Ok(());
            }
            Op::StoreExclusive => {
                self.caches.atomic = self.has_many();
                if self.has_many() && !self.caches.unmark() {
                    // The emulator would compare values.
                    let next = u64::from(self.caches.pc) + 4;
                    let uc = &mut self.cpu().uc;
                    let failed = uc.reg_write(RegisterARM::R0 as i32 + i32::from(register), 1);
                    let _ = failed.and_then(|()| uc.reg_write(RegisterARM::PC, next));
                }
                return Ok(());
            }
        };
        let pa = if self.mmu().is_on() {
            let entry = self.mmus[self.current].translate(&mut self.caches, value)?;
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
        if self.outcome.is_some() || self.cpu().exception.is_some() || address >= NOWHERE || !self.caches.has(pa) {
            return;
        }
        if value.is_some() {
            self.mmus[self.current].stored(&self.caches, pa);
        }
        if let Err(broken) = self.caches.access(pa, size, value, address & PAST == 0, self.mmu().is_on()) {
            self.violated(broken);
        }
    }

    /// The page of `va` for an access of the kind, or `None`: an abort.
    fn translate(&mut self, va: u32, kind: MemType) -> Option<(u64, Prot)> {
        if self.turn_over {
            // The emulator looks where it was told to end.
            return None;
        }
        if !self.mmu().is_on() {
            let memory = if self.caches.has(va) { PAST } else { 0 };
            if memory != 0 {
                self.caches.look_at(va);
            }
            return Some((u64::from(va) | memory, Prot::ALL));
        }
        let found = match self.mmus[self.current].translate(&mut self.caches, va) {
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
                let user = self.cpu().uc.reg_read(RegisterARM::CPSR).is_ok_and(|cpsr| cpsr & 0x1f == USER);
                let (read, write, execute) = entry.permits(user);
                let allowed = match kind {
                    MemType::WRITE => write,
                    MemType::FETCH => execute,
                    _ => read,
                };
                if allowed {
                    let pa = entry.frame();
                    // A core that takes no part in coherency does not cache Shareable memory (DDI 0388, 4.3.10).
                    let caches = self.mmu().caches_on() && self.caches.is_coherent(self.current);
                    let cached = entry.memory_type() == Type::Cacheable && caches;
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
                self.except(Exception::Prefetch { status });
                None
            }
            kind => {
                self.cpu().fault = status;
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
        Some((self.caches.read_word(pa & !3, at & PAST == 0) >> (pa % 4 * 8)) as u8)
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
                let now = self.now();
                match (self.devices.finish(&mut self.caches, now), self.devices.complaint()) {
                    (Err(broken), _) => self.violated(broken),
                    (Ok(()), Some(complaint)) if code == 0 => self.stop(Outcome::Refused(complaint)),
                    (Ok(()), _) => self.stop(Outcome::Exit(code)),
                }
                0
            }
            _ => u32::MAX,
        };
        let _ = self.cpu().uc.reg_write(RegisterARM::R0, result.into());
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
    let status = if at >= NOWHERE { machine.cpu().fault } else { 0x8 };
    machine.except(Exception::Data { address: at as u32, status: status | write });
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

extern "C" fn on_exception(_: *mut sys::uc_engine, number: u32, user_data: *mut c_void) {
    // SAFETY: a hook of `attach`.
    let machine = unsafe { machine(user_data) };
    let pc = machine.caches.pc;
    let word = machine.index(pc).map(|index| machine.words[index]);
    match word {
        Some(SEMIHOSTING) => machine.semihosting(),
        Some(word) if word >> 24 & 0xf == 0xf => {
            machine.except(Exception::SupervisorCall);
            machine.leave();
        }
        // A program of a user's, which is not in the image where it runs.
        None if number == SUPERVISOR_CALL => {
            machine.except(Exception::SupervisorCall);
            machine.leave();
        }
        _ => machine.stop(Outcome::Stuck(format!("an exception that is not modelled, at {pc:#010x}"))),
    }
}

extern "C" fn on_invalid(_: *mut sys::uc_engine, user_data: *mut c_void) -> bool {
    // SAFETY: a hook of `attach`.
    let machine = unsafe { machine(user_data) };
    // The emulator reports hints that give up the core this way, with the PC past them.
    if let Some(YIELD | WFE) = machine.index(machine.caches.pc).map(|index| machine.words[index]) {
        // Whoever is waited for goes first.
        (machine.left, machine.cpu().yielded) = (0, true);
        return true;
    }
    // The core is in the secure world, whose SCR the emulator does not have.
    if let Some(word) = machine.index(machine.caches.pc).map(|index| machine.words[index])
        && word & !0xf000 == READ_SCR
    {
        let next = u64::from(machine.caches.pc) + 4;
        let uc = &mut machine.cpu().uc;
        let read = uc.reg_write(RegisterARM::R0 as i32 + (word >> 12 & 0xf) as i32, 0);
        return read.and_then(|()| uc.reg_write(RegisterARM::PC, next)).is_ok();
    }
    machine.except(Exception::Undefined);
    false
}
