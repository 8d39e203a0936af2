//! Laws of the parts.
