//! Whole pods: the pure core against every order of events, and the worker against a runtime that behaves.

mod model;
mod stage;
