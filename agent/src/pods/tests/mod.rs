//! Whole pods through the worker, with a runtime that behaves.

mod stage;
