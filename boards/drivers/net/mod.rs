//! Network controllers.
//!
//! A driver gives the two queues that [`carveout_smoltcp`] asks for, [`RxQueue`](carveout_smoltcp::RxQueue) and
//! [`TxQueue`](carveout_smoltcp::TxQueue), and an Ethernet address. These traits are the kind's: a new controller is a
//! file that implements them.

pub mod virtio_net;

/// What went through a queue since it was made.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Traffic {
    /// Frames.
    pub frames: u64,
    /// Bytes of them, without the check sequence.
    pub bytes: u64,
}

impl Traffic {
    const fn count(&mut self, bytes: usize) {
        self.frames += 1;
        self.bytes += bytes as u64;
    }
}
