//! What cores may share of the adapter. `kernel/rt/tests/threads.rs` reads the list, and misses a type that is not in
//! it.

use carveout::machine::Machine;
use carveout_virtio::{DeviceMemory, DmaHal, Guarded, HandError, Handed, HandedMut, MemoryError};

/// Compiles only if cores may share all of them, where they share the machine.
fn _cores_share<M: Machine + Sync + 'static, P, T: Send + Sync>() {
    fn shared<T: Send + Sync>() {}
    shared::<(DeviceMemory<M>, MemoryError)>();
    shared::<(HandError, Handed<'static>, HandedMut<'static>)>();
    shared::<(DmaHal<P>, Guarded<P, T>)>();
}
