//! A kernel for the Zynq-7000 that embeds Carveout, in a style of its own: a boot of rust-embedded's, one table for all
//! addresses, no device tree, no interrupt handlers.
//!
//! What it shows, in the order of `main`:
//!
//! 1. `mmu` turns the MMU on with tables that never map the carve-out.
//! 2. `memory` makes a `Dma` of the carve-out.
//! 3. `store` has the DMA controller, `pl330`, copy megabytes between buffers that no CPU can reach.
//! 4. `gem` drives the Ethernet port, whose descriptors are in coherent memory (`ring`) and whose packets are in pools
//!    of streams, under smoltcp.
//! 5. `server` serves what the store has, over TCP.
//! 6. At the end all buffers come back, Carveout audits the tables, and the cache lines that were maintained are
//!    compared with those that the protocol asks for.
#![no_std]
#![no_main]

extern crate alloc;

mod board;
mod clock;
mod console;
mod faults;
mod gem;
mod interrupts;
mod memory;
mod mmu;
mod pl330;
mod ring;
mod server;
mod store;

use alloc::vec;

use carveout::dma::{DmaStats, Master};
use carveout::machine::Lines;
use carveout::vm::audit::{Expect, KernelMap};
use carveout_armv7a::mmu::Armv7a;
use carveout_smoltcp::{NetDevice, Packets};
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::time::Duration;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Address};

use crate::board::{IPV4, MAC, RAM, ROUTER, interrupt};
use crate::clock::Clock;
use crate::gem::Port;
use crate::interrupts::Interrupts;
use crate::memory::Memory;
use crate::pl330::Engine;
use crate::ring::{RING, Rx, Tx};
use crate::server::Server;
use crate::store::Store;

#[aarch32_rt::entry]
fn main() -> ! {
    console::init();
    // SAFETY: this is called once, before all else, on the only core that runs.
    unsafe { mmu::enable() };
    // SAFETY: this is called once, after `mmu::enable`.
    let memory = unsafe { memory::init() };
    faults::name_buffers_of(memory.dma);
    println!("embed-rust: {} carved, window of {} MiB", board::CARVED, board::WINDOW.sections());

    // SAFETY: this is called once.
    let engine = unsafe { Engine::new(memory) };
    let mut store = Store::new(memory, engine);
    // SAFETY: this is called once.
    let port = unsafe { Port::bring_up(memory) };
    let (mut port, rx, tx) = port.unwrap_or_else(|error| panic!("{error}"));
    let mut device = packets(memory, rx, tx);

    // SAFETY: this is called once.
    let mut clock = unsafe { Clock::start() };
    // SAFETY: this is called once.
    let mut interrupts = unsafe { Interrupts::enable() };
    interrupts.unmask(interrupt::TIMER);
    interrupts.unmask(interrupt::ETHERNET);

    let mut interface = interface(&mut device, &clock);
    let mut sockets = SocketSet::new(vec![]);
    let mut server = Server::new(&mut sockets);
    println!("embed-rust: serving on port 80");
    let before = memory.dma.stats();
    loop {
        port.acknowledge();
        interface.poll(clock.now(), &mut device, &mut sockets);
        if !server.serve(&mut sockets, &mut store) {
            break;
        }
        let delay = interface.poll_delay(clock.now(), &sockets);
        if delay != Some(Duration::ZERO) {
            delay.inspect(|&delay| clock.wake_after(delay));
            interrupts.sleep();
        }
    }
    end(memory, &before, device, port, store, &server)
}

/// Makes the network device: both queues, and a packet for each of their descriptors.
fn packets(memory: Memory, rx: Rx, tx: Tx) -> NetDevice<Armv7a, Rx, Tx> {
    let master = Master::new("ethernet", Some(memory.area));
    let packets = Packets::new(memory.dma, &master, RING as u32, RING as u32);
    NetDevice::new(rx, tx, packets.unwrap_or_else(|error| panic!("{error}")))
}

/// Makes smoltcp's side of the device.
fn interface(device: &mut NetDevice<Armv7a, Rx, Tx>, clock: &Clock) -> Interface {
    let config = Config::new(HardwareAddress::Ethernet(EthernetAddress(MAC)));
    let mut interface = Interface::new(config, device, clock.now());
    let (address, prefix) = IPV4;
    let address = IpCidr::new(Ipv4Address::from(address).into(), prefix);
    interface.update_ip_addrs(|addresses| addresses.push(address).expect("room for one address"));
    let router = interface.routes_mut().add_default_ipv4_route(ROUTER.into());
    router.expect("room for one route");
    interface
}

/// Takes all buffers back, and says what was found.
fn end(
    memory: Memory,
    before: &DmaStats,
    device: NetDevice<Armv7a, Rx, Tx>,
    port: Port,
    store: Store,
    server: &Server,
) -> ! {
    let now = memory.dma.stats();
    let (rx, tx) = device.into_queues();
    let (received, sent) = (rx.traffic, tx.traffic);
    println!("ethernet: received {} frames, {} bytes", received.frames, received.bytes);
    println!("ethernet: sent {} frames, {} bytes", sent.frames, sent.bytes);
    println!("server: {} bytes from device-only memory", server.served());
    for (what, lines, due) in [
        ("cleaned", less(now.cleaned, before.cleaned), store.cleaned + sent.lines),
        ("invalidated", less(now.invalidated, before.invalidated), store.invalidated + received.lines),
    ] {
        let asked = Lines { inner: due, outer: if memory.outer { due } else { 0 } };
        println!("lines {what}: {} inner, {} outer", lines.inner, lines.outer);
        // Counted here by the bytes that went: nothing of it is the allocator's word.
        assert_eq!(lines, asked, "lines {what}, and what the protocol asks for");
    }
    port.stop(rx, tx);
    store.stop();
    println!("{}", memory.dma.holders());
    audit(memory);
    println!("embed-rust: ok");
    console::exit(0)
}

/// Returns the lines of `all` that are not of `part`.
const fn less(all: Lines, part: Lines) -> Lines {
    Lines { inner: all.inner - part.inner, outer: all.outer - part.outer }
}

/// Has Carveout compare the tables with what it knows.
fn audit(memory: Memory) {
    let expect = Expect { kernel: Some(KernelMap { ram: &[RAM], text: mmu::text() }), ..Expect::CARVED };
    match memory.dma.audit(&expect, |finding| println!("audit: FAILED: {finding}")) {
        Ok(report) => println!("audit: {report}"),
        Err(findings) => panic!("{findings}"),
    }
}
