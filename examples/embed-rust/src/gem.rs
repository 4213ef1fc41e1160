//! The first Ethernet port: a Cadence GEM (UG585 chapter 16 and appendix B.18).
//!
//! Guarantees: a port that is up has a link, and uses no memory but that of its queues.
//!
//! crates.io has drivers of this controller with buffers of their own: zynq7000-hal, for one, keeps them in static
//! memory. Here buffers are Carveout's, so this driver begins at the registers of the crate zynq7000.

use core::fmt;

use aarch32_cpu::asm::dsb;
use arbitrary_int::{u2, u5};
use carveout_smoltcp::PACKET;
use zynq7000::eth::{
    BurstLength, DmaConfig, DmaRxBufSize, InterruptControl, InterruptStatus, MdcClockDivisor, MmioRegisters,
    NetworkConfig, NetworkControl, PhyMaintenance, PhyOperation, Registers, RxStatus, TxStatus,
};

use crate::board::MAC;
use crate::memory::Memory;
use crate::ring::{ON, Rx, Tx};

/// Why there is no port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortError {
    /// No PHY answers at any address.
    NoPhy,
    /// The PHY at this address has no link of 1 Gbit/s.
    NoLink {
        /// Its address.
        phy: u8,
        /// Its status register.
        status: u16,
    },
}

impl fmt::Display for PortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPhy => write!(f, "ethernet: no PHY answers; are the port's pins and clocks on?"),
            Self::NoLink { phy, status } => {
                write!(f, "ethernet: PHY {phy} has status {status:#06x}, no link of 1 Gbit/s; is the cable in?")
            }
        }
    }
}

impl core::error::Error for PortError {}

/// The port itself, beside its queues.
pub struct Port {
    registers: MmioRegisters<'static>,
}

impl Port {
    /// Brings the port up. Its pins, its clock of 125 MHz and its reset are the boot loader's work.
    ///
    /// # Errors
    ///
    /// [`PortError`] if there is no PHY with a link.
    ///
    /// # Safety
    ///
    /// This is called once.
    pub unsafe fn bring_up(memory: Memory) -> Result<(Self, Rx, Tx), PortError> {
        // SAFETY: the port and its two queues alone use the controller, and one of them at a time.
        let registers = || unsafe { Registers::new_mmio_fixed_0() };
        let (rx, tx) = (Rx::new(memory, registers()), Tx::new(memory, registers()));
        let mut port = Self { registers: registers() };
        let gem = &mut port.registers;
        gem.write_net_ctrl(NetworkControl::new_with_raw_value(0).with_management_port_enable(true));
        gem.write_interrupt_disable(InterruptControl::new_clear_all());
        gem.write_tx_status(TxStatus::new_clear_all());
        gem.write_rx_status(RxStatus::new_clear_all());
        let config = NetworkConfig::new_with_raw_value(0).with_full_duplex(true).with_gigabit_enable(true);
        let config = config.with_rx_enable_1536(true).with_fcs_removal(true);
        // MDC is at most 2.5 MHz, and the port's bus at most 111 MHz.
        gem.write_net_cfg(config.with_mdc_clk_div(MdcClockDivisor::Div48));
        port.find_link()?;

        let gem = &mut port.registers;
        // The write of the upper half turns the filter on.
        gem.write_addr1_low(u32::from_le_bytes([MAC[0], MAC[1], MAC[2], MAC[3]]));
        gem.write_addr1_high(u32::from_le_bytes([MAC[4], MAC[5], 0, 0]));
        let size = DmaRxBufSize::new_with_raw_value((PACKET / 64) as u8);
        let dma = DmaConfig::new_with_raw_value(0).with_dma_rx_ahb_buf_size_sel(size);
        let dma = dma.with_rx_packet_buf_size_sel(u2::new(3)).with_tx_packet_buf_size_sel(true);
        gem.write_dma_cfg(dma.with_burst_length(BurstLength::Incr16.reg_value()));
        gem.write_rx_buf_queue_base_addr(rx.base().raw());
        gem.write_tx_buf_queue_base_addr(tx.base().raw());
        let wanted = InterruptControl::new_with_raw_value(0).with_frame_received(true).with_frame_sent(true);
        gem.write_interrupt_enable(wanted.with_rx_descr_read_when_used(true));
        // It finds no descriptor of its own in either ring, until packets are posted.
        gem.write_net_ctrl(ON);
        Ok((port, rx, tx))
    }

    /// Lowers the port's interrupt. The queues are looked at afterwards. So a frame that came before is found there,
    /// and one that comes later raises the interrupt again.
    pub fn acknowledge(&mut self) {
        let status = self.registers.read_interrupt_status();
        self.registers.write_interrupt_status(InterruptStatus::new_with_raw_value(status.raw_value()));
        // No descriptor is read before this, or it could be older than the status (ARM ARM A3.8.3); and what comes from
        // here on is not cleared.
        dsb();
    }

    /// Looks for the PHY, and for its link.
    fn find_link(&mut self) -> Result<(), PortError> {
        let answers = |&address: &u8| !matches!(self.mdio(address, 2), 0 | 0xffff);
        let phy = (0..32).find(answers).ok_or(PortError::NoPhy)?;
        // Bit 2: the link is up. It stays 0 until it was read once (IEEE 802.3 22.2.4.2.13).
        let _ = self.mdio(phy, 1);
        let status = self.mdio(phy, 1);
        // Register 10, bit 11: the partner can do 1000BASE-T in full duplex.
        let gigabit = self.mdio(phy, 10) & 1 << 11 != 0;
        if status & 1 << 2 != 0 && gigabit { Ok(()) } else { Err(PortError::NoLink { phy, status }) }
    }

    /// Reads a register of a PHY (UG585 16.3.6).
    fn mdio(&mut self, phy: u8, register: u8) -> u16 {
        let frame = PhyMaintenance::new_with_raw_value(0).with_clause_22(true).with_op(PhyOperation::Read);
        let frame = frame.with_phy_addr(u5::new(phy)).with_reg_addr(u5::new(register));
        self.registers.write_phy_maintenance(frame.with_must_be_0b10(u2::new(2)));
        while !self.registers.read_net_status().phy_mgmt_idle() {}
        self.registers.read_phy_maintenance().data()
    }

    /// Turns the port off, and takes all memory of its queues back.
    pub fn stop(mut self, rx: Rx, tx: Tx) {
        self.registers.write_net_ctrl(NetworkControl::new_with_raw_value(0));
        // SAFETY: the controller is off (I4).
        unsafe { rx.stop() };
        // SAFETY: the controller is off (I4).
        unsafe { tx.stop() };
    }
}
