//! The kinds of events.

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum EventKind {
    /// A buffer got its frames. The detail is the number of its master
    /// ([`Master::number`](crate::dma::Master::number)), modulo 2^16.
    Alloc = 1,
    /// A buffer was given up.
    Free,
    /// A buffer changed hands. The detail is the place of its [`Holder`](crate::holder::Holder), in their order.
    Hold,
    /// Frames were mapped in the window. The detail is 1 if they are cached, else 0.
    Map,
    /// Frames were unmapped.
    Unmap,
    /// Lines were cleaned: the amount.
    Clean,
    /// Lines were dropped: the amount.
    Invalidate,
    /// Whole caches were emptied, of so many lines.
    Flush,
    /// Bytes were zeroed: the amount.
    Zero,
    /// Idle frames were lent: the amount. The detail is the number of the borrower in its area.
    Loan,
    /// What was lent of these frames was taken back.
    Recall,
    /// The contents of lent frames moved elsewhere. In place of the buffer stands the first frame that they moved to.
    /// For the refuge it is 0.
    Move,
    /// Lent frames were given back. The detail is the number of the borrower in its area.
    GiveBack,
    /// A request of so many bytes was refused. The detail is the number of its master, modulo 2^16.
    Refusal,
    /// Buffers were promised: the amount. The detail is the number of the master, modulo 2^16.
    Contract,
    /// A lock was waited for. The detail is its rank.
    LockWait,
}

#[cfg(feature = "events")]
impl EventKind {
    /// All kinds.
    pub const ALL: [Self; 16] = [
        Self::Alloc,
        Self::Free,
        Self::Hold,
        Self::Map,
        Self::Unmap,
        Self::Clean,
        Self::Invalidate,
        Self::Flush,
        Self::Zero,
        Self::Loan,
        Self::Recall,
        Self::Move,
        Self::GiveBack,
        Self::Refusal,
        Self::Contract,
        Self::LockWait,
    ];

    /// Returns the kind's name, one word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Alloc => "alloc",
            Self::Free => "free",
            Self::Hold => "hold",
            Self::Map => "map",
            Self::Unmap => "unmap",
            Self::Clean => "clean",
            Self::Invalidate => "invalidate",
            Self::Flush => "flush",
            Self::Zero => "zero",
            Self::Loan => "loan",
            Self::Recall => "recall",
            Self::Move => "move",
            Self::GiveBack => "give-back",
            Self::Refusal => "refusal",
            Self::Contract => "contract",
            Self::LockWait => "lock-wait",
        }
    }

    /// Returns whether an event of this kind names the frames. Then the amount is their number.
    pub const fn is_of_frames(self) -> bool {
        let of_loans = matches!(self, Self::Loan | Self::Recall | Self::Move | Self::GiveBack);
        of_loans || matches!(self, Self::Alloc | Self::Free | Self::Map | Self::Unmap)
    }
}

#[cfg(feature = "events")]
impl core::fmt::Display for EventKind {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.pad(self.name())
    }
}
