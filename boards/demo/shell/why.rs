//! Why a request was refused: what lies in its way now, and what would have helped.
//!
//! Guarantees: what is said to help comes from the error and the books of this moment, so it may be less than it was at
//! the refusal.

use super::session::{Refusal, Session};
use super::way::cheapest_window;
use crate::println;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use carveout::addr::{Bytes, FRAME_SIZE, FrameRange};
use carveout::dma::{AllocError, Occupant};

/// What lies in the way: its frames, how it is named, and the command that would free it.
struct Obstacle {
    frames: FrameRange,
    what: String,
    help: String,
}

pub(super) fn why(session: &mut Session) {
    let Some(Refusal { requester, bytes, error }) = &session.refusal else {
        println!("nothing was refused yet");
        return;
    };
    println!("{} asked for {}: {error}", requester.name, Bytes((*bytes).into()));
    let name = requester.name;
    match error {
        AllocError::NoCapacity { .. } | AllocError::Fragmented(_) | AllocError::OutOfReach(_) => {
            in_the_way(session, requester.area, *bytes);
        }
        AllocError::ContractExceeded { .. } => {
            for held in session.held.iter().filter(|held| held.promised && held.name == name) {
                println!("in the way: buffer {} of {name}", held.number);
            }
            println!("would help: free one of these, or contract {name} none and a contract for more");
        }
        AllocError::NotDeclared { .. } => println!("would help: contract {name} none, and a contract for this size"),
        AllocError::NoArea(_) => println!("would help: an area, such as cma=64M at the next boot makes"),
        AllocError::NotTaken => println!("would help: the kernel gives the area back"),
        AllocError::Open { .. } => println!("would help: to ask again"),
        AllocError::TooManyBuffers { .. } => println!("would help: free a buffer"),
        AllocError::ZeroSize | AllocError::Alignment { .. } => println!("would help: a request that can be"),
    }
}

/// Prints what lies in the way of a request for room, in the window where that is least.
fn in_the_way(session: &Session, area: Option<usize>, bytes: u32) {
    let Some(area) = area.and_then(|area| session.areas().nth(area)) else { return };
    let wanted = bytes.div_ceil(FRAME_SIZE);
    let mut obstacles: Vec<Obstacle> = Vec::new();
    session.kernel.dma.holders().for_each(|record| {
        let (frames, ours) = (record.frames, session.held.iter().find(|held| held.buffer.frames() == record.frames));
        let (what, help) = match ours {
            Some(held) => (format!("buffer {} of {}", held.number, held.name), format!("free {}", held.number)),
            None => (format!("{} buffer of {}", record.holder, record.owner), format!("its end by {}", record.owner)),
        };
        obstacles.push(Obstacle { frames, what, help });
    });
    session.kernel.dma.for_each_run(area.id, |frames, occupant| {
        if occupant == Occupant::Contract {
            let names: Vec<String> =
                session.promises.iter().map(|promise| format!("contract {} none", promise.name)).collect();
            let help = if names.is_empty() { String::from("the contract's end") } else { names.join(" or ") };
            obstacles.push(Obstacle { frames, what: String::from("places of a contract"), help });
        }
    });
    obstacles.retain(|obstacle| area.ranges.iter().any(|range| range.covers(obstacle.frames)));
    obstacles.sort_unstable_by_key(|obstacle| obstacle.frames.start());
    let frames: Vec<FrameRange> = obstacles.iter().map(|obstacle| obstacle.frames).collect();
    let Some(window) = cheapest_window(&area.ranges, &frames, wanted) else {
        let longest = area.ranges.iter().map(|range| range.bytes()).max().unwrap_or(0);
        println!("in the way: the area's end; its longest range has {}", Bytes(longest));
        println!("would help: a larger area, such as cma= at the next boot makes");
        return;
    };
    let in_way: Vec<&Obstacle> = obstacles.iter().filter(|obstacle| obstacle.frames.overlaps(window)).collect();
    for Obstacle { frames, what, .. } in &in_way {
        println!("in the way: {what}, at {frames}");
    }
    let helps: Vec<&str> = in_way.iter().map(|obstacle| obstacle.help.as_str()).collect();
    if helps.is_empty() {
        println!("nothing is in the way now: ask again");
    } else {
        println!("would help: {}; then {window} is free", helps.join(", "));
    }
}
