//! The buffers that were put away under their [`Handle`]s: in and out, and whose an address is.
//!
//! Guarantees: the body of a buffer is with its value or in its record, never both. So no two values have one buffer.
//! To find a buffer by an address takes a few steps, however many there are. Nothing here maps, maintains, waits or
//! takes memory.

use crate::addr::{BusAddr, Frame, VirtAddr};
use crate::dma::body::{Body, LAST};
use crate::dma::buffer::direction::{DataDirection, DirectionError};
use crate::dma::handle::{BufferState, Handle, HandleError};
use crate::dma::master::Master;
use crate::dma::records::{BufferSlot, Entry, Kept, PutAway, Record};
use crate::dma::registry::{BufferRecord, Dma, State};
use crate::holder::Holder;

/// What is known of a buffer that was put away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawRecord {
    /// Its record.
    pub record: BufferRecord,
    /// The state in which it was put away: it is taken out as that.
    pub state: BufferState,
    /// The direction of a stream.
    pub direction: Option<DataDirection>,
    /// The address at which its device finds it, whenever it may.
    pub bus: BusAddr,
}

impl<M> Dma<M> {
    /// Puts a buffer away.
    pub(super) fn put_away(
        &self,
        body: &'static mut Body,
        state: BufferState,
        direction: Option<DataDirection>,
    ) -> Handle {
        let (mut books, slot) = (self.state.lock(), body.slot);
        let chains = &mut *books.records.chains;
        let chain = chain_of(Frame::containing(body.frames().base()), chains.len());
        let next = core::mem::replace(&mut chains[chain], slot.0 as u16);
        let (dma, born) = (books.window.id().number(), body.standing.born());
        books.kept_mut(slot).put_away = Some(PutAway { state, direction, next });
        books.records.get_mut(slot).body = Some(body);
        Handle::new(slot.0, dma, born)
    }

    /// Takes a buffer out, if it is in this state and `accept` takes its direction.
    pub(super) fn take_out<T>(
        &self,
        handle: Handle,
        wanted: BufferState,
        accept: impl FnOnce(Option<DataDirection>) -> Result<T, DirectionError>,
    ) -> Result<(&'static mut Body, T), HandleError> {
        let mut books = self.state.lock();
        let (slot, _, _, &PutAway { state: has, direction, .. }) = self.named(&books, handle)?;
        if has != wanted {
            return Err(HandleError::State { handle, has, wanted });
        }
        let accepted = accept(direction).map_err(|error| HandleError::Direction { handle, error })?;
        Ok((books.take_out(slot), accepted))
    }

    /// Returns the buffer of this name, which was put away.
    #[expect(clippy::unused_self, reason = "whose books they are")]
    fn named<'b>(
        &self,
        books: &'b State,
        handle: Handle,
    ) -> Result<(BufferSlot, &'b Record, &'b Kept, &'b PutAway), HandleError> {
        let dma = books.window.id().number();
        if !handle.is_of(dma) {
            return Err(HandleError::Foreign { handle });
        }
        let slot = BufferSlot(handle.slot());
        let Some(record) = books.records.at(slot) else { return Err(HandleError::Stale { handle }) };
        match &record.entry {
            Entry::Used(kept)
                if !record.standing.is_spare() && Handle::new(slot.0, dma, record.standing.born()) == handle =>
            {
                match &kept.put_away {
                    Some(put_away) => Ok((slot, record, kept, put_away)),
                    None if record.standing.get().0 == Holder::Quarantine => Err(HandleError::Quarantined { handle }),
                    None => Err(HandleError::Taken { handle }),
                }
            }
            _ => Err(HandleError::Stale { handle }),
        }
    }

    /// Returns what is known of a buffer that was put away.
    ///
    /// # Errors
    ///
    /// [`HandleError::Foreign`], [`HandleError::Stale`], [`HandleError::Taken`] or [`HandleError::Quarantined`] if no
    /// buffer is put away under this handle.
    pub fn raw_record(&self, handle: Handle) -> Result<RawRecord, HandleError> {
        let books = self.state.lock();
        let (_, record, kept, &PutAway { state, direction, .. }) = self.named(&books, handle)?;
        Ok(RawRecord { record: record.of(kept), state, direction, bus: body_of(record).bus })
    }

    /// Returns the handle of the buffer that was put away and begins at this address of the CPU, or `None` if there is
    /// none. A buffer has one address from the time at which the CPU first has it mapped, while it lives. It is found
    /// by that, whether it is mapped now or not.
    pub fn handle_at(&self, va: VirtAddr) -> Option<Handle> {
        let books = self.state.lock();
        let frame = books.images.frame_at(va)?;
        books.handle_from(frame, |body| body.standing.va() == Some(va))
    }

    /// Returns the handle of the buffer that was put away and begins at this bus address of `master`, or `None` if
    /// there is none.
    pub fn handle_on_bus(&self, master: &Master, bus: BusAddr) -> Option<Handle> {
        let frame = Frame::containing(master.phys(bus)?);
        self.state.lock().handle_from(frame, |body| body.bus == bus)
    }
}

/// Returns which of so many chains a buffer is in whose first frame this is. Neighbours come in different chains.
fn chain_of(first: Frame, chains: usize) -> usize {
    (first.number().wrapping_mul(0x9e37_79b9) >> (u32::BITS - Handle::SLOT_BITS)) as usize & (chains - 1)
}

/// Returns the body of a buffer that is put away.
fn body_of(record: &Record) -> &Body {
    record.body.as_deref().expect("its record has the body")
}

impl State {
    /// Returns the body of a buffer that is put away, and forgets that it is.
    fn take_out(&mut self, slot: BufferSlot) -> &'static mut Body {
        let PutAway { next, .. } = self.kept_mut(slot).put_away.take().expect("it was put away");
        let body = self.records.get_mut(slot).body.take().expect("its record has the body");
        let chains = &mut *self.records.chains;
        let chain = chain_of(Frame::containing(body.frames().base()), chains.len());
        let mut at = chains[chain];
        if usize::from(at) == slot.0 {
            chains[chain] = next;
            return body;
        }
        loop {
            let before = self.kept_mut(BufferSlot(at.into())).put_away.as_mut().expect("all in a chain are put away");
            if usize::from(before.next) == slot.0 {
                before.next = next;
                return body;
            }
            at = before.next;
        }
    }

    /// Returns the handle of the buffer that is put away, begins with this frame and passes a test.
    fn handle_from(&self, frame: Frame, test: impl FnOnce(&Body) -> bool) -> Option<Handle> {
        let mut at = self.records.chains[chain_of(frame, self.records.chains.len())];
        while at != LAST {
            let slot = BufferSlot(at.into());
            let record = self.records.get(slot);
            let Entry::Used(kept) = &record.entry else { unreachable!("a buffer has a record") };
            let put_away = kept.put_away.as_ref()?;
            if kept.extent.frames().start() == frame.number() {
                let found = test(body_of(record));
                return found.then(|| Handle::new(slot.0, self.window.id().number(), record.standing.born()));
            }
            at = put_away.next;
        }
        None
    }
}
