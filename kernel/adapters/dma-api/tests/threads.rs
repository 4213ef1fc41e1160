//! What cores may share of the adapter. `kernel/rt/tests/threads.rs` reads the list, and misses a type that is not in
//! it.

use carveout::machine::Machine;
use carveout_dma_api::{DeviceMemory, Refusal};

/// Compiles only if cores may share all of them, where they share the machine.
fn _cores_share<M: Machine + Send + Sync + 'static>() {
    fn shared<T: Send + Sync>() {}
    shared::<(DeviceMemory<M>, Refusal)>();
}
