//! Two hosts at the ends of one cable, on the fake machine: what one sends the other receives, in memory that is judged
//! more strictly than hardware would (I1, I3, I4).

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use carveout::addr::PhysAddr;
use carveout::dma::PoolError;
use carveout::fake::Fake;
use carveout::machine::Lines;
use carveout::setup::Setup;
use carveout_smoltcp::{MAX_FRAME, NetDevice, PACKET, Packets, RxPacket, RxQueue, TxPacket, TxQueue};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device as _, RxToken as _, TxToken as _};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, Ipv4Address};

/// The controllers at both ends, and the cable. Each end has a number, 0 or 1.
struct Cable {
    fake: &'static Fake,
    ends: [End; 2],
}

/// What a controller has.
#[derive(Default)]
struct End {
    /// Packets to receive into, and those that hold a frame.
    empty: VecDeque<RxPacket<Fake>>,
    full: VecDeque<(RxPacket<Fake>, usize)>,
    /// Packets to send, and those that were sent.
    waiting: VecDeque<(TxPacket<Fake>, usize)>,
    sent: VecDeque<TxPacket<Fake>>,
    frames: u64,
    lines: u64,
}

impl Cable {
    /// Carries frames both ways, as long as there are packets for them. The bytes go as bus masters read and write
    /// them.
    fn carry(&mut self) {
        for from in [0, 1] {
            while !self.ends[from].waiting.is_empty() && !self.ends[1 - from].empty.is_empty() {
                let (packet, bytes) = self.ends[from].waiting.pop_front().unwrap();
                let frame = self.fake.device_read(PhysAddr::new(packet.bus().raw()), bytes);
                self.ends[from].sent.push_back(packet);
                let packet = self.ends[1 - from].empty.pop_front().unwrap();
                self.fake.device_write(PhysAddr::new(packet.bus().raw()), &frame);
                self.ends[1 - from].full.push_back((packet, bytes));
                self.ends[from].frames += 1;
                self.ends[from].lines += bytes.div_ceil(32) as u64;
            }
        }
    }
}

/// One end's queues.
struct Rx(Rc<RefCell<Cable>>, usize);
struct Tx(Rc<RefCell<Cable>>, usize);

// SAFETY: `carry` put the frame into the packet before it is in `full`, and accesses nothing in there.
unsafe impl RxQueue<Fake> for Rx {
    fn post(&mut self, packet: RxPacket<Fake>) {
        self.0.borrow_mut().ends[self.1].empty.push_back(packet);
    }

    fn received(&mut self) -> Option<(RxPacket<Fake>, usize)> {
        self.0.borrow_mut().ends[self.1].full.pop_front()
    }
}

// SAFETY: `carry` read the frame before its packet is in `sent`, and accesses nothing in there.
unsafe impl TxQueue<Fake> for Tx {
    fn post(&mut self, packet: TxPacket<Fake>, bytes: usize) {
        self.0.borrow_mut().ends[self.1].waiting.push_back((packet, bytes));
    }

    fn sent(&mut self) -> Option<TxPacket<Fake>> {
        self.0.borrow_mut().ends[self.1].sent.pop_front()
    }
}

/// Packets of each queue.
const PACKETS: u32 = 4;

fn cable(setup: &Setup) -> Rc<RefCell<Cable>> {
    Rc::new(RefCell::new(Cable { fake: setup.fake, ends: Default::default() }))
}

fn device(cable: &Rc<RefCell<Cable>>, end: usize, setup: &Setup) -> NetDevice<Fake, Rx, Tx> {
    let packets = Packets::new(setup.dma, &setup.master("ethernet"), PACKETS, PACKETS);
    NetDevice::new(Rx(Rc::clone(cable), end), Tx(Rc::clone(cable), end), packets.expect("room for all packets"))
}

/// A host: a device, smoltcp over it, and one TCP socket.
struct Host {
    device: NetDevice<Fake, Rx, Tx>,
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
}

impl Host {
    fn new(cable: &Rc<RefCell<Cable>>, end: usize, setup: &Setup) -> Self {
        let mut device = device(cable, end, setup);
        let address = HardwareAddress::Ethernet(EthernetAddress([2, 0, 0, 0, 0, end as u8]));
        let mut interface = Interface::new(Config::new(address), &mut device, Instant::ZERO);
        interface.update_ip_addrs(|all| all.push(IpCidr::new(ip(end), 24)).unwrap());
        let buffer = || SocketBuffer::new(vec![0; 8192]);
        let mut sockets = SocketSet::new(vec![]);
        let socket = sockets.add(Socket::new(buffer(), buffer()));
        Self { device, interface, sockets, socket }
    }

    fn poll(&mut self, now: Instant) -> &mut Socket<'static> {
        self.interface.poll(now, &mut self.device, &mut self.sockets);
        self.sockets.get_mut(self.socket)
    }
}

fn ip(end: usize) -> IpAddress {
    Ipv4Address::new(192, 168, 69, 1 + end as u8).into()
}

/// TCP between two hosts: every byte arrives, and not a line more is maintained than the frames have. All is given
/// back.
#[test]
fn tcp_goes_over_the_cable_with_the_least_maintenance() {
    for seed in 0..4 {
        let setup = Setup::new(seed);
        let free = setup.free_bytes();
        let cable = cable(&setup);
        let [mut server, mut client] = [0, 1].map(|end| Host::new(&cable, end, &setup));
        let before = setup.dma.stats();
        server.sockets.get_mut::<Socket<'_>>(server.socket).listen(80).unwrap();
        let context = client.interface.context();
        client.sockets.get_mut::<Socket<'_>>(client.socket).connect(context, (ip(0), 80), 49152).unwrap();

        let data: Vec<u8> = (0..100_000u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
        let (mut sent, mut received, mut now) = (0, Vec::new(), Instant::ZERO);
        while received.len() < data.len() {
            now += Duration::from_millis(1);
            assert!(now < Instant::from_secs(60), "{} bytes arrived", received.len());
            let socket = server.poll(now);
            if socket.can_send() && sent < data.len() {
                sent += socket.send_slice(&data[sent..]).unwrap();
            }
            let socket = client.poll(now);
            if socket.can_recv() {
                socket.recv(|bytes| (bytes.len(), received.extend_from_slice(bytes))).unwrap();
            }
            cable.borrow_mut().carry();
        }
        assert_eq!(received, data);

        // All frames were taken: `carry` ended the last turn. What is still on the cable is read here.
        let stats = setup.dma.stats();
        let frames: u64 = cable.borrow().ends.iter().map(|end| end.frames).sum();
        let lines: u64 = cable.borrow().ends.iter().map(|end| end.lines).sum();
        let unread: u64 =
            cable.borrow().ends.iter().flat_map(|end| &end.full).map(|(_, n)| n.div_ceil(32) as u64).sum();
        assert!(frames > 70, "{frames} frames");
        assert_eq!(stats.cleaned.inner - before.cleaned.inner, lines);
        assert_eq!(stats.invalidated.inner - before.invalidated.inner, lines - unread);
        drop((server, client));
        let Cable { ends, .. } = Rc::into_inner(cable).unwrap().into_inner();
        for End { empty, full, waiting, sent, .. } in ends {
            // SAFETY: there is no controller any more (I4).
            empty.into_iter().chain(full.into_iter().map(|(b, _)| b)).for_each(|b| drop(unsafe { b.for_cpu() }));
            // SAFETY: as above.
            waiting.into_iter().map(|(b, _)| b).chain(sent).for_each(|b| drop(unsafe { b.for_cpu() }));
        }
        assert_eq!(setup.free_bytes(), free, "a packet was lost");
        setup.audit().expect("I1 and I2 hold");
    }
}

/// A frame that smoltcp does not take, and a place for one that it does not fill, cost nothing and lose nothing.
#[test]
fn a_token_that_is_dropped_gives_its_packet_back() {
    let setup = Setup::new(7);
    let cable = cable(&setup);
    let [mut one, mut other] = [0, 1].map(|end| device(&cable, end, &setup));
    let maintained = || {
        let stats = setup.dma.stats();
        stats.cleaned + stats.invalidated
    };
    let before = maintained();
    for _ in 0..3 * PACKETS {
        assert!(one.transmit(Instant::ZERO).is_some(), "no packet is on its way");
    }
    assert_eq!(maintained(), before, "nothing was written");
    for turn in 0..3 * PACKETS {
        one.transmit(Instant::ZERO).unwrap().consume(64, |frame| frame.fill(turn as u8));
        cable.borrow_mut().carry();
        drop(other.receive(Instant::ZERO).expect("a frame"));
    }
    assert_eq!(maintained(), before + Lines { inner: 3 * u64::from(PACKETS) * 2, outer: 0 });
    // The next frame is read as it was sent, whatever was dropped before.
    one.transmit(Instant::ZERO).unwrap().consume(100, |frame| frame.fill(0x5a));
    cable.borrow_mut().carry();
    let (frame, _) = other.receive(Instant::ZERO).expect("a frame");
    frame.consume(|frame| assert_eq!(frame, [0x5a; 100]));
}

/// A frame waits while there is no packet to answer it, and is not lost.
#[test]
fn a_frame_is_taken_only_if_it_can_be_answered() {
    let setup = Setup::new(7);
    let cable = cable(&setup);
    let [mut one, mut other] = [0, 1].map(|end| device(&cable, end, &setup));
    assert_eq!(one.capabilities().max_transmission_unit, MAX_FRAME);
    one.transmit(Instant::ZERO).unwrap().consume(60, |frame| frame.fill(1));
    cable.borrow_mut().carry();
    for n in 0..PACKETS {
        other.transmit(Instant::ZERO).unwrap().consume(60, |frame| frame.fill(n as u8));
    }
    assert!(other.transmit(Instant::ZERO).is_none(), "all packets are on their way");
    assert!(other.receive(Instant::ZERO).is_none());
    cable.borrow_mut().carry();
    let (frame, answer) = other.receive(Instant::ZERO).expect("a packet came back");
    answer.consume(60, |frame| frame.fill(9));
    frame.consume(|frame| assert_eq!(frame, [1; 60]));
}

/// Packets lie side by side: the largest frame fits one, and a queue costs its packets' own size, in whole pages.
#[test]
fn packets_cost_their_own_size() {
    let setup = Setup::new(7);
    let free = setup.free_bytes();
    let cable = cable(&setup);
    let [mut one, mut other] = [0, 1].map(|end| device(&cable, end, &setup));
    let queue = (PACKETS * PACKET as u32).next_multiple_of(4096);
    assert_eq!(free - setup.free_bytes(), (2 * 2 * queue).into());
    for n in 0..PACKETS {
        one.transmit(Instant::ZERO).unwrap().consume(MAX_FRAME, |frame| frame.fill(n as u8));
    }
    cable.borrow_mut().carry();
    for n in 0..PACKETS {
        let (frame, _) = other.receive(Instant::ZERO).expect("a frame");
        frame.consume(|frame| assert_eq!(frame, [n as u8; MAX_FRAME]));
    }
}

/// Packets that are refused leave no memory taken, whichever queue they are for.
#[test]
fn refused_packets_keep_no_memory() {
    let setup = Setup::new(7);
    let free = setup.free_bytes();
    let ethernet = setup.master("ethernet");
    let packets = |received, sent| Packets::new(setup.dma, &ethernet, received, sent).err();
    assert_eq!(packets(0, PACKETS), Some(PoolError::NoBlocks));
    assert_eq!(packets(PACKETS, 0), Some(PoolError::NoBlocks));
    assert!(matches!(packets(PACKETS, 1 << 20), Some(PoolError::Alloc(_))));
    assert_eq!(setup.free_bytes(), free);
}
