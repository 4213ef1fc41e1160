//! smoltcp's [`phy::Device`] over pools of Carveout's streams.
//!
//! A driver gives the two queues of its network controller: [`RxQueue`] and [`TxQueue`]. They take packets that are the
//! device's, and give them back once the device has finished. [`NetDevice`] does the rest: it hands each packet over
//! and takes it back, and lets smoltcp read and write the packets themselves.
//!
//! Guarantees:
//!
//! - No byte of a packet is copied here. smoltcp's closures run over the packet's bytes.
//! - A queue never has a packet that the CPU owns (I4).
//! - The least maintenance: of a received packet the lines that the device wrote, of a sent one the lines that smoltcp
//!   wrote (I3). A packet that waits, or that smoltcp does not read, costs nothing. Nothing is mapped or unmapped.
//! - No packet is lost: a token that smoltcp drops gives its packet back.
#![no_std]

use carveout::dma::{BlockShape, Cpu, Device, Dma, FromDevice, Master, PoolError, StreamBlock, StreamPool, ToDevice};
use carveout::machine::Machine;
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

/// Bytes of the largest Ethernet frame without its check sequence: the header and 1,500 bytes.
pub const MAX_FRAME: usize = 14 + 1500;

/// Bytes of a packet's memory: the largest frame with its check sequence and a VLAN tag, in whole cache lines.
pub const PACKET: usize = 1536;

/// A packet that the controller receives into. Its owner `O` is [`Cpu`] or [`Device`].
pub type RxPacket<M, O = Device> = StreamBlock<M, FromDevice, O>;

/// A packet that the controller sends. Its owner `O` is [`Cpu`] or [`Device`].
pub type TxPacket<M, O = Device> = StreamBlock<M, ToDevice, O>;

/// The queue of a network controller that receives.
///
/// # Safety
///
/// The implementer's duty, on which I4 rests: the controller has finished with a packet that
/// [`received`](Self::received) returns, and wrote nothing to it beyond the frame.
pub unsafe trait RxQueue<M: Machine + 'static> {
    /// Has the controller receive into one more packet. There is room for as many as the queue was made for.
    fn post(&mut self, packet: RxPacket<M>);

    /// Returns the next packet that holds a frame, and the bytes of the frame, or `None` if there is none.
    fn received(&mut self) -> Option<(RxPacket<M>, usize)>;
}

/// The queue of a network controller that sends.
///
/// # Safety
///
/// The implementer's duty, on which I4 rests: the controller has finished with a packet that [`sent`](Self::sent)
/// returns.
pub unsafe trait TxQueue<M: Machine + 'static> {
    /// Has the controller send the first `bytes` of a packet. There is room for as many as the queue was made for.
    fn post(&mut self, packet: TxPacket<M>, bytes: usize);

    /// Returns the next packet whose frame was sent, or `None` if there is none.
    fn sent(&mut self) -> Option<TxPacket<M>>;
}

/// The packets of a network device: a pool for each queue. Each packet has [`PACKET`] bytes.
pub struct Packets<M: Machine + 'static> {
    received: StreamPool<M, FromDevice>,
    sent: StreamPool<M, ToDevice>,
}

impl<M: Machine> Packets<M> {
    /// Takes memory for as many packets as each queue has room for: first the queue that receives, then the one that
    /// sends.
    ///
    /// # Errors
    ///
    /// [`PoolError`] if a number is 0, or if heap or area have no room for so many. No memory is kept then.
    pub fn new(dma: &'static Dma<M>, master: &Master, received: u32, sent: u32) -> Result<Self, PoolError> {
        let shape = BlockShape { size: PACKET as u32, align: 1, boundary: None };
        let received = StreamPool::new(dma, master, shape, received)?;
        Ok(Self { received, sent: StreamPool::new(dma, master, shape, sent)? })
    }
}

/// A network device for smoltcp, over the two queues of a controller.
pub struct NetDevice<M: Machine + 'static, R, T> {
    rx: R,
    tx: T,
    /// Packets for frames that are to be sent.
    spare: StreamPool<M, ToDevice>,
}

impl<M: Machine, R: RxQueue<M>, T: TxQueue<M>> NetDevice<M, R, T> {
    /// Makes a device of two queues. The queue that receives has all its packets from here on.
    pub fn new(mut rx: R, tx: T, packets: Packets<M>) -> Self {
        while let Ok(packet) = packets.received.alloc() {
            rx.post(packet.for_device());
        }
        Self { rx, tx, spare: packets.sent }
    }

    /// Returns the queues, to be looked at.
    pub const fn queues(&self) -> (&R, &T) {
        (&self.rx, &self.tx)
    }

    /// Returns the queues, which may still have packets. They are stopped next.
    pub fn into_queues(self) -> (R, T) {
        (self.rx, self.tx)
    }

    /// Takes back what was sent. Returns the token for one frame, unless all packets are on their way.
    fn vacancy<'d>(tx: &'d mut T, spare: &StreamPool<M, ToDevice>) -> Option<TxToken<'d, M, T>> {
        while let Some(packet) = tx.sent() {
            // SAFETY: the queue says that the controller has finished with it (I4).
            drop(unsafe { packet.for_cpu() });
        }
        spare.alloc().ok().map(|packet| TxToken { queue: tx, packet })
    }
}

impl<M: Machine, R: RxQueue<M>, T: TxQueue<M>> phy::Device for NetDevice<M, R, T> {
    type RxToken<'d>
        = RxToken<'d, M, R>
    where
        Self: 'd;
    type TxToken<'d>
        = TxToken<'d, M, T>
    where
        Self: 'd;

    fn receive(&mut self, _: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        // A frame is taken only if it can be answered.
        let answer = Self::vacancy(&mut self.tx, &self.spare)?;
        let frame = self.rx.received()?;
        Some((RxToken { queue: &mut self.rx, frame: Some(frame) }, answer))
    }

    fn transmit(&mut self, _: Instant) -> Option<Self::TxToken<'_>> {
        Self::vacancy(&mut self.tx, &self.spare)
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MAX_FRAME;
        capabilities
    }
}

/// A received frame. Its packet is the queue's again once the frame was read, or the token dropped.
pub struct RxToken<'d, M: Machine + 'static, R: RxQueue<M>> {
    queue: &'d mut R,
    /// There until it is read or dropped.
    frame: Option<(RxPacket<M>, usize)>,
}

impl<M: Machine, R: RxQueue<M>> phy::RxToken for RxToken<'_, M, R> {
    fn consume<V, F: FnOnce(&[u8]) -> V>(mut self, f: F) -> V {
        let (packet, bytes) = self.frame.take().expect("neither read nor dropped yet");
        // SAFETY: the queue says that the controller has finished with it, and wrote no more than the frame (I4).
        let packet = unsafe { packet.for_cpu_part(0..bytes) };
        let value = f(packet.bytes().get(..bytes).unwrap_or_default());
        self.queue.post(packet.for_device());
        value
    }
}

impl<M: Machine, R: RxQueue<M>> Drop for RxToken<'_, M, R> {
    fn drop(&mut self) {
        if let Some((packet, _)) = self.frame.take() {
            self.queue.post(packet);
        }
    }
}

/// A place in the queue that sends. Nothing is sent if it is dropped.
pub struct TxToken<'d, M: Machine + 'static, T> {
    queue: &'d mut T,
    packet: TxPacket<M, Cpu>,
}

impl<M: Machine, T: TxQueue<M>> phy::TxToken for TxToken<'_, M, T> {
    fn consume<V, F: FnOnce(&mut [u8]) -> V>(mut self, bytes: usize, f: F) -> V {
        let value = f(self.packet.part_mut(0..bytes).expect("a frame that is no larger than the device's largest"));
        self.queue.post(self.packet.for_device(), bytes);
        value
    }
}
