//! The caches of a machine that has none.

/// Gives a machine of a test the maintenance of no cache.
macro_rules! uncached {
    ($machine:ty) => {
        // SAFETY: there is no cache.
        unsafe impl carveout::machine::Cache for $machine {
            fn line(&self) -> u32 {
                32
            }

            fn clean(&self, _: carveout::vm::mapped::Part<'_>) -> carveout::machine::Lines {
                carveout::machine::Lines::default()
            }

            fn invalidate(&self, _: carveout::vm::mapped::Part<'_>) -> carveout::machine::Lines {
                carveout::machine::Lines::default()
            }

            fn discard(&self, _: carveout::vm::mapped::Part<'_>) -> carveout::machine::Lines {
                carveout::machine::Lines::default()
            }

            fn device_barrier(&self) {}

            fn dma_wmb(&self) {}

            fn dma_rmb(&self) {}
        }
    };
}
