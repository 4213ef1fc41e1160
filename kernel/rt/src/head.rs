//! The head's work for a core, run line by line on the host: registers that QEMU keeps constant, caches that it does
//! not have, and an event that it does not wait for.
//!
//! Guarantees: what runs is the text of `head.s`; an instruction, a register or a directive that this does not know
//! ends the test.

use carveout_armv7a::errata;
use carveout_armv7a::ids::{CORE_MASK, CORE_TABLE, CORES as CORES_KNOWN};
use std::collections::{BTreeMap, BTreeSet};
use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

/// Where the image lies, and the words that the head reads of it.
const LOADED: u32 = 0x6001_0000;
const PEN: u32 = 0x6002_0000;
const CORES: u32 = 0x6003_0000;
const ERRATA: u32 = 0x6004_0000;
const SCU: u32 = 0x1e00_0000;
/// The caller of what is run.
const BACK: u32 = 0xffff_fff0;

/// A coprocessor's register: `opc1`, `CRn`, `CRm`, `opc2`.
type Register = [u32; 4];
const MIDR: Register = [0, 0, 0, 0];
const MPIDR: Register = [0, 0, 0, 5];
const ID_PFR1: Register = [0, 0, 1, 1];
const CCSIDR: Register = [1, 0, 0, 0];
const CLIDR: Register = [1, 0, 0, 1];
const SCTLR: Register = [0, 1, 0, 0];
const ACTLR: Register = [0, 1, 0, 1];
const SCR: Register = [0, 1, 1, 0];
const PAR: Register = [0, 7, 4, 0];
const DCISW: Register = [0, 7, 6, 2];
const ATS1CPR: Register = [0, 7, 8, 0];
const DCCISW: Register = [0, 7, 14, 2];
const VBAR: Register = [0, 12, 0, 0];
const DIAGNOSTIC: Register = [0, 15, 0, 1];
const CBAR: Register = [4, 15, 0, 0];
const VPIDR: Register = [4, 0, 0, 0];
const VMPIDR: Register = [4, 0, 0, 5];
const HSCTLR: Register = [4, 1, 0, 0];
const HCR: Register = [4, 1, 1, 0];
const HDCR: Register = [4, 1, 1, 1];
const HCPTR: Register = [4, 1, 1, 2];
const HSTR: Register = [4, 1, 1, 3];
const CNTHCTL: Register = [4, 14, 1, 0];
/// Registers of 64 bits, by `opc1` and `CRm`.
const VTTBR: Register = [6, WIDE, 2, 0];
const CNTVOFF: Register = [4, WIDE, 14, 0];
const WIDE: u32 = 64;

/// Modes of the CPSR.
const SUPERVISOR: u32 = 0x13;
const HYP: u32 = 0x1a;

/// What a test looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Did {
    Write(Register, u32),
    Store(u32, u32),
}

/// How a run ended.
#[derive(Clone, PartialEq, Eq, Debug)]
enum End {
    /// It went back to its caller.
    Back,
    /// It came to this label.
    At(String),
    /// It waits for an event, and none comes.
    Asleep,
}

/// The text, less comments, macros and directives.
struct Text {
    lines: Vec<(String, Vec<String>)>,
    labels: Vec<(String, usize)>,
    constants: BTreeMap<String, u32>,
}

impl Text {
    fn read() -> Self {
        let mut text = Self { lines: vec![], labels: vec![], constants: BTreeMap::new() };
        let mut in_macro = false;
        for line in include_str!("head.s").lines() {
            let mut line = line.split('@').next().unwrap_or("").trim();
            in_macro |= line.starts_with(".macro");
            if in_macro {
                in_macro = line != ".endm";
                continue;
            }
            if let Some((label, rest)) = line.split_once(':') {
                text.labels.push((label.to_string(), text.lines.len()));
                line = rest.trim();
            }
            let (op, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            if op == ".equ" {
                let (name, value) = rest.split_once(',').expect("a name and a value");
                // What start.rs substitutes; no test needs another.
                let value = if value.contains("core_mask") {
                    CORE_MASK
                } else if value.contains('{') {
                    0
                } else {
                    text.value(value)
                };
                text.constants.insert(name.trim().to_string(), value);
            } else if !op.is_empty() && !op.starts_with('.') {
                text.lines.push((op.to_string(), rest.split(',').map(|word| word.trim().to_string()).collect()));
            }
        }
        text
    }

    /// Of `(A | 1 << 2)`.
    fn value(&self, text: &str) -> u32 {
        let term = |term: &str| {
            let word = term.trim();
            let number = word.strip_prefix("0x").map_or_else(|| word.parse(), |hex| u32::from_str_radix(hex, 16));
            number.unwrap_or_else(|_| *self.constants.get(word).unwrap_or_else(|| panic!("what is {word}?")))
        };
        let shifted = |part: &str| part.split("<<").map(term).reduce(|value, by| value << by).unwrap_or(0);
        text.replace(['(', ')', '#', '='], "").split('|').map(shifted).fold(0, |all, part| all | part)
    }

    fn label(&self, name: &str, from: usize) -> usize {
        let mut places =
            self.labels.iter().filter(|(label, _)| label == name.trim_end_matches(['f', 'b']) || label == name);
        if !name.starts_with(|first: char| first.is_ascii_digit()) {
            return places.find(|(label, _)| label == name).unwrap_or_else(|| panic!("where is {name}?")).1;
        }
        let found =
            if name.ends_with('f') { places.find(|&&(_, at)| at > from) } else { places.rfind(|&&(_, at)| at <= from) };
        found.unwrap_or_else(|| panic!("where is {name}?")).1
    }
}

/// A core before its first instruction of ours.
#[expect(clippy::struct_excessive_bools, reason = "three of them are the flags")]
struct Core {
    r: [u32; 16],
    negative: bool,
    zero: bool,
    carry: bool,
    registers: BTreeMap<Register, u32>,
    undefined: BTreeSet<Register>,
    memory: BTreeMap<u32, u32>,
    event: bool,
    /// The mode, and what an exception return from Hyp mode goes to: SPSR and ELR.
    mode: u32,
    spsr: u32,
    elr: u32,
    did: Vec<Did>,
}

impl Core {
    /// A secure core with two levels of eight lines, of which the first is its own; what it read of the list is `midr`.
    fn new(midr: u32) -> Self {
        let mut registers = BTreeMap::new();
        registers.extend([
            (MIDR, midr),
            (MPIDR, 0x8000_0000),
            (ID_PFR1, 0x11),
            (CCSIDR, 3 << 13 | 1 << 3 | 1),
            (CLIDR, 0x0220_0023),
            (CBAR, SCU),
            (SCR, 0),
            (ACTLR, 0),
            (DIAGNOSTIC, 0),
            (SCTLR, 0x00c5_0878),
        ]);
        let mut memory = BTreeMap::from([(PEN, 0), (SCU, 0), (SCU + 0x30, 0)]);
        for (base, table) in [(CORES, &CORE_TABLE[..]), (ERRATA, &errata::TABLE[..])] {
            memory.extend(table.as_flattened().iter().enumerate().map(|(n, &word)| (base + 4 * n as u32, word)));
        }
        Self {
            r: [0; 16],
            negative: false,
            zero: false,
            carry: false,
            registers,
            undefined: BTreeSet::new(),
            memory,
            event: false,
            mode: SUPERVISOR,
            spsr: 0,
            elr: 0,
            did: vec![],
        }
    }

    fn with(mut self, register: Register, value: u32) -> Self {
        self.registers.insert(register, value);
        self
    }

    fn without(mut self, register: Register) -> Self {
        self.undefined.insert(register);
        self
    }

    fn in_mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Changes the mode. A mode has its own link register.
    fn enter(&mut self, mode: u32) {
        if mode != self.mode {
            self.mode = mode;
            self.r[14] = 0xdead_beec;
        }
    }

    /// From a label to the caller, or to one of the labels. `between` runs before each line.
    fn run(&mut self, from: &str, to: &[&str], mut between: impl FnMut(&mut Self, usize)) -> End {
        let text = Text::read();
        let (mut at, mut handler) = (text.label(from, 0), None);
        self.r[14] = BACK;
        for turn in 0..10_000 {
            if let Some(label) = to.iter().find(|label| text.label(label, 0) == at) {
                return End::At((*label).to_string());
            }
            between(self, turn);
            let (op, args) = &text.lines[at];
            let (name, sets, condition) = split(op);
            at += 1;
            if !self.holds(condition) {
                continue;
            }
            match name {
                "b" => at = text.label(&args[0], at - 1),
                "bl" => {
                    self.r[14] = at as u32;
                    at = text.label(&args[0], at - 1);
                }
                "bx" => match self.r[register(&args[0])] {
                    BACK => return End::Back,
                    place => at = place as usize,
                },
                "wfe" => {
                    if !core::mem::take(&mut self.event) {
                        return End::Asleep;
                    }
                }
                "setend" => {}
                "mrs" => self.r[register(&args[0])] = self.mode,
                "cpsid" => self.enter(text.value(&args[1])),
                "msr" if args[0] == "elr_hyp" => self.elr = self.r[register(&args[1])],
                "msr" => self.spsr = self.r[register(&args[1])],
                "eret" => {
                    self.enter(self.spsr & 0x1f);
                    match self.elr {
                        BACK => return End::Back,
                        place => at = place as usize,
                    }
                }
                "mcrr" => {
                    let number = |n: usize| args[n].trim_start_matches('c').parse().expect("a number");
                    assert_eq!((self.r[register(&args[2])], self.r[register(&args[3])]), (0, 0));
                    self.did.push(Did::Write([number(1), WIDE, number(4), 0], 0));
                }
                "attempt" => handler = Some(text.label(&args[0], at - 1)),
                "attempted" => {
                    handler = None;
                    self.r[register(&args[0])] = 0;
                }
                "mrc" | "mcr" => {
                    let number = |n: usize| args[n].trim_start_matches(['c', '#']).parse().expect("a number");
                    let which = [number(1), number(3), number(4), number(5)];
                    if self.undefined.contains(&which) {
                        at = handler.unwrap_or_else(|| panic!("{op} {args:?} is undefined"));
                    } else if name == "mrc" {
                        let value = self.registers.get(&which);
                        self.r[register(&args[2])] = *value.unwrap_or_else(|| panic!("{op} {args:?}: no value"));
                    } else {
                        let value = self.r[register(&args[2])];
                        self.registers.insert(which, value);
                        self.did.push(Did::Write(which, value));
                    }
                }
                _ => self.compute(&text, name, sets, args),
            }
        }
        panic!("no end");
    }

    fn holds(&self, condition: &str) -> bool {
        match condition {
            "eq" => self.zero,
            "ne" => !self.zero,
            "hs" => self.carry,
            "lo" => !self.carry,
            "hi" => self.carry && !self.zero,
            "ls" => !self.carry || self.zero,
            "pl" => !self.negative,
            _ => true,
        }
    }

    fn operand(&self, text: &Text, args: &[String]) -> u32 {
        let value = if args[0].starts_with('#') { text.value(&args[0]) } else { self.r[register(&args[0])] };
        let Some((kind, by)) = args.get(1).and_then(|shift| shift.split_once(' ')) else { return value };
        let by = self.operand(text, &[by.to_string()]);
        match kind {
            "lsl" => value.checked_shl(by).unwrap_or(0),
            "lsr" => value.checked_shr(by).unwrap_or(0),
            _ => panic!("shift {kind}"),
        }
    }

    fn compute(&mut self, text: &Text, name: &str, sets: bool, args: &[String]) {
        let to = args.first().filter(|word| word.starts_with(['r', 'l'])).map_or(0, |word| register(word));
        let operand = |from: usize| self.operand(text, &args[from..]);
        let pair = || (self.r[register(&args[1])], operand(2));
        let value = match name {
            "isb" | "dsb" | "dmb" => return,
            "cmp" => {
                let (left, right) = (self.r[to], operand(1));
                (self.zero, self.carry, self.negative) =
                    (left == right, left >= right, left.wrapping_sub(right) >> 31 == 1);
                return;
            }
            "tst" | "teq" => {
                let (left, right) = (self.r[to], operand(1));
                self.zero = if name == "tst" { left & right } else { left ^ right } == 0;
                return;
            }
            "adr" if args[1] == "early_vectors" => LOADED,
            "adr" => {
                assert!(args[1].starts_with("message_"), "where is {}?", args[1]);
                return;
            }
            "phys" => match args[1].as_str() {
                "early_vectors" => LOADED,
                "CARVEOUT_PEN" => PEN,
                "CARVEOUT_CORES" => CORES,
                "CARVEOUT_ERRATA" => ERRATA,
                other => panic!("where is {other}?"),
            },
            "ldr" if args[1] == "=early_vectors" => 0xff01_0000,
            "ldr" if args[1].starts_with('=') => text.value(&args[1]),
            "ldr" | "str" => {
                let base = register(args[1].trim_matches(['[', ']']));
                let offset = args.get(2).map_or(0, |word| text.value(word.trim_end_matches(']')));
                let after = args[1].ends_with(']') && args.len() > 2;
                let place = if after { self.r[base] } else { self.r[base] + offset };
                if name == "str" {
                    self.did.push(Did::Store(place, self.r[to]));
                    return;
                }
                let word = *self.memory.get(&place).unwrap_or_else(|| panic!("nothing at {place:#x}"));
                if after {
                    self.r[base] += offset;
                }
                word
            }
            "mov" => operand(1),
            "add" => pair().0.wrapping_add(pair().1),
            "sub" => pair().0.wrapping_sub(pair().1),
            "and" => pair().0 & pair().1,
            "bic" => pair().0 & !pair().1,
            "orr" => pair().0 | pair().1,
            "eor" => pair().0 ^ pair().1,
            "lsl" => pair().0.checked_shl(pair().1).unwrap_or(0),
            "lsr" => pair().0.checked_shr(pair().1).unwrap_or(0),
            "clz" => operand(1).leading_zeros(),
            "ubfx" => self.r[register(&args[1])] >> text.value(&args[2]) & ((1 << text.value(&args[3])) - 1),
            "bfi" => {
                let (low, mask) = (text.value(&args[2]), (1 << text.value(&args[3])) - 1);
                self.r[to] & !(mask << low) | (self.r[register(&args[1])] & mask) << low
            }
            _ => panic!("{name} {args:?} is not known"),
        };
        self.r[to] = value;
        if sets {
            (self.zero, self.negative) = (value == 0, value >> 31 == 1);
        }
    }

    fn init(&mut self) -> End {
        self.run("core_init", &["die"], |_, _| {})
    }

    /// Lines that were emptied by an operation, by level from 1 on.
    fn lines(&self, operation: Register) -> [usize; 2] {
        let of = |level| {
            let is = |did: &&Did| matches!(did, Did::Write(which, way) if *which == operation && way >> 1 & 7 == level);
            self.did.iter().filter(is).count()
        };
        [of(0), of(1)]
    }

    fn writes(&self, register: Register) -> Vec<u32> {
        let written = |did: &Did| match did {
            Did::Write(which, value) if *which == register => Some(*value),
            _ => None,
        };
        self.did.iter().filter_map(written).collect()
    }

    fn stores(&self) -> Vec<u32> {
        let stored = |did: &Did| if let Did::Store(at, _) = did { Some(*at) } else { None };
        self.did.iter().filter_map(stored).collect()
    }
}

fn register(name: &str) -> usize {
    if name == "lr" { 14 } else { name[1..].parse().unwrap_or_else(|_| panic!("register {name}")) }
}

/// A mnemonic's name, whether it sets the flags, and its condition.
fn split(op: &str) -> (&str, bool, &str) {
    const WHOLE: [&str; 5] = ["bl", "bic", "teq", "cpsid", "mcr"];
    const CONDITIONS: [&str; 7] = ["eq", "ne", "hs", "lo", "hi", "ls", "pl"];
    const SET: [&str; 5] = ["subs", "ands", "bics", "lsrs", "adds"];
    if WHOLE.contains(&op) {
        return (op, false, "");
    }
    let (name, condition) = op.split_at(op.len().saturating_sub(2));
    let (name, condition) =
        if CONDITIONS.contains(&condition) && !name.is_empty() { (name, condition) } else { (op, "") };
    if SET.contains(&name) { (&name[..name.len() - 1], true, condition) } else { (name, false, condition) }
}

const A5: u32 = 0x410f_c051;
const A7: u32 = 0x410f_c075;
const A9: u32 = 0x413f_c090;
const CACHE_ON: u32 = 1 << 2;
const MMU_ON: u32 = 1 << 0;

#[test]
fn a_core_in_the_pen_meets_its_word_whenever_that_is_written() {
    // Before it is here; the event went to nobody.
    let mut late = Core::new(A9);
    late.memory.insert(PEN, 1);
    assert_eq!(late.run("pen", &["carveout_secondary"], |_, _| {}), End::At("carveout_secondary".to_string()));
    // Before any of its first lines, with the event.
    for when in 0..20 {
        let mut core = Core::new(A9);
        let end = core.run("pen", &["carveout_secondary"], |core, turn| {
            // A core that sleeps is woken: the event is still to come.
            if turn < when {
                core.event = true;
            } else if turn == when {
                core.memory.insert(PEN, 1);
                core.event = true;
            }
        });
        assert_eq!(end, End::At("carveout_secondary".to_string()), "written before line {when}");
    }
    assert_eq!(Core::new(A9).run("pen", &["carveout_secondary"], |_, _| {}), End::Asleep, "nobody let it in");
}

#[test]
fn every_mode_but_hyp_changes_to_supervisor_mode_at_once() {
    for mode in [SUPERVISOR, 0x1f, 0x16] {
        let mut core = Core::new(A9).in_mode(mode);
        assert_eq!((core.run("supervisor", &[], |_, _| {}), core.mode, core.did), (End::Back, SUPERVISOR, vec![]));
    }
}

#[test]
fn hyp_mode_is_left_with_nothing_trapped_and_nothing_on() {
    let hyp = || {
        let known = Core::new(A7).in_mode(HYP).with(MPIDR, 0x8000_0001).with(SCTLR, u32::MAX).with(HDCR, 0xfffe_0004);
        let mut core = known.with(HSCTLR, 0x30c5_0830).with(ID_PFR1, 0x0001_1011).with(CNTHCTL, 4);
        core.r[2] = 0x6800_0000;
        core
    };
    let mut core = hyp();
    assert_eq!((core.run("supervisor", &[], |_, _| {}), core.mode), (End::Back, SUPERVISOR));
    assert_eq!((core.spsr, core.r[2]), (0x1d3, 0x6800_0000), "all is masked, and the device tree is where it was");
    let below: u32 = !(1 << 30 | 1 << 25 | 1 << 13 | 1 << 12 | 1 << 11 | 0b111);
    let want = [
        (HCR, 0),
        (HSTR, 0),
        (HCPTR, 0x33ff),
        (HDCR, 4),
        (VTTBR, 0),
        (VPIDR, A7),
        (VMPIDR, 0x8000_0001),
        (CNTHCTL, 7),
        (CNTVOFF, 0),
        (SCTLR, below),
    ];
    assert_eq!(core.did, want.map(|(register, value)| Did::Write(register, value)));
    let mut without = hyp().with(ID_PFR1, 0x1011);
    assert_eq!(without.run("supervisor", &[], |_, _| {}), End::Back);
    assert_eq!((without.writes(CNTHCTL), without.writes(CNTVOFF)), (vec![], vec![]), "it has no Generic Timer");
    // What a boot loader has in its caches there the head would not find.
    for on in [CACHE_ON, MMU_ON] {
        let mut core = hyp().with(HSCTLR, 0x30c5_0830 | on);
        assert_eq!(core.run("supervisor", &["refuse_hyp"], |_, _| {}), End::At("refuse_hyp".to_string()));
        assert_eq!(core.did, []);
    }
}

#[test]
fn what_a_cold_core_has_in_its_caches_is_dropped() {
    for midr in [A7, A9, 0x413f_c082] {
        let mut core = Core::new(midr).with([1, 9, 0, 2], 0);
        assert_eq!(core.init(), End::Back);
        assert_eq!((core.lines(DCISW), core.lines(DCCISW)), ([8, 8], [0, 0]), "{midr:#x}");
    }
}

#[test]
fn what_a_boot_loader_left_in_lines_is_written_back() {
    for sctlr in [CACHE_ON, CACHE_ON | MMU_ON] {
        let mut core = Core::new(A9).with(SCTLR, 0x00c5_1878 | sctlr).with(PAR, LOADED | 0x4a);
        assert_eq!(core.init(), End::Back);
        assert_eq!((core.lines(DCISW), core.lines(DCCISW)), ([0, 0], [16, 16]));
        let is_off = |did: &Did| matches!(did, Did::Write(SCTLR, value) if value & (CACHE_ON | MMU_ON | 1 << 12) == 0);
        let off = core.did.iter().position(is_off).expect("the caches are turned off");
        let lines = |part: &[Did]| part.iter().filter(|did| matches!(did, Did::Write(DCCISW, _))).count();
        let (before, after) = core.did.split_at(off);
        assert_eq!((lines(before), lines(after)), (16, 16), "once while they are on, once when nothing comes in");
        // Instructions are fetched through their cache until then.
        assert!(before.iter().all(|did| !matches!(did, Did::Write(SCTLR, value) if value & 1 << 12 == 0)));
    }
}

#[test]
fn an_mmu_that_translates_is_not_turned_off() {
    for par in [0x4001_0000, LOADED + 0x1000] {
        let mut core = Core::new(A9).with(SCTLR, CACHE_ON | MMU_ON).with(PAR, par);
        assert_eq!(core.init(), End::At("die".to_string()));
        assert_eq!((core.lines(DCISW), core.lines(DCCISW)), ([0, 0], [0, 0]));
        assert!(core.writes(SCTLR).iter().all(|value| value & MMU_ON != 0));
        assert_eq!(core.writes(ATS1CPR), [LOADED]);
    }
    // With the MMU off nothing is asked.
    let mut core = Core::new(A9);
    assert_eq!((core.init(), core.writes(ATS1CPR)), (End::Back, vec![]));
}

/// Erratum 643719 too: Cortex-A9 r0 says that no level is to be unified.
#[test]
fn another_core_leaves_the_level_alone_that_it_shares() {
    for clidr in [0x0220_0023, 0x0200_0023] {
        let mut core = Core::new(A7).with(MPIDR, 0x8000_0001).with(CLIDR, clidr);
        assert_eq!((core.init(), core.lines(DCISW)), (End::Back, [8, 0]));
    }
}

#[test]
fn a_core_joins_coherency_by_its_own_bits() {
    for (midr, loader, want) in [
        (A9, 0, vec![0x41]),
        // EXCL and the line of zeros, which a boot loader had with its outer cache.
        (A9, 0x8e, vec![0x47]),
        (A9, 0x47, vec![]),
        (A5, 0x80, vec![0x41]),
        (A7, 0, vec![0x40]),
        (0x413f_c0f3, 0x80, vec![0xc0]),
        // Nothing is known of its register.
        (0x512f_06f0, 0x80, vec![]),
    ] {
        let mut core = Core::new(midr).with(ACTLR, loader);
        assert_eq!((core.init(), core.writes(ACTLR)), (End::Back, want), "{midr:#x}");
    }
}

#[test]
fn the_non_secure_world_writes_nothing_of_the_secure_one() {
    let mut secure = Core::new(0x412f_c093);
    assert_eq!((secure.init(), secure.r[7]), (End::Back, 0));
    assert_eq!(secure.writes(DIAGNOSTIC), [errata::diagnostic(0x412f_c093)]);
    assert_eq!(secure.stores(), [SCU + 0x30, SCU + 0x0c, SCU]);

    let mut other = Core::new(0x412f_c093).without(SCR);
    assert_eq!((other.init(), other.r[7]), (End::Back, 1));
    assert_eq!((other.writes(DIAGNOSTIC), other.stores()), (vec![], vec![]));
    // SMP may be its to set (NSACR.NS_SMP); elsewhere the write is ignored, or undefined and skipped.
    assert_eq!(other.writes(ACTLR), [0x41]);
    let mut refused = Core::new(A9).without(SCR).without(ACTLR);
    assert_eq!((refused.init(), refused.writes(ACTLR)), (End::Back, vec![]));

    // Where QEMU says that there are no Security Extensions SCR is undefined as well, and the one world is the secure
    // one.
    let mut only = Core::new(A9).with(ID_PFR1, 1).without(SCR);
    assert_eq!((only.init(), only.r[7]), (End::Back, 0));
    assert_eq!(only.stores().len(), 3);
}

/// VBAR and ISR are the Security Extensions', which every core of the list has, whatever it says.
#[test]
fn a_core_without_the_security_extensions_is_refused_before_it_meets_their_registers() {
    const OTHER: u32 = 0x512f_06f0;
    let mut without = Core::new(OTHER).with(ID_PFR1, 0x1).without(VBAR);
    assert_eq!(without.run("core_init", &["refuse_no_security"], |_, _| {}), End::At("refuse_no_security".to_string()));
    assert_eq!(without.did, []);
    let mut with = Core::new(OTHER);
    assert_eq!((with.init(), with.writes(VBAR)), (End::Back, vec![LOADED]));
    for core in CORES_KNOWN {
        let mut known = Core::new(core.midr).with(ID_PFR1, 0x1).with([1, 9, 0, 2], 0);
        assert_eq!((known.init(), known.writes(VBAR)), (End::Back, vec![LOADED]), "{}", core.name);
    }
}

/// Erratum 764369 is Cortex-A9's, and later cores have no such unit.
#[test]
fn the_snoop_control_unit_is_turned_on_where_there_is_one() {
    for (midr, want) in [(A9, vec![SCU + 0x30, SCU + 0x0c, SCU]), (A5, vec![SCU + 0x0c, SCU]), (A7, vec![])] {
        let mut core = Core::new(midr);
        assert_eq!((core.init(), core.stores()), (End::Back, want), "{midr:#x}");
    }
    let mut alone = Core::new(A9).with(MPIDR, 0xc000_0000);
    assert_eq!((alone.init(), alone.stores()), (End::Back, vec![]));
}
