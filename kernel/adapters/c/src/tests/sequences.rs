//! Random calls against a naive model of what each must answer: right ones, and all kinds of wrong ones.
//!
//! The model knows each buffer's kind, owner and size. It knows neither addresses nor how memory is mapped or
//! maintained; the fake machine judges that (I1 to I5).

use super::*;
use crate::buffer::*;
use crate::report::{Room, carveout_area_room};
use carveout::addr::PhysAddr;
use proptest::prelude::*;
use std::vec::Vec;

/// What a call may name wrongly.
#[derive(Clone, Copy, Debug)]
enum Twist {
    Nothing,
    OtherDevice,
    Size,
    CpuAddress,
    BusAddress,
    Identity,
    Direction,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Coherent,
    Stream(u32),
    DeviceOnly,
}

#[derive(Clone, Copy, Debug)]
enum Call {
    Alloc(Kind, usize),
    Free(usize, Kind, Twist),
    ForDevice(usize, Twist),
    ForCpu(usize, Twist),
    Quarantine(usize),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Cpu,
    Device,
    Lost,
    Freed,
}

/// A buffer as the model has it.
struct Buffer {
    kind: Kind,
    size: usize,
    at: *mut c_void,
    handle: DmaHandle,
    state: State,
    /// What the CPU or the device wrote last.
    mark: u8,
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Coherent), (0..3u32).prop_map(Kind::Stream), Just(Kind::DeviceOnly)]
}

fn twists() -> impl Strategy<Value = Twist> {
    prop_oneof![
        8 => Just(Twist::Nothing),
        1 => Just(Twist::OtherDevice),
        1 => Just(Twist::Size),
        1 => Just(Twist::CpuAddress),
        1 => Just(Twist::BusAddress),
        1 => Just(Twist::Identity),
        1 => Just(Twist::Direction),
    ]
}

fn calls() -> impl Strategy<Value = Call> {
    prop_oneof![
        4 => (kinds(), 1..20_000usize).prop_map(|(kind, size)| Call::Alloc(kind, size)),
        3 => (0..64usize, kinds(), twists()).prop_map(|(n, kind, twist)| Call::Free(n, kind, twist)),
        4 => (0..64usize, twists()).prop_map(|(n, twist)| Call::ForDevice(n, twist)),
        4 => (0..64usize, twists()).prop_map(|(n, twist)| Call::ForCpu(n, twist)),
        1 => (0..64usize).prop_map(Call::Quarantine),
    ]
}

/// A call's arguments, and what of them is wrong.
struct Arguments {
    dev: Device,
    size: usize,
    at: *mut c_void,
    handle: DmaHandle,
    dir: u32,
}

impl Buffer {
    fn named(&self, twist: Twist) -> Arguments {
        let dir = if let Kind::Stream(dir) = self.kind { dir } else { 0 };
        let mut named = Arguments { dev: device(c"camera"), size: self.size, at: self.at, handle: self.handle, dir };
        match twist {
            Twist::Nothing => {}
            Twist::OtherDevice => named.dev = device(c"codec"),
            Twist::Size => named.size += 1,
            Twist::CpuAddress => named.at = named.at.wrapping_byte_add(4096),
            Twist::BusAddress => named.handle.addr += 4096,
            Twist::Identity => named.handle.id ^= 1 << 50,
            Twist::Direction => named.dir = (named.dir + 1) % 3,
        }
        named
    }

    /// Returns what every call that names it answers, if it refuses by the name alone.
    fn by_name(&self, twist: Twist) -> Option<Error> {
        match (self.state, twist) {
            (_, Twist::Identity) | (State::Freed, _) => Some(Error::Stale),
            (State::Lost, _) => Some(Error::Quarantined),
            (_, Twist::OtherDevice) => Some(Error::OtherDevice),
            (_, Twist::BusAddress) => Some(Error::Address),
            _ => None,
        }
    }

    /// Returns what a call for streams answers, if it refuses by the direction.
    fn by_direction(&self, twist: Twist) -> Option<Error> {
        match (self.kind, twist) {
            (Kind::Stream(_), Twist::Direction) => Some(Error::Direction),
            (Kind::Stream(_), _) => None,
            _ => Some(Error::Kind),
        }
    }

    fn free(&self, as_kind: Kind, twist: Twist) -> (Error, Error) {
        let named = self.named(twist);
        let Arguments { dev, size, at, handle, dir } = named;
        let dev = Some(&dev);
        let by_name = self.by_name(twist);
        let by_size = matches!(twist, Twist::Size).then_some(Error::Size);
        let by_address = matches!(twist, Twist::CpuAddress).then_some(Error::Address);
        let by_kind = (core::mem::discriminant(&as_kind) != core::mem::discriminant(&self.kind)).then_some(Error::Kind);
        let expected = |list: &[Option<Error>]| list.iter().copied().flatten().next().unwrap_or(Error::Ok);
        match as_kind {
            Kind::Coherent => {
                let answer = carveout_free_coherent(dev, size, at, handle, None);
                (answer, expected(&[by_name, by_kind, by_size, by_address]))
            }
            Kind::Stream(_) => {
                let answer = carveout_free_noncoherent(dev, size, at, handle, dir, None);
                let by_owner = (self.state == State::Device).then_some(Error::DeviceOwns);
                (answer, expected(&[by_name, self.by_direction(twist), by_owner, by_size, by_address]))
            }
            Kind::DeviceOnly => {
                let answer = carveout_free_device_only(dev, size, handle, None);
                (answer, expected(&[by_name, by_kind, by_size]))
            }
        }
    }

    /// Hands it to the other owner. Returns the answer and what the model says of it.
    fn sync(&self, to: State, twist: Twist) -> (Error, Error) {
        let Arguments { dev, size, handle, dir, .. } = self.named(twist);
        let dev = Some(&dev);
        let answer = match to {
            State::Device => carveout_sync_single_for_device(dev, handle, size, dir, None),
            _ => carveout_sync_single_for_cpu(dev, handle, size, dir, None),
        };
        let by_owner = (self.state == to).then_some(match to {
            State::Device => Error::DeviceOwns,
            _ => Error::CpuOwns,
        });
        let by_size = matches!(twist, Twist::Size).then_some(Error::Range);
        let all = [self.by_name(twist), self.by_direction(twist), by_owner, by_size];
        (answer, all.into_iter().flatten().next().unwrap_or(Error::Ok))
    }

    /// Writes to a stream as its owner, and checks what the other one wrote.
    fn use_it(&mut self, machine: &Machine, mark: u8) {
        let Kind::Stream(dir) = self.kind else { return };
        let at = PhysAddr::new(self.handle.addr);
        if self.state == State::Device {
            assert_eq!(machine.device_read(at, 1), [self.mark]);
            if dir != Direction::CarveoutToDevice as u32 {
                machine.device_write(at, &[mark]);
                self.mark = mark;
            }
            return;
        }
        let byte = self.at.cast::<u8>();
        // SAFETY: the buffer is the CPU's (I4), and has a byte.
        assert_eq!(unsafe { byte.read_volatile() }, self.mark);
        if dir != Direction::CarveoutFromDevice as u32 {
            // SAFETY: as above.
            unsafe { byte.write_volatile(mark) };
            self.mark = mark;
        }
    }
}

fn alloc(kind: Kind, size: usize) -> (*mut c_void, DmaHandle, Error) {
    let camera = device(c"camera");
    let dev = Some(&camera);
    let (at, handle, code, _) = call(|to, why| match kind {
        Kind::Coherent => carveout_alloc_coherent(dev, size, Some(to), Some(why)),
        Kind::Stream(dir) => carveout_alloc_noncoherent(dev, size, Some(to), dir, Some(why)),
        Kind::DeviceOnly => {
            carveout_alloc_device_only(dev, size, Some(to), Some(why));
            ptr::null_mut()
        }
    });
    (at, handle, code)
}

fn run(calls: &[Call]) {
    let machine = start();
    let mut buffers: Vec<Buffer> = Vec::new();
    for (n, &step) in calls.iter().enumerate() {
        let mark = n as u8 | 1;
        let pick = |n: usize| (!buffers.is_empty()).then(|| n % buffers.len());
        match step {
            Call::Alloc(kind, size) => {
                let (at, handle, code) = alloc(kind, size);
                if code == Error::Ok {
                    assert_eq!(at.is_null(), kind == Kind::DeviceOnly);
                    let state = if kind == Kind::DeviceOnly { State::Device } else { State::Cpu };
                    buffers.push(Buffer { kind, size, at, handle, state, mark: 0 });
                } else {
                    assert!(matches!(code, Error::NoCapacity | Error::Fragmented), "{code:?}");
                }
            }
            Call::Free(which, kind, twist) => {
                let Some(which) = pick(which) else { continue };
                // Most frees name the right kind.
                let kind = if which % 4 == 0 { kind } else { buffers[which].kind };
                let (answer, expected) = buffers[which].free(kind, twist);
                assert_eq!(answer, expected, "{step:?}");
                if answer == Error::Ok {
                    buffers[which].state = State::Freed;
                }
            }
            Call::ForDevice(which, twist) | Call::ForCpu(which, twist) => {
                let Some(which) = pick(which) else { continue };
                let to = if matches!(step, Call::ForDevice(..)) { State::Device } else { State::Cpu };
                let (answer, expected) = buffers[which].sync(to, twist);
                assert_eq!(answer, expected, "{step:?}");
                if answer == Error::Ok {
                    buffers[which].state = to;
                    buffers[which].use_it(machine, mark);
                }
            }
            Call::Quarantine(which) => {
                let Some(which) = pick(which) else { continue };
                let buffer = &mut buffers[which];
                let answer = carveout_quarantine(Some(&device(c"camera")), buffer.handle, None);
                let expected = match (buffer.state, buffer.kind) {
                    (State::Freed, _) => Error::Stale,
                    (State::Lost, _) => Error::Quarantined,
                    (State::Cpu, Kind::Stream(_)) => Error::CpuOwns,
                    _ => Error::Ok,
                };
                assert_eq!(answer, expected);
                if answer == Error::Ok {
                    buffer.state = State::Lost;
                }
            }
        }
        let held = buffers.iter().filter(|buffer| buffer.state != State::Freed);
        let held: u64 = held.map(|buffer| buffer.size.next_multiple_of(4096) as u64).sum();
        let (_, room, ..) = call::<Room, _>(|to, why| carveout_area_room(0, Some(to), Some(why)));
        assert_eq!(room.bytes, u64::from(CARVED_BYTES) - held);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn calls_answer_as_the_model_says(calls in proptest::collection::vec(calls(), 1..120)) {
        alone(|| run(&calls));
    }
}
