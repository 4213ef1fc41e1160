//! The service: the loop that moves frames, serves clients and lets the devices work.
//!
//! Guarantees: a turn handles at most [`FRAMES`] frames each way. The loop ends when it is asked to, whatever comes from
//! the network.

use super::load::Load;
use super::server::Server;
use super::state::{self, Beside, STATE_BYTES};
use crate::demo::ending::end;
use crate::demo::failure::Failure;
use crate::drivers::net::virtio_net::{self, NetError, VirtioNet};
use crate::kernel::state::Kernel;
use crate::kernel::{console, known};
use crate::println;
use alloc::format;
use alloc::vec::Vec;
use smoltcp::iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketSet};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr, Ipv4Address};

/// The address that QEMU's user network gives the first guest, its prefix, and the router there.
const ADDRESS: Ipv4Address = Ipv4Address::new(10, 0, 2, 15);
const PREFIX: u8 = 24;
const ROUTER: Ipv4Address = Ipv4Address::new(10, 0, 2, 2);
/// The most frames of one turn, each way.
const FRAMES: usize = 32;

/// Runs the demo.
///
/// # Errors
///
/// [`Failure::NoDevice`] and [`Failure::Net`] if there is no network. [`Failure::Lending`] if the contract beside
/// it cannot be made, or did not hold. [`Failure::Audit`] if the audit finds something.
pub(in crate::demo) fn run(kernel: &'static Kernel) -> Result<(), Failure> {
    let seconds = kernel.info.bootargs().get("net-seconds").and_then(|arg| arg.value);
    let seconds = seconds.map(|text| text.parse::<u64>().map_err(|_| text)).transpose();
    let seconds = seconds.map_err(|text| Failure::Net(format!("net-seconds={text}: not a number of seconds")))?;
    let failed = |error: NetError| Failure::Net(format!("{error}"));
    let nic = known::network(kernel).map_err(failed)?.ok_or(Failure::NoDevice("network"))?;
    let mac = nic.mac();
    let mut device = nic.start().map_err(failed)?;
    let mut load = match Load::new(kernel) {
        Ok(load) => load,
        Err(failure) => {
            virtio_net::stop(device);
            return Err(failure);
        }
    };
    let mut sockets = SocketSet::new(Vec::new());
    let mut server = Server::new(&mut sockets, STATE_BYTES);
    let mut interface = interface(kernel, &mut device, mac);
    println!("net: {} at {ADDRESS}, serving on port 80", EthernetAddress(mac));

    let start = kernel.micros();
    let goes_on = |now: u64| {
        seconds.is_none_or(|seconds| now - start < seconds.saturating_mul(1_000_000)) && console::try_read().is_none()
    };
    loop {
        let now = kernel.micros();
        if !goes_on(now) {
            break;
        }
        let instant = Instant::from_micros(now.cast_signed());
        interface.poll_maintenance(instant);
        for _ in 0..FRAMES {
            let result = interface.poll_ingress_single(instant, &mut device, &mut sockets);
            if result == PollIngressSingleResult::None {
                break;
            }
        }
        for _ in 0..FRAMES {
            if interface.poll_egress(instant, &mut device, &mut sockets) == PollResult::None {
                break;
            }
        }
        let (rx, tx) = device.queues();
        let (traffic, tally) = ((rx.traffic(), tx.traffic()), load.tally);
        server.serve(&mut sockets, now, &|counts, to| state::write(kernel, &Beside { traffic, counts, tally }, to));
        load.turn(now);
    }

    let tally = load.end();
    let (received, sent) = virtio_net::stop(device);
    println!("net: received {} frames, {} bytes", received.frames, received.bytes);
    println!("net: sent {} frames, {} bytes", sent.frames, sent.bytes);
    println!("net: {}", server.counts);
    println!("net: camera: {} buffers, {} failures", tally.allocated, tally.failures);
    if tally.failures > 0 {
        return Err(Failure::Lending(format!("{} allocations failed", tally.failures)));
    }
    end(kernel, false)
}

fn interface(kernel: &'static Kernel, device: &mut VirtioNet, mac: [u8; 6]) -> Interface {
    let now = kernel.micros();
    let mut config = Config::new(EthernetAddress(mac).into());
    // For the first sequence number of a connection.
    config.random_seed = now;
    let mut interface = Interface::new(config, device, Instant::from_micros(now.cast_signed()));
    interface.update_ip_addrs(|addresses| {
        // There is room for two.
        let _ = addresses.push(IpCidr::new(IpAddress::Ipv4(ADDRESS), PREFIX));
    });
    let _ = interface.routes_mut().add_default_ipv4_route(ROUTER);
    interface
}
