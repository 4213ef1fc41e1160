//! Handles in place of values, streams whose direction is a value, and what both rest on: a buffer's addresses do not
//! change while it lives (I1, I4).

use carveout::addr::{BusAddr, FrameRange, PhysAddr, VirtAddr};
use carveout::dma::{
    Aperture, Bidirectional, BufferState, Coherent, Contiguous, ContractSet, Cpu, DataDirection, Device, DeviceOnly,
    DirectionError, Discardable, Dma, FaultPlace, FromDevice, Handle, HandleError, LoanPriority, Port, Stream,
    ToDevice,
};
use carveout::fake::Fake;
use carveout::setup::{CARVED, Setup};
use proptest::prelude::*;
use std::collections::HashMap;

type Cpus = Stream<Fake, DataDirection, Cpu>;
type Devices = Stream<Fake, DataDirection, Device>;

const DIRECTIONS: [DataDirection; 3] =
    [DataDirection::ToDevice, DataDirection::FromDevice, DataDirection::Bidirectional];

/// A buffer as a value, in whatever state.
#[derive(Debug)]
enum Value {
    Contiguous(Contiguous<Fake>),
    Coherent(Coherent<Fake>),
    Cpu(Cpus),
    Device(Devices),
    Only(DeviceOnly<Fake>),
}

impl Value {
    fn into_raw(self) -> Handle {
        match self {
            Self::Contiguous(buffer) => buffer.into_raw(),
            Self::Coherent(buffer) => buffer.into_raw(),
            Self::Cpu(stream) => stream.into_raw(),
            Self::Device(stream) => stream.into_raw(),
            Self::Only(buffer) => buffer.into_raw(),
        }
    }

    fn from_raw(dma: &'static Dma<Fake>, handle: Handle, state: BufferState) -> Result<Self, HandleError> {
        Ok(match state {
            BufferState::Contiguous => Self::Contiguous(Contiguous::from_raw(dma, handle)?),
            BufferState::Coherent => Self::Coherent(Coherent::from_raw(dma, handle)?),
            BufferState::CpuStream => Self::Cpu(Cpus::from_raw(dma, handle)?),
            BufferState::DeviceStream => Self::Device(Devices::from_raw(dma, handle)?),
            BufferState::DeviceOnly => Self::Only(DeviceOnly::from_raw(dma, handle)?),
        })
    }

    fn state(&self) -> (BufferState, Option<DataDirection>) {
        match self {
            Self::Contiguous(_) => (BufferState::Contiguous, None),
            Self::Coherent(_) => (BufferState::Coherent, None),
            Self::Cpu(stream) => (BufferState::CpuStream, Some(stream.direction())),
            Self::Device(stream) => (BufferState::DeviceStream, Some(stream.direction())),
            Self::Only(_) => (BufferState::DeviceOnly, None),
        }
    }

    fn frames(&self) -> FrameRange {
        match self {
            Self::Contiguous(buffer) => buffer.frames(),
            Self::Coherent(buffer) => buffer.frames(),
            Self::Cpu(stream) => stream.frames(),
            Self::Device(stream) => stream.frames(),
            Self::Only(buffer) => buffer.frames(),
        }
    }

    /// Takes the buffer back from whoever may have it: the fake's devices are done when their calls return.
    fn into_contiguous(self) -> Contiguous<Fake> {
        match self {
            Self::Contiguous(buffer) => buffer,
            // SAFETY: no device access is under way (I4).
            Self::Coherent(buffer) => unsafe { buffer.release() },
            Self::Cpu(stream) => stream.into_contiguous(),
            // SAFETY: as above.
            Self::Device(stream) => unsafe { stream.for_cpu() }.into_contiguous(),
            // SAFETY: as above.
            Self::Only(buffer) => unsafe { buffer.release() },
        }
    }

    /// Moves the buffer on, to another state or another owner.
    fn moved_on(self, choice: usize) -> Self {
        match (self, choice % 5) {
            (Self::Cpu(stream), 0..3) => Self::Device(stream.for_device()),
            // SAFETY: no device access is under way (I4).
            (Self::Device(stream), 0..3) => Self::Cpu(unsafe { stream.for_cpu() }),
            (value, 0) => Self::Contiguous(value.into_contiguous()),
            (value, 1) => Self::Coherent(value.into_contiguous().into_coherent()),
            (value, 2) => Self::Only(value.into_contiguous().into_device()),
            (value, choice) => Self::Cpu(value.into_contiguous().into_stream_of(DIRECTIONS[choice % DIRECTIONS.len()])),
        }
    }

    /// Returns the addresses at which the CPU and the device find the buffer now, as far as the value tells.
    fn addresses(&mut self) -> (Option<usize>, Option<BusAddr>) {
        match self {
            Self::Contiguous(_) => (None, None),
            Self::Coherent(buffer) => (Some(buffer.as_ptr().as_ptr().addr()), Some(buffer.bus())),
            Self::Cpu(stream) => (Some(stream.bytes().as_ptr().addr()), Some(stream.future_bus())),
            Self::Device(stream) => (None, Some(stream.bus())),
            Self::Only(buffer) => (None, Some(buffer.bus())),
        }
    }
}

#[test]
fn each_state_is_taken_out_as_it_was_put_away_and_as_no_other() {
    use BufferState::{Coherent as Shared, Contiguous as Fresh, CpuStream, DeviceOnly as Only, DeviceStream};
    let setup = Setup::new(1);
    let (dma, master) = (setup.dma, setup.master("codec"));
    let states = [Fresh, Shared, CpuStream, DeviceStream, Only];
    let fresh = || dma.alloc(&master, 4096, 1).unwrap();
    for (n, wanted) in states.into_iter().enumerate() {
        let value = match wanted {
            Fresh => Value::Contiguous(fresh()),
            Shared => Value::Coherent(fresh().into_coherent()),
            CpuStream => Value::Cpu(fresh().into_stream_of(DIRECTIONS[n % 3])),
            DeviceStream => Value::Device(fresh().into_stream_of(DIRECTIONS[n % 3]).for_device()),
            Only => Value::Only(fresh().into_device()),
        };
        let (known, frames) = (value.state(), value.frames());
        let handle = value.into_raw();
        assert_eq!(Handle::from_bits(handle.to_bits()), Some(handle));
        for other in states.into_iter().filter(|&other| other != wanted) {
            let error = Value::from_raw(dma, handle, other).unwrap_err();
            assert_eq!(error, HandleError::State { handle, has: wanted, wanted: other });
        }
        let record = dma.raw_record(handle).unwrap();
        assert_eq!(((record.state, record.direction), record.record.frames), (known, frames));
        let value = Value::from_raw(dma, handle, wanted).unwrap();
        assert_eq!((value.state(), value.frames()), (known, frames));
        assert_eq!(Value::from_raw(dma, handle, wanted).unwrap_err(), HandleError::Taken { handle });
        assert_eq!(dma.raw_record(handle).unwrap_err(), HandleError::Taken { handle });
        // One name while it lives, in whatever state.
        let handle_of_next = value.moved_on(n).into_raw();
        assert_eq!(handle_of_next, handle);
        let state = dma.raw_record(handle).unwrap().state;
        drop(Value::from_raw(dma, handle, state).unwrap().into_contiguous());
        for state in states {
            assert_eq!(Value::from_raw(dma, handle, state).unwrap_err(), HandleError::Stale { handle });
        }
    }
    assert!(dma.retire(&master).is_ok());
}

#[test]
fn a_handle_is_of_one_buffer_of_one_machine() {
    let (here, there) = (Setup::new(2), Setup::new(2));
    let alloc = |setup: &Setup| setup.dma.alloc(&setup.master("codec"), 4096, 1).unwrap();
    let (mine, theirs) = (alloc(&here).into_raw(), alloc(&there).into_raw());
    assert_eq!(Contiguous::from_raw(here.dma, theirs).unwrap_err(), HandleError::Foreign { handle: theirs });
    // The next buffer has its place and its frames, and another name.
    let first = Contiguous::from_raw(here.dma, mine).unwrap();
    let frames = first.frames();
    drop(first);
    let next = alloc(&here);
    assert_eq!(next.frames(), frames);
    let next = next.into_raw();
    assert_ne!(next, mine);
    assert_eq!(Contiguous::from_raw(here.dma, mine).unwrap_err(), HandleError::Stale { handle: mine });
    drop(Contiguous::from_raw(here.dma, next).unwrap());
    // Whatever number C comes along with.
    for bits in [1, u64::MAX, mine.to_bits() ^ 1, mine.to_bits() ^ 1 << 40] {
        let handle = Handle::from_bits(bits).unwrap();
        let error = Coherent::from_raw(here.dma, handle).unwrap_err();
        assert!(matches!(error, HandleError::Foreign { .. } | HandleError::Stale { .. }), "{bits:#x}: {error}");
    }
    assert_eq!(Handle::from_bits(0), None);
}

/// I4: what a device may still reach is not freed, whoever drops it.
#[test]
fn a_device_s_buffer_that_was_taken_out_and_dropped_is_quarantined() {
    let setup = Setup::new(3);
    let handle = setup.dma.alloc(&setup.master("codec"), 4096, 1).unwrap().into_stream::<ToDevice>().for_device();
    let handle = handle.into_raw();
    // Put away, it is its device's for as long as that takes.
    assert_eq!((setup.dma.next_quarantined(), setup.dma.stats().quarantined), (None, 0));
    drop(Devices::from_raw(setup.dma, handle).unwrap());
    assert_eq!(setup.dma.stats().quarantined, 4096);
    assert_eq!(Devices::from_raw(setup.dma, handle).unwrap_err(), HandleError::Quarantined { handle });
}

#[test]
fn refusals_are_one_clear_line() {
    let handle = Handle::from_bits(0x40_0403).unwrap();
    let (has, wanted) = (DataDirection::FromDevice, DataDirection::ToDevice);
    let lines = [
        HandleError::Foreign { handle },
        HandleError::Stale { handle },
        HandleError::Taken { handle },
        HandleError::Quarantined { handle },
        HandleError::State { handle, has: BufferState::DeviceStream, wanted: BufferState::Coherent },
        HandleError::Direction { handle, error: DirectionError::Other { has, wanted } },
        HandleError::Direction { handle, error: DirectionError::ReadOnly { has } },
    ];
    let expected = [
        " is another `Dma`'s: ask the one that it came from",
        " names no buffer: its own was freed",
        ": somebody has its buffer as a value, who must put it away first",
        ": its buffer was dropped while a device could reach it, and is lost until reset",
        ": its buffer is a stream of a device, and was named as coherent",
        ": a stream from the device was named as one to the device: use its own direction",
        ": a stream from the device is not written by the CPU: its views are read-only",
    ];
    for (error, expected) in lines.iter().zip(expected) {
        assert_eq!(error.to_string(), format!("handle 0x0000000000400403{expected}"));
    }
}

#[test]
fn a_direction_is_a_type_or_a_value_and_one_becomes_the_other() {
    let setup = Setup::new(4);
    let (dma, master) = (setup.dma, setup.master("codec"));
    let stream = dma.alloc(&master, 4096, 1).unwrap().into_stream::<FromDevice>();
    let mut stream = stream.untyped();
    let has = DataDirection::FromDevice;
    assert_eq!(stream.direction(), has);
    assert_eq!(stream.try_bytes_mut().unwrap_err(), DirectionError::ReadOnly { has });
    assert_eq!(stream.try_part_mut(0..1).unwrap_err(), DirectionError::ReadOnly { has });
    let (error, stream) = stream.typed::<Bidirectional>().unwrap_err();
    assert_eq!(error, DirectionError::Other { has, wanted: DataDirection::Bidirectional });
    let handle = stream.into_raw();
    let error = Stream::<Fake, ToDevice, Cpu>::from_raw(dma, handle).unwrap_err();
    let other = DirectionError::Other { has, wanted: DataDirection::ToDevice };
    assert_eq!(error, HandleError::Direction { handle, error: other });
    let stream = Stream::<Fake, FromDevice, Cpu>::from_raw(dma, handle).unwrap();
    assert_eq!(stream.bytes()[0], 0);
    let mut written = dma.alloc(&master, 4096, 1).unwrap().into_stream_of(DataDirection::ToDevice);
    written.try_bytes_mut().unwrap().fill(7);
    assert_eq!(written.try_part_mut(4095..4097), Ok(None));
    let mut written = written.typed::<ToDevice>().unwrap();
    written.part_mut(1..2).unwrap().fill(8);
    let owned = written.for_device();
    assert_eq!(setup.fake.device_read(PhysAddr::new(owned.bus().raw()), 3), [7, 8, 7]);
    // SAFETY: the fake's device is done (I4).
    drop(unsafe { owned.for_cpu() });
}

/// I3: with a value for a type the same operations come, in the same order.
#[test]
fn a_direction_that_is_a_value_goes_through_the_same_protocol() {
    fn turns<D: carveout::dma::Direction>(
        setup: &Setup,
        mut stream: Stream<Fake, D, Cpu>,
        write: impl Fn(&mut Stream<Fake, D, Cpu>),
    ) -> Vec<carveout::fake::Op> {
        setup.fake.take_log();
        for _ in 0..3 {
            write(&mut stream);
            let owned = stream.for_device();
            let at = PhysAddr::new(owned.bus().raw());
            setup.fake.device_read(at, 64);
            if owned.direction().device_writes() {
                setup.fake.device_write(at, &[3; 64]);
            }
            // SAFETY: the fake's device is done (I4).
            stream = unsafe { owned.for_cpu() };
            let _ = stream.bytes();
        }
        setup.fake.take_log()
    }
    let new = |setup: &Setup| setup.dma.alloc(&setup.master("codec"), 9000, 1).unwrap();
    for direction in DIRECTIONS {
        let setup = Setup::new(5);
        let by_value = turns(&setup, new(&setup).into_stream_of(direction), |stream| {
            if let Ok(bytes) = stream.try_bytes_mut() {
                bytes.fill(1);
            }
        });
        let setup = Setup::new(5);
        let by_type = match direction {
            DataDirection::ToDevice => turns(&setup, new(&setup).into_stream::<ToDevice>(), |s| s.bytes_mut().fill(1)),
            DataDirection::FromDevice => turns(&setup, new(&setup).into_stream::<FromDevice>(), |_| ()),
            DataDirection::Bidirectional => {
                turns(&setup, new(&setup).into_stream::<Bidirectional>(), |s| s.bytes_mut().fill(1))
            }
        };
        assert_eq!(by_value, by_type, "{direction}");
        assert!(!by_value.is_empty());
    }
}

#[test]
fn a_descriptor_is_written_before_the_hand_over() {
    let setup = Setup::new(6);
    let shifted = Aperture { bus: BusAddr::new(0x8000_0000), phys: CARVED, bytes: 4 << 20 };
    let gem = setup.master("ethernet").with_apertures(&[shifted]).unwrap();
    let mut ring = setup.dma.alloc(&gem, 4096, 1).unwrap().into_coherent();
    let packet = setup.dma.alloc(&gem, 2048, 1).unwrap().into_stream::<ToDevice>();
    ring.write_word(0, packet.future_bus().raw());
    let packet = packet.for_device();
    assert_eq!(ring.read_word::<u32>(0), packet.bus().raw());
    // It is found by that address once it is put away, and by its frames' own address not.
    let handle = packet.into_raw();
    let bus = BusAddr::new(ring.read_word(0));
    assert_eq!(setup.dma.handle_on_bus(&gem, bus), Some(handle));
    assert_eq!(setup.dma.handle_on_bus(&gem, bus.checked_add(1).unwrap()), None);
    assert_eq!(setup.dma.handle_on_bus(&setup.master("other"), bus), None);
    assert_eq!(setup.dma.raw_record(handle).unwrap().bus, bus);
    // SAFETY: the fake's device is done (I4).
    drop(unsafe { Stream::<_, ToDevice, Device>::from_raw(setup.dma, handle).unwrap().for_cpu() });
}

/// What is known of a buffer in the walk below.
#[derive(Debug, Default)]
struct Known {
    cpu: Option<usize>,
    va: Option<VirtAddr>,
    bus: Option<BusAddr>,
}

impl Known {
    /// Compares an address with the one known before, if both are known.
    fn agree<T: PartialEq + Copy + core::fmt::Debug>(known: &mut Option<T>, now: Option<T>) {
        if let (Some(known), Some(now)) = (*known, now) {
            assert_eq!(known, now, "an address of a buffer changed while it lives");
        }
        *known = known.or(now);
    }
}

fn record_va(dma: &Dma<Fake>, frames: FrameRange) -> Option<VirtAddr> {
    let Some(FaultPlace::Buffer(record)) = dma.place_of_frame(frames.iter().next().unwrap()) else {
        panic!("no buffer at {frames}");
    };
    record.va
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Random walks of many buffers, as values and under handles, beside loans, contracts and ports. The naive model
    /// keeps for each buffer its handle and the addresses that were ever seen.
    #[test]
    fn a_buffer_keeps_its_handle_and_its_addresses(
        seed in any::<u64>(),
        steps in prop::collection::vec((0usize..12, any::<u16>(), any::<u8>()), 1..120),
    ) {
        let setup = Setup::with_area(seed, 64 << 12);
        let (dma, master) = (setup.dma, setup.master("codec"));
        let area = dma.area("test").unwrap();
        let set = ContractSet { count: 2, bytes: 3 << 12, align: 1 };
        let contract = dma.contract(&master, &[set]).unwrap();
        let cache = dma.borrower::<Discardable>(area, "cache", 32, LoanPriority::Low).unwrap();
        // SAFETY: a port is closed before its buffer changes hands (I4).
        let port = unsafe { Port::new(dma, master.clone()) };
        let mut values: Vec<(Value, Known)> = Vec::new();
        let mut away: Vec<(Handle, BufferState, Option<DataDirection>, FrameRange, Known)> = Vec::new();
        let mut dead: Vec<Handle> = Vec::new();
        let mut names: HashMap<FrameRange, Handle> = HashMap::new();
        for (what, choice, more) in steps {
            let choice = usize::from(choice);
            let pick = |len: usize| (len > 0).then(|| choice % len);
            match what {
                0 | 1 => {
                    let bytes = 1 + u32::from(more) % 4 * 4096;
                    let new = if what == 0 { dma.alloc(&master, bytes, 1) } else { contract.alloc(bytes, 1) };
                    if let Ok(buffer) = new {
                        names.remove(&buffer.frames());
                        values.push((Value::Contiguous(buffer), Known::default()));
                    }
                }
                2..5 => if let Some(n) = pick(values.len()) {
                    let (value, known) = values.swap_remove(n);
                    values.push((value.moved_on(more.into()), known));
                },
                5 | 6 => if let Some(n) = pick(values.len()) {
                    let (value, known) = values.swap_remove(n);
                    let ((state, direction), frames) = (value.state(), value.frames());
                    let handle = value.into_raw();
                    prop_assert_eq!(*names.entry(frames).or_insert(handle), handle);
                    prop_assert!(!dead.contains(&handle));
                    away.push((handle, state, direction, frames, known));
                },
                7 | 8 => if let Some(n) = pick(away.len()) {
                    let (handle, state, direction, frames, known) = away.swap_remove(n);
                    let value = Value::from_raw(dma, handle, state).unwrap();
                    prop_assert_eq!((value.state(), value.frames()), ((state, direction), frames));
                    prop_assert!(Value::from_raw(dma, handle, state).is_err());
                    values.push((value, known));
                },
                9 => if let Some(n) = pick(values.len()) {
                    let (value, _) = values.swap_remove(n);
                    let frames = value.frames();
                    drop(value.into_contiguous());
                    dead.extend(names.remove(&frames));
                },
                10 => {
                    for (value, _) in &values {
                        match value {
                            Value::Device(stream) => drop(port.open(stream.bus(), 1)),
                            Value::Only(buffer) => drop(port.open(buffer.bus(), 1)),
                            _ => {}
                        }
                    }
                }
                _ => {
                    let _ = cache.borrow(u32::from(more) % 16 + 1);
                }
            }
            for (value, known) in &mut values {
                let (cpu, bus) = value.addresses();
                Known::agree(&mut known.cpu, cpu);
                Known::agree(&mut known.bus, bus);
                Known::agree(&mut known.va, record_va(dma, value.frames()));
                prop_assert_eq!(known.va, record_va(dma, value.frames()), "an address is kept in every state");
            }
            for &(handle, state, direction, frames, ref known) in &away {
                let record = dma.raw_record(handle).unwrap();
                prop_assert_eq!((record.state, record.direction, record.record.frames), (state, direction, frames));
                prop_assert_eq!(record.record.va, known.va);
                prop_assert_eq!(dma.handle_on_bus(&master, record.bus), Some(handle));
                prop_assert!(known.bus.is_none_or(|bus| bus == record.bus));
                if let Some(va) = known.va {
                    prop_assert_eq!(dma.handle_at(va), Some(handle));
                }
            }
            for (value, known) in &values {
                // A value is under no handle, whatever address one names.
                let bus = master.bus(value.frames().base()).unwrap();
                prop_assert_eq!(dma.handle_on_bus(&master, bus), None);
                prop_assert_eq!(known.va.and_then(|va| dma.handle_at(va)), None);
            }
            for &handle in &dead {
                prop_assert_eq!(dma.raw_record(handle), Err(HandleError::Stale { handle }));
            }
            prop_assert!(setup.audit().is_ok());
        }
        // What is left is taken back, so that nothing counts as lost.
        for (value, _) in values {
            drop(value.into_contiguous());
        }
        for (handle, state, ..) in away {
            drop(Value::from_raw(dma, handle, state).unwrap().into_contiguous());
        }
        drop(contract);
        prop_assert_eq!(setup.free_bytes(), 64 << 12);
        prop_assert_eq!(dma.stats().quarantined, 0);
    }
}
