//! Every interleaving of the protocol's steps, for one line of one frame: two cores with TLB, inner and outer cache,
//! an owner, a port on the other core, a device, and an adversary that does all that the architecture permits.
//!
//! The steps, their order and their conditions come from [`carveout::protocol`], which the code executes; that it does
//! is tested here too. `docs/src/protocol.md` says what is modelled and what is found; `--nocapture` prints it.

mod model;

use carveout::dma::{Bidirectional, Holder, LOAN_PAGE, LoanPriority, Movable, Port};
use carveout::fake::Op as Logged;
use carveout::protocol::{Due, Knowledge, LineStep, MapStep, Op, Span, Transition, When};
use carveout::setup::Setup;
use carveout::vm::attr::MemoryType::NonCacheable;
use carveout::vm::ledger::Residue;
use model::{Fault, Found, INNER, Judge, Mutation, Protocol, Step, explore, narrate, step_of};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// The table as it is, with every fault judged.
const SHIPPED: Protocol = Protocol { judge: Judge::Invariants, mutation: Mutation::None, outer: true };

/// Steps that can be left out, and why they are there all the same.
const IDLE: [(Transition, Op, Step, &str); 4] = [
    (
        Transition::IntoStream,
        Op::Hold(Holder::Cpu),
        Step::Hold(Holder::Cpu),
        "for reports: a port is refused what nobody holds as it is refused what the CPU holds",
    ),
    (
        Transition::Quarantine,
        Op::Unmap,
        Step::Map(MapStep::Release, NonCacheable),
        "for the audit, which finds no mapping: the frames are never claimed again",
    ),
    (
        Transition::OpenPort,
        Op::Discard,
        Step::Line(LineStep::Wait(INNER)),
        "no line of a device's buffer is dirty; the port takes the sequence that serves where some are",
    ),
    (
        Transition::FillReserve,
        Op::Mark(Residue::Zeroed),
        Step::Mark(Residue::Zeroed),
        "what the reserve is for: without it the next owner zeroes the frame again",
    ),
];

/// Ops whose levels may come in the other order, and why.
const REVERSIBLE: [(Transition, Op, &str); 1] = [(Transition::OpenPort, Op::Discard, "as above: no line is dirty")];

/// Steps that may work on one core alone.
const LOCAL: [(Transition, MapStep, &str); 4] = [
    (Transition::IntoStream, MapStep::ForgetTable, "the core that maps is the only one that uses the mapping"),
    (Transition::IntoDevice, MapStep::ForgetTable, "as above"),
    (Transition::OpenPort, MapStep::ForgetTable, "as above, until the port is handed to another core"),
    (Transition::FillReserve, MapStep::ForgetTable, "as above; and what maps lent frames are pages, never sections"),
];

/// Ops that may change places with the next.
const COMMUTE: [(Transition, Op, &str); 11] = [
    (Transition::IntoCoherent, Op::DeviceBarrier, "no driver opens a port before the call returns that gives it leave"),
    (Transition::IntoStream, Op::Unmap, "as above"),
    (Transition::IntoDevice, Op::DeviceBarrier, "a barrier needs no mapping"),
    (Transition::IntoDevice, Op::Unmap, "no driver opens a port before the call returns"),
    (Transition::Grant, Op::DeviceBarrier, "as above"),
    (Transition::IntoContiguous, Op::Unmap, "as above"),
    (Transition::ClosePort, Op::DeviceBarrier, "a barrier needs no mapping"),
    (
        Transition::OpenNewPage,
        Op::Mark(Residue::Dirty),
        "an open page is not recalled, so nobody asks before it is closed",
    ),
    (Transition::OpenPage, Op::Mark(Residue::Dirty), "as above"),
    (Transition::FillReserve, Op::DeviceBarrier, "a barrier needs no mapping"),
    (Transition::FillReserve, Op::Unmap, "nobody gets the frame before it is idle again"),
];

const DOCUMENT: &str = include_str!("../../../../docs/src/protocol.md");

/// Prints what was found, which the document must say, line by line.
fn documented(lines: &str) {
    println!("{lines}");
    let lacks: Vec<_> = lines.lines().filter(|line| !DOCUMENT.lines().any(|known| known == *line)).collect();
    assert!(lacks.is_empty(), "docs/src/protocol.md lacks these lines:\n{}", lacks.join("\n"));
}

/// Each op of each row, with its number.
fn ops() -> impl Iterator<Item = (Transition, u8, Op)> {
    let row = |transition: Transition| (0..).zip(transition.row()).map(move |(n, &(_, op))| (transition, n, op));
    Transition::ALL.into_iter().flat_map(row)
}

/// Each step of each op, with its number.
fn steps() -> impl Iterator<Item = (Transition, u8, Op, u8, Step)> {
    let of_op = |(transition, n, op)| (0..).map_while(move |k| Some((transition, n, op, k, step_of(op, k.into())?)));
    ops().flat_map(of_op)
}

#[test]
fn the_table_is_the_documented_one() {
    let due = |&(when, op): &Due| match when {
        When::Always => format!("{op:?}"),
        when => format!("{op:?} if {when:?}"),
    };
    let row = |transition: Transition| {
        let row: Vec<_> = transition.row().iter().map(due).collect();
        format!("| {transition:?} | {} |\n", row.join(", "))
    };
    documented(&Transition::ALL.map(row).concat());
}

#[test]
fn every_interleaving_holds() {
    let mut lines = String::new();
    for judge in [Judge::Invariants, Judge::Careless] {
        for outer in [true, false] {
            let model = Protocol { judge, outer, ..SHIPPED };
            let found = explore(model);
            if let Some(path) = &found.path {
                panic!("{model:?}\n{}", narrate(model, path));
            }
            let caches = if outer { "inner and outer" } else { "inner" };
            let Found { states, transitions, depth, .. } = found;
            writeln!(lines, "| {judge:?} | {caches} | {states} | {transitions} | {depth} |").expect("a string");
        }
    }
    documented(&lines);
}

/// Whether a change of the table goes wrong: by the invariants, or else with a careless driver. Prints the shortest
/// trace to it and, where that is longer, to what a program sees of it.
fn goes_wrong(what: &str, mutation: Mutation) -> bool {
    let print = |judge| {
        let model = Protocol { judge, mutation, ..SHIPPED };
        let path = explore(model).path?;
        let (fault, actions) = (path.last_state().fault?, path.clone().into_actions().len());
        println!("{what}: {judge:?}: {fault:?} after {actions} actions\n{}", narrate(model, &path));
        Some(fault)
    };
    match print(Judge::Invariants) {
        Some(Fault::I1 | Fault::I3Line | Fault::I4) => print(Judge::Consequences).is_some(),
        Some(_) => true,
        None => print(Judge::Careless).is_some(),
    }
}

/// The sample in the document.
const SAMPLE: Mutation = Mutation::Drop(Transition::ForDevice, 0, 1);

#[test]
fn every_step_is_necessary() {
    let mut idle = Vec::new();
    let mut count = 0;
    for (transition, n, op, k, step) in steps() {
        count += 1;
        if !goes_wrong(&format!("{transition:?} without {op:?}: {step:?}"), Mutation::Drop(transition, n, k)) {
            idle.push((transition, op, step));
        }
    }
    assert_eq!(idle, IDLE.map(|(transition, op, step, _)| (transition, op, step)), "left out without harm");
    documented(&format!("Of {count} steps, {} go wrong when left out.", count - idle.len()));
    let model = Protocol { mutation: SAMPLE, ..SHIPPED };
    let found = explore(model);
    documented(&narrate(model, &found.path.expect("a trace")));
}

#[test]
fn every_core_and_every_order_is_necessary() {
    let broadcast = |step: &Step| {
        let map = [MapStep::ForgetTable, MapStep::InvalidateTlb];
        let line = [LineStep::Clean(INNER), LineStep::Invalidate(INNER)];
        matches!(step, Step::Map(step, _) if map.contains(step))
            || matches!(step, Step::Line(step) if line.contains(step))
    };
    let mut local = Vec::new();
    for (transition, n, op, k, step) in steps().filter(|(.., step)| broadcast(step)) {
        let what = format!("{transition:?} with {op:?}: {step:?} on one core");
        if !goes_wrong(&what, Mutation::Local(transition, n, k)) {
            local.push((transition, step));
        }
    }
    assert_eq!(local, LOCAL.map(|(transition, step, _)| (transition, Step::Map(step, NonCacheable))));

    let mut reversible = Vec::new();
    for (transition, n, op) in ops().filter(|(.., op)| matches!(op, Op::Clean | Op::Invalidate | Op::Discard)) {
        if !goes_wrong(&format!("{transition:?} with {op:?} reversed"), Mutation::Reverse(transition, n)) {
            reversible.push((transition, op));
        }
    }
    assert_eq!(reversible, REVERSIBLE.map(|(transition, op, _)| (transition, op)));

    let mut commute = Vec::new();
    for (transition, n, op) in ops().filter(|(transition, n, _)| usize::from(*n) + 1 < transition.row().len()) {
        if !goes_wrong(&format!("{transition:?} with {op:?} after the next"), Mutation::Swap(transition, n)) {
            commute.push((transition, op));
        }
    }
    assert_eq!(commute, COMMUTE.map(|(transition, op, _)| (transition, op)));
}

/// Follows a buffer by the table alone, and says what the fake should have logged.
struct Follower<'s> {
    setup: &'s Setup,
    knows: Knowledge,
    /// Its mappings are sections.
    section: bool,
    done: BTreeSet<(Transition, usize)>,
}

impl Follower<'_> {
    /// After the code went through these transitions: what it did is what the table says.
    fn check(&mut self, transitions: &[Transition]) {
        let mut knows = self.knows;
        self.check_from(&mut knows, transitions);
        self.knows = knows;
    }

    fn check_from(&mut self, knows: &mut Knowledge, transitions: &[Transition]) {
        let mut expected = String::new();
        for &transition in transitions {
            for (n, &(when, op)) in transition.row().iter().enumerate() {
                if !knows.due(when) {
                    continue;
                }
                self.done.insert((transition, n));
                match op {
                    Op::Clean => expected.push('C'),
                    Op::Invalidate | Op::Discard => expected.push('I'),
                    Op::DeviceBarrier => expected.push('B'),
                    Op::Map(_) | Op::Unmap | Op::Zero | Op::Hold(_) | Op::Mark(_) => {}
                }
                for step in (0..).map_while(|k| step_of(op, k)) {
                    match step {
                        Step::Map(MapStep::Publish, _) => expected.push('P'),
                        Step::Map(MapStep::InvalidateTlb, _) => expected.push('T'),
                        Step::Map(MapStep::ForgetTable, _) if self.section => expected.push('T'),
                        _ => {}
                    }
                }
                *knows = knows.after(op);
            }
        }
        let letter = |op: &Logged| match op {
            Logged::Publish => 'P',
            Logged::InvalidateTlb => 'T',
            Logged::Clean(_) => 'C',
            Logged::Invalidate(_) => 'I',
            Logged::Barrier => 'B',
        };
        let logged: String = self.setup.fake.take_log().iter().map(letter).collect();
        assert_eq!(logged, expected, "{transitions:?}");
    }

    /// Every op of these transitions was gone through.
    fn complete(&self, of: impl Fn(&Transition) -> bool) {
        let missing =
            ops().filter(|(transition, n, _)| of(transition) && !self.done.contains(&(*transition, (*n).into())));
        let missing: Vec<_> = missing.collect();
        assert!(missing.is_empty(), "not gone through: {missing:?}");
    }
}

/// Those that are no buffer's.
const OF_LOANS: [Transition; 4] =
    [Transition::OpenNewPage, Transition::OpenPage, Transition::ClosePage, Transition::FillReserve];

/// A buffer goes through every op of every transition: the code does what the table says, on pages and on a section.
#[test]
fn the_code_follows_the_table() {
    for (bytes, align, section) in [(3 * 4096, 1, false), (1 << 20, 1 << 20, true)] {
        let s = Setup::new(1);
        let all = Span { start: 0, end: bytes };
        let master = s.master("device");
        let alloc = || s.dma.alloc(&master, bytes, align).unwrap();
        // SAFETY: the test keeps a device's promise: a port is closed before its buffer changes hands.
        let port = unsafe { Port::new(s.dma, s.master("device")) };
        let use_port = |table: &mut Follower<'_>, bus| {
            let mut knows = Knowledge::new(table.knows.residue);
            let opened = port.open(bus, bytes).unwrap();
            table.check_from(&mut knows, &[Transition::OpenPort]);
            drop(opened);
            table.check_from(&mut knows, &[Transition::ClosePort]);
        };
        let mut table = Follower { setup: &s, knows: Knowledge::new(Residue::Nothing), section, done: BTreeSet::new() };
        s.fake.take_log();

        let coherent = alloc().into_coherent();
        table.check(&[Transition::IntoCoherent]);
        coherent.device_barrier();
        table.check(&[Transition::Tell]);
        // SAFETY: no device was told.
        let contiguous = unsafe { coherent.release() };
        table.check(&[Transition::IntoContiguous]);

        let mut stream = contiguous.into_stream::<Bidirectional>();
        table.check(&[Transition::IntoStream]);
        for turn in 1..3 {
            let owned = stream.for_device();
            table.check(&[Transition::ForDevice, Transition::Grant]);
            use_port(&mut table, owned.bus());
            // SAFETY: the port is closed.
            stream = unsafe { owned.for_cpu() };
            table.knows = table.knows.device_wrote(all);
            table.check(&[Transition::ForCpu]);
            stream.bytes_mut().fill(turn);
            table.check(&[Transition::Look]);
            table.knows = table.knows.writable(all);
        }
        let contiguous = stream.into_contiguous();
        table.check(&[Transition::IntoContiguous]);
        let only = contiguous.into_device();
        table.check(&[Transition::IntoDevice]);
        // SAFETY: no device was told.
        let contiguous = unsafe { only.release() };
        table.check(&[Transition::IntoContiguous]);

        let stream = contiguous.into_stream::<Bidirectional>();
        table.check(&[Transition::IntoStream]);
        stream.bytes();
        table.check(&[Transition::Look]);
        let contiguous = stream.into_contiguous();
        table.check(&[Transition::IntoContiguous]);
        let stream = contiguous.into_stream::<Bidirectional>();
        table.check(&[Transition::IntoStream]);
        stream.bytes();
        table.check(&[Transition::Look]);
        drop(stream);
        table.check(&[Transition::Free]);

        table.knows = Knowledge::new(Residue::Clean);
        let coherent = alloc().into_coherent();
        table.check(&[Transition::IntoCoherent]);
        coherent.bus();
        drop(coherent);
        table.check(&[Transition::Quarantine]);
        table.complete(|transition| !OF_LOANS.contains(transition));
    }
}

/// A page is opened in each way there is, given back, zeroed for the reserve and allocated; another is moved.
#[test]
fn loans_and_the_reserve_follow_the_table() {
    const FRAME: u32 = LOAN_PAGE as u32;
    let new = |s, residue| Follower { setup: s, knows: Knowledge::new(residue), section: false, done: BTreeSet::new() };
    let s = Setup::with_area(1, 4 * FRAME);
    let area = s.dma.area("test").unwrap();
    let store = s.dma.borrower::<Movable>(area, "store", 1, LoanPriority::Low).unwrap();
    let loan = store.borrow(1).unwrap();
    s.fake.take_log();
    let mut table = new(&s, Residue::Nothing);
    store.write(loan, 0, 17, b"part").unwrap();
    table.check(&[Transition::OpenNewPage, Transition::ClosePage]);
    store.read(loan, 0, 17, &mut [0; 4]).unwrap();
    table.check(&[Transition::OpenPage, Transition::ClosePage]);
    store.write(loan, 0, 0, &[1; LOAN_PAGE]).unwrap();
    table.check(&[Transition::OpenPage, Transition::ClosePage]);
    store.give_back(loan).unwrap();
    table.check(&[]);

    // The frame that was lent has lines; none has any afterwards, and all are zeroed.
    table.knows = Knowledge::new(Residue::Dirty);
    s.dma.set_reserve(area, (4 * FRAME).into());
    assert_eq!(s.dma.idle_work(area, 4), 4);
    table.check(&[Transition::FillReserve]);
    let coherent = s.dma.alloc(&s.master("device"), 4 * FRAME, 1).unwrap().into_coherent();
    table.check(&[Transition::IntoCoherent]);
    assert_eq!(coherent.read_at(0, &mut [1; LOAN_PAGE]), LOAN_PAGE);
    table.complete(|transition| OF_LOANS.contains(transition));

    // A page in the second frame of four: no three frames do without it, and one is left to move it to.
    let s = Setup::with_area(1, 4 * FRAME);
    let area = s.dma.area("test").unwrap();
    let store = s.dma.borrower::<Movable>(area, "store", 1, LoanPriority::Low).unwrap();
    let first = s.dma.alloc(&s.master("device"), FRAME, 1).unwrap();
    let loan = store.borrow(1).unwrap();
    store.write(loan, 0, 0, &[7; LOAN_PAGE]).unwrap();
    drop(first);
    s.fake.take_log();
    let mut table = new(&s, Residue::Dirty);
    let contiguous = s.dma.alloc(&s.master("device"), 3 * FRAME, 1).unwrap();
    table.check(&[Transition::OpenPage, Transition::OpenPage, Transition::ClosePage, Transition::ClosePage]);
    table.knows = Knowledge::new(Residue::Dirty);
    let coherent = contiguous.into_coherent();
    table.check(&[Transition::IntoCoherent]);
    let stats = store.stats();
    assert_eq!((stats.moved, stats.in_area), (1, 1));
    let mut byte = [0];
    store.read(loan, 0, LOAN_PAGE - 1, &mut byte).unwrap();
    assert_eq!(byte, [7]);
    drop(coherent);
}
