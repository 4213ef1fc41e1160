//! The interrupt controller, as an alarm clock.
//!
//! Guarantees: the core takes no interrupt: CPSR.I stays set. It sleeps in WFI until one is pending, and acknowledges
//! it then. So no code is interrupted, and each driver looks at its device when it is asked.

use aarch32_cpu::asm::{dsb, wfi};
use arbitrary_int::u2;
use zynq7000::gic::{
    CpuInterfaceRegisters, DistributorControlRegister, DistributorRegisters, InterfaceControl,
    InterruptProcessorTargetRegister, MmioCpuInterfaceRegisters, MmioDistributorRegisters, PriorityRegister,
};

/// The interrupt controller.
pub struct Interrupts {
    cpu: MmioCpuInterfaceRegisters<'static>,
    distributor: MmioDistributorRegisters<'static>,
}

impl Interrupts {
    /// Turns the controller on.
    ///
    /// # Safety
    ///
    /// This is called once.
    pub unsafe fn enable() -> Self {
        // SAFETY: nothing else uses the CPU interface: this is called once.
        let mut cpu = unsafe { CpuInterfaceRegisters::new_mmio_fixed() };
        // SAFETY: nothing else uses the distributor: this is called once.
        let mut distributor = unsafe { DistributorRegisters::new_mmio_fixed() };
        distributor.write_dcr(DistributorControlRegister::new_with_raw_value(0).with_enable_secure(true));
        cpu.write_pmr(PriorityRegister::new_with_raw_value(0xff));
        cpu.write_icr(InterfaceControl::new_with_raw_value(0).with_enable_secure(true));
        Self { cpu, distributor }
    }

    /// Lets an interrupt wake the core.
    pub fn unmask(&mut self, id: usize) {
        if let Some(shared) = id.checked_sub(32) {
            let target = |word: InterruptProcessorTargetRegister| word.with_targets(shared % 4, u2::new(1));
            self.distributor.modify_iptr_spi(shared / 4, target).expect("an interrupt of this controller");
        }
        self.distributor.write_iser(id / 32, 1 << (id % 32)).expect("an interrupt of this controller");
    }

    /// Sleeps until an interrupt is pending, and acknowledges it. It is pending again at once if its device has more to
    /// say.
    pub fn sleep(&mut self) {
        dsb();
        wfi();
        let taken = self.cpu.read_iar();
        // 1,020 and up are no interrupts (IHI 0048B 3.2.5).
        if taken.ack_int_id().value() < 1020 {
            self.cpu.write_eoir(taken);
        }
    }
}
