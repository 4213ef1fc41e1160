//! The commands that take memory and give it back.
//!
//! Guarantees: what a refused command asked for is not taken in part, but for `lend`, which lends what is idle and says
//! how much.

use super::commands::Refused;
use super::session::{Cache, Held, Promise, Refusal, Session};
use super::words::{number, size};
use crate::println;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use carveout::addr::{Bytes, FRAME_SHIFT, FRAME_SIZE};
use carveout::dma::{ContractError, ContractSet, LendError, LoanPriority};

type Done = Result<(), Refused>;

/// The most buffers of a contract.
const MOST: u32 = 1024;

pub(super) fn alloc(session: &mut Session, words: &[&str]) -> Done {
    let [name, bytes] = words else { return Err(Refused::Usage) };
    let (requester, bytes) = (session.requester(name)?.clone(), size(bytes)?);
    let recalled = session.recalled();
    let promise = session.promises.iter().find(|promise| promise.name == requester.name);
    let got = match promise {
        Some(promise) => promise.contract.alloc_coherent(bytes, 1),
        None => session.kernel.dma.alloc_coherent(&requester.master, bytes, 1),
    };
    let promised = promise.is_some();
    let buffer = match got {
        Ok(buffer) => buffer,
        Err(error) => {
            session.refusal = Some(Refusal { requester, bytes, error });
            return Err(format!("{error}; the command why says more").into());
        }
    };
    session.numbers += 1;
    let (number, by) = (session.numbers, if promised { ", by contract" } else { "" });
    println!("buffer {number}: {} for {}, at {}{by}", Bytes(bytes.into()), requester.name, buffer.frames());
    session.held.push(Held { number, name: requester.name, buffer, promised });
    let recalled = session.recalled() - recalled;
    if recalled > 0 {
        println!("recalled {} from the cache", Bytes(recalled));
    }
    Ok(())
}

pub(super) fn free(session: &mut Session, words: &[&str]) -> Done {
    match words {
        [] => {
            for held in &session.held {
                println!("{}", line(held));
            }
            println!("buffers: {}; free NUMBER frees one, free all frees all", session.held.len());
        }
        ["all"] => {
            println!("freed buffers: {}", session.held.len());
            session.held.clear();
        }
        [word] => {
            let wanted = number(word, "buffer's number", u32::MAX)?;
            let at = session.held.iter().position(|held| held.number == wanted);
            let at = at.ok_or_else(|| format!("there is no buffer {wanted}; free lists those that there are"))?;
            let held = session.held.remove(at);
            println!("freed {}", line(&held));
        }
        _ => return Err(Refused::Usage),
    }
    Ok(())
}

/// Describes a buffer.
fn line(held: &Held) -> String {
    format!("buffer {}: {} of {}, at {}", held.number, Bytes(held.buffer.len() as u64), held.name, held.buffer.frames())
}

pub(super) fn lend(session: &mut Session, words: &[&str]) -> Done {
    match words {
        [] => {}
        ["none"] => session.unlend(),
        [word] => borrow(session, size(word)?)?,
        _ => return Err(Refused::Usage),
    }
    let Some(cache) = &session.cache else {
        println!("nothing is lent; lend SIZE lends idle memory to a cache");
        return Ok(());
    };
    let stats = cache.borrower.stats();
    let bytes = |pages: u64| Bytes(pages << FRAME_SHIFT);
    println!("the cache has {}; recalled since boot: {}", bytes(stats.in_area.into()), bytes(stats.recalled));
    Ok(())
}

/// Lends as much to the cache, and has each page written.
fn borrow(session: &mut Session, bytes: u32) -> Done {
    if session.cache.is_none() {
        let area = session.kernel.default_area().ok_or_else(|| String::from("there is no default area to lend of"))?;
        let place = session.kernel.layout.areas().iter().position(|area| area.default);
        let all = place.map_or(0, |place| session.kernel.layout.areas()[place].bytes());
        let pages = (all / u64::from(FRAME_SIZE)) as u32;
        let borrower = session.kernel.dma.borrower(area, "cache", pages, LoanPriority::Low);
        session.cache = Some(Cache { borrower: borrower.map_err(|error| format!("{error}"))?, loans: Vec::new() });
    }
    let Some(Cache { borrower, loans }) = &mut session.cache else { return Ok(()) };
    let wanted = bytes.div_ceil(FRAME_SIZE);
    let mut left = wanted;
    while left > 0 {
        let loan = match borrower.borrow(left) {
            Ok(loan) => loan,
            Err(LendError::NothingIdle | LendError::Spent { .. }) => break,
            Err(error) => return Err(format!("{error}").into()),
        };
        for page in 0..loan.len() {
            // One that was recalled already is written by nobody.
            let _ = borrower.write(loan, page, 0, &page.to_le_bytes());
        }
        left -= loan.len();
        loans.push(loan);
    }
    if left > 0 {
        let (lent, wanted) = (u64::from(wanted - left) << FRAME_SHIFT, u64::from(wanted) << FRAME_SHIFT);
        println!("lent {} of {}: no more is idle", Bytes(lent), Bytes(wanted));
    }
    Ok(())
}

pub(super) fn contract(session: &mut Session, words: &[&str]) -> Done {
    match words {
        [name, "none"] => {
            let name = session.requester(name)?.name;
            let at = session.promises.iter().position(|promise| promise.name == name);
            let at = at.ok_or_else(|| format!("{name} has no contract; contract {name} 2 1M makes one"))?;
            session.promises.remove(at);
            session.held.iter_mut().filter(|held| held.name == name).for_each(|held| held.promised = false);
            println!("the contract of {name} ended");
        }
        [name, count, bytes] => {
            let requester = session.requester(name)?.clone();
            let (name, count, bytes) = (requester.name, number(count, "number of buffers", MOST)?, size(bytes)?);
            if session.promises.iter().any(|promise| promise.name == name) {
                return Err(format!("{name} has a contract; contract {name} none ends it").into());
            }
            let set = ContractSet { count, bytes, align: 1 };
            let contract = session.kernel.dma.contract(&requester.master, &[set]).map_err(|refused| {
                if let ContractError::Set { error, .. } = refused {
                    session.refusal = Some(Refusal { requester, bytes, error });
                    return format!("{refused}; the command why says more");
                }
                format!("{refused}")
            })?;
            println!("{name} always gets {set}");
            session.promises.push(Promise { name, count, bytes, contract });
        }
        _ => return Err(Refused::Usage),
    }
    Ok(())
}
