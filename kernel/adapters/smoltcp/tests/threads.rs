//! What one core may hand to another. `kernel/rt/tests/threads.rs` reads the list, and misses a type that is not in it.

use carveout::machine::Machine;
use carveout_smoltcp::{NetDevice, Packets, RxQueue, RxToken, TxQueue, TxToken};

/// Compiles only if all of them may be handed on, where the queues may and cores share the machine.
fn _cores_hand_on<M, R, T>()
where
    M: Machine + Sync + 'static,
    R: RxQueue<M> + Send + 'static,
    T: TxQueue<M> + Send + 'static,
{
    fn handed_on<T: Send>() {}
    handed_on::<(Packets<M>, NetDevice<M, R, T>, RxToken<'static, M, R>, TxToken<'static, M, T>)>();
}
