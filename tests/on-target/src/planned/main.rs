//! A kernel that makes its contracts at boot by the table that `carveout-plan` wrote for plan/cases/vexpress.toml. It
//! changes between use cases that share memory, and refuses a tree that the plan was not made for. It needs the area of
//! tests/cases/plan.toml.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec::Vec;
use carveout::dma::{Contract, ContractError, PlannedContract};
use carveout_armv7a::mmu::Armv7a;
use carveout_boards::kernel::{bring_up, console, state::Kernel};
use carveout_boards::println;
use carveout_rt::start::BootHandover;
use table::PLAN;

// The table is as the tool writes it, because a test of the tool compares it letter by letter.
#[rustfmt::skip]
mod table;

carveout_rt::entry!(main);

/// How often the use case changes.
const CHANGES: u32 = 100;

fn main(handover: BootHandover) -> ! {
    let kernel = bring_up::start(handover);
    if let Err(error) = kernel.dma.check_plan(&PLAN) {
        console::die(format_args!("{error}"));
    }
    for change in 0..CHANGES {
        let (now, other) = if change % 2 == 0 { ("preview", "playback") } else { ("playback", "preview") };
        let contracts = match begin(kernel, now) {
            Ok(contracts) => contracts,
            Err(error) => console::die(format_args!("{now}: {error}")),
        };
        let buffers = contracts.iter().map(|(planned, contract)| fill(planned, contract)).sum::<usize>();
        let refused = begin(kernel, other).err();
        if change < 2 {
            println!("{now}: {} contracts, {buffers} buffers, each at its place", contracts.len());
            if let Some(error) = refused {
                println!("{other} beside {now}: {error}");
            }
        }
    }
    println!("plan: ok after {CHANGES} changes");
    console::exit(0)
}

/// Makes the contracts of a use case.
fn begin(
    kernel: &'static Kernel,
    case: &str,
) -> Result<Vec<(&'static PlannedContract, Contract<Armv7a>)>, ContractError> {
    let make = |planned: &'static PlannedContract| {
        let path = if planned.device == "camera" { "/camera" } else { "/codec" };
        Ok((planned, kernel.dma.contract_at(&kernel.master(path), planned.sets)?))
    };
    PLAN.of_case(case).map(make).collect()
}

/// Allocates all that a contract declares, the last set first, and frees it. Returns the number of buffers.
fn fill(planned: &PlannedContract, contract: &Contract<Armv7a>) -> usize {
    let mut held = Vec::new();
    for set in planned.sets.iter().rev() {
        for _ in set.at {
            match contract.alloc(set.bytes, set.align) {
                Ok(buffer) if set.at.contains(&buffer.frames().base()) => held.push(buffer),
                Ok(buffer) => {
                    console::die(format_args!("a buffer at {}, which is no place of its set", buffer.frames()))
                }
                Err(error) => console::die(format_args!("{error}")),
            }
        }
    }
    held.len()
}
