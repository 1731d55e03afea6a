//! Invariants across objects, as typed findings.
