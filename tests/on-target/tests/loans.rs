//! Loans, contracts and the reserve on the machine itself (I1, I3, I5, I6, I7): the default area full of loans with
//! hashed contents, devices with contracts that take and free buffers at random.
//!
//! The boot argument `steps=N` sets how long, and how large the store of movable pages; without it, 100,000 allocations
//! and frees.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use carveout::addr::{FRAME_SIZE, VirtAddr};
use carveout::dma::{Discardable, LOAN_PAGE, LoanError, LoanPriority, Movable};
use carveout::vm::attr::MemoryType;
use carveout::vm::ledger::Carved;
use carveout_boards::demo::lending::{Plan, churn};
use carveout_boards::kernel::state::Kernel;
use carveout_boards::println;
use on_target::{Verdict, alloc, audit, checks, ensure, ensure_eq, is_unmapped, master};

checks![
    a_lent_page_is_mapped_while_a_closure_runs_and_no_longer,
    a_device_gets_what_was_lent,
    the_reserve_needs_no_zeroing,
    devices_and_borrowers_share_the_area,
];

const STEPS: u32 = 100_000;

fn a_lent_page_is_mapped_while_a_closure_runs_and_no_longer(kernel: &'static Kernel) -> Verdict {
    let area = kernel.default_area().ok_or("no default area")?;
    let cache = kernel.dma.borrower::<Discardable>(area, "cache", 4, LoanPriority::Low).map_err(|e| format!("{e}"))?;
    let loan = cache.borrow(4).map_err(|e| format!("{e}"))?;
    let at = cache
        .with(loan, 2, |page| -> Result<VirtAddr, alloc::string::String> {
            ensure_eq!(*page, [0; LOAN_PAGE], "a page never written");
            page[17] = 17;
            let va = VirtAddr::new(page.as_ptr().addr() as u32);
            ensure!(kernel.dma.lanes().contains(va), "{va} is not in the loan window");
            audit(kernel)?;
            Ok(va)
        })
        .map_err(|e| format!("{e}"))??;
    is_unmapped(at)?;
    let mut byte = [0];
    cache.read(loan, 2, 17, &mut byte).map_err(|e| format!("{e}"))?;
    ensure_eq!(byte, [17], "what the closure wrote");
    cache.give_back(loan).map_err(|e| format!("{e}"))?;
    ensure_eq!(cache.read(loan, 2, 17, &mut byte), Err(LoanError::Stale), "a loan that was given back");
    Ok(())
}

fn a_device_gets_what_was_lent(kernel: &'static Kernel) -> Verdict {
    let area = kernel.default_area().ok_or("no default area")?;
    let store = kernel.dma.borrower::<Movable>(area, "store", 64, LoanPriority::Low).map_err(|e| format!("{e}"))?;
    let free = kernel.dma.free_bytes(area).0 as u32;
    let cache = kernel.dma.borrower::<Discardable>(area, "cache", free / FRAME_SIZE, LoanPriority::Low);
    let cache = cache.map_err(|e| format!("{e}"))?;
    let kept = store.borrow(64).map_err(|e| format!("{e}"))?;
    for page in 0..64 {
        store.write(kept, page, 0, &[page as u8 + 1; LOAN_PAGE]).map_err(|e| format!("{e}"))?;
    }
    let rest = cache.borrow(free / FRAME_SIZE).map_err(|e| format!("{e}"))?;
    ensure_eq!(kernel.dma.lent(area).unlent, 0, "frames that are not lent");
    // All of the area at once.
    let all = kernel.dma.alloc(&master(kernel), free, 1).map_err(|e| format!("{e}"))?;
    let all = all.into_coherent();
    let words = all.as_ptr().cast::<u32>();
    for n in 0..free as usize / size_of::<u32>() {
        let at = words.as_ptr().wrapping_add(n);
        // SAFETY: inside the buffer, which is mapped while it lives.
        let word = unsafe { at.read_volatile() };
        ensure!(word == 0, "I5: word {n} of what was lent is not zeroed");
    }
    ensure_eq!(
        kernel.dma.state_of(all.frames().iter().next().ok_or("no frames")?),
        Some(Carved::Mapped(MemoryType::NonCacheable)),
        "the first frame"
    );
    let mut bytes = [0; LOAN_PAGE];
    for page in 0..64 {
        store.read(kept, page, 0, &mut bytes).map_err(|e| format!("{e}"))?;
        ensure!(bytes == [page as u8 + 1; LOAN_PAGE], "I6: movable page {page} changed");
    }
    // SAFETY: no device was told of it.
    drop(unsafe { all.release() });
    store.give_back(kept).map_err(|e| format!("{e}"))?;
    cache.give_back(rest).map_err(|e| format!("{e}"))
}

fn the_reserve_needs_no_zeroing(kernel: &'static Kernel) -> Verdict {
    let area = kernel.default_area().ok_or("no default area")?;
    kernel.dma.set_reserve(area, 1 << 20);
    while kernel.dma.idle_work(area, 64) > 0 {}
    let zeroed = kernel.dma.stats().zeroed;
    let mut buffer = alloc(kernel, 1 << 20)?.into_coherent();
    ensure_eq!(kernel.dma.stats().zeroed, zeroed, "bytes zeroed");
    let mut bytes = [1; LOAN_PAGE];
    for page in 0..256 {
        buffer.read_at(page * LOAN_PAGE, &mut bytes);
        ensure!(bytes == [0; LOAN_PAGE], "I5: page {page} of the reserve is not zeroed");
    }
    buffer.write_at(0, &[1; LOAN_PAGE]);
    kernel.dma.set_reserve(area, 0);
    Ok(())
}

fn devices_and_borrowers_share_the_area(kernel: &'static Kernel) -> Verdict {
    let steps = kernel.info.bootargs().get("steps").and_then(|arg| arg.value?.parse().ok()).unwrap_or(STEPS);
    let plan = Plan { steps, audit_every: (steps / 100).max(50), store: steps.min(1024), seed: 0x2026 };
    let tally = churn(kernel, plan)?;
    println!("{tally}");
    ensure!(tally.recalls > steps / 20 && tally.store.moved > 0 && tally.scratch.discarded > 0, "too few recalls");
    Ok(())
}
