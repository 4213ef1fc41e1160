//! Names that C passes.

use crate::failure::Refusal;
use carveout::name::Name;
use core::ffi::{CStr, c_char};

/// Returns a copy of the name that C passed for a thing of kind `of`.
///
/// # Errors
///
/// [`Refusal::Null`] or [`Refusal::Name`] if it is none.
///
/// # Safety
///
/// `name` is NULL, or a string that ends with a NUL.
pub(crate) unsafe fn name(of: &'static str, name: *const c_char) -> Result<Name, Refusal> {
    if name.is_null() {
        return Err(Refusal::Null(of));
    }
    // SAFETY: a string, as this function demands.
    let bytes = unsafe { CStr::from_ptr(name) };
    let text = bytes.to_str().map_err(|_| Refusal::Name(of))?;
    if text.len() <= Name::MAX { Ok(Name::new(text)) } else { Err(Refusal::Name(of)) }
}
