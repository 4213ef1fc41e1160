//! A plan of contracts that a tool made before the kernel was built (`carveout-plan`, docs/src/plan.md).
//!
//! Guarantee: a plan that was [checked](Dma::check_plan) was made for areas that are as they are here.

use crate::addr::{FrameRange, PhysAddr};
use crate::cma::contract::PlacedSet;
use crate::dma::registry::Dma;
use crate::machine::Machine;
use core::fmt;

/// Areas and contracts, as `carveout-plan --rust` writes them.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The areas that it was made for.
    pub areas: &'static [PlannedArea],
    /// The contracts. Those that no use case has in common may have places in common.
    pub contracts: &'static [PlannedContract],
}

/// An area that a plan was made for.
#[derive(Clone, Copy, Debug)]
pub struct PlannedArea {
    /// Its name, without a unit address.
    pub name: &'static str,
    /// Its runs, each as its first byte and its bytes.
    pub runs: &'static [(PhysAddr, u64)],
    /// What to say if the area is another one: a line of the tool's.
    pub words: &'static str,
}

/// A contract of a plan: the buffers that one device has in the same use cases.
#[derive(Clone, Copy, Debug)]
pub struct PlannedContract {
    /// The use cases. The contract is held while one of them runs.
    pub cases: &'static [&'static str],
    /// The device.
    pub device: &'static str,
    /// The area's name, without a unit address.
    pub area: &'static str,
    /// The buffers, each at its place.
    pub sets: &'static [PlacedSet<'static>],
}

impl Plan {
    /// Yields the contracts that a use case needs.
    pub fn of_case(&self, case: &str) -> impl Iterator<Item = &'static PlannedContract> {
        self.contracts.iter().filter(move |contract| contract.cases.contains(&case))
    }
}

/// An area is not what a plan was made for. It prints the plan's own words.
#[derive(Clone, Copy, Debug)]
pub struct PlanDiffers {
    /// The plan's area.
    pub area: PlannedArea,
    /// The first run of the area that has this name here. `None` if no area has it.
    pub found: Option<FrameRange>,
}

impl fmt::Display for PlanDiffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "plan refused: {}; here ", self.area.words)?;
        match self.found {
            Some(found) => write!(f, "it is at {found}"),
            None => write!(f, "there is no area of that name"),
        }
    }
}

impl core::error::Error for PlanDiffers {}

impl<M: Machine> Dma<M> {
    /// Checks that the areas are those that a plan was made for.
    ///
    /// # Errors
    ///
    /// [`PlanDiffers`], for the first area that is not there or lies elsewhere.
    pub fn check_plan(&self, plan: &Plan) -> Result<(), PlanDiffers> {
        for area in plan.areas {
            let runs = area.runs.iter().map(|&(base, bytes)| FrameRange::within(base.raw().into(), bytes));
            let found = self.area_named(area.name).map(|(_, found)| found);
            if !found.as_ref().is_some_and(|found| found.iter().copied().eq(runs)) {
                let found = found.and_then(|found| found.first().copied());
                return Err(PlanDiffers { area: *area, found });
            }
        }
        Ok(())
    }
}
