// Written by carveout-plan from vexpress.toml. Do not edit: run it again.

use carveout::addr::PhysAddr;
use carveout::dma::{PlacedSet, Plan, PlannedArea, PlannedContract};

/// Areas and contracts of vexpress.toml.
pub(crate) const PLAN: Plan = Plan { areas: &AREAS, contracts: &CONTRACTS };

const AREAS: [PlannedArea; 1] = [
    PlannedArea {
        name: "video",
        runs: &[(PhysAddr::new(0x9f700000), 0x900000)],
        words: "area video was planned at 0x9f700000, 9 MiB: run carveout-plan on this tree and vexpress.toml",
    },
];

const CONTRACTS: [PlannedContract; 3] = [
    PlannedContract {
        cases: &["preview"],
        device: "camera",
        area: "video",
        sets: &[
            // frames
            PlacedSet {
                bytes: 614400,
                align: 4096,
                at: &[
                    PhysAddr::new(0x9f700000),
                    PhysAddr::new(0x9f796000),
                    PhysAddr::new(0x9f82c000),
                    PhysAddr::new(0x9f8c2000),
                ],
            },
        ],
    },
    PlannedContract {
        cases: &["preview"],
        device: "codec",
        area: "video",
        sets: &[
            // JPEG
            PlacedSet {
                bytes: 262144,
                align: 131072,
                at: &[
                    PhysAddr::new(0x9f960000),
                ],
            },
        ],
    },
    PlannedContract {
        cases: &["playback"],
        device: "codec",
        area: "video",
        sets: &[
            // decoded
            PlacedSet {
                bytes: 3145728,
                align: 1048576,
                at: &[
                    PhysAddr::new(0x9f700000),
                    PhysAddr::new(0x9fa00000),
                    PhysAddr::new(0x9fd00000),
                ],
            },
        ],
    },
];
