//! The cost of a buffer.

use crate::machine::Lines;

/// The work that a buffer took, for tables and for tests that it was the least.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Effort {
    /// Changes of state.
    pub transitions: u32,
    /// Mappings made and ended.
    pub map_changes: u32,
    /// Cache lines cleaned.
    pub cleaned: Lines,
    /// Cache lines invalidated.
    pub invalidated: Lines,
}

impl Effort {
    /// Returns the cache lines that were maintained, by whatever operation.
    pub fn lines(&self) -> Lines {
        self.cleaned + self.invalidated
    }
}

impl core::ops::Add for Effort {
    type Output = Self;

    fn add(self, more: Self) -> Self {
        Self {
            transitions: self.transitions + more.transitions,
            map_changes: self.map_changes + more.map_changes,
            cleaned: self.cleaned + more.cleaned,
            invalidated: self.invalidated + more.invalidated,
        }
    }
}
