//! Whole pods: the pure core by tables and against every order of events, and the worker against a runtime that behaves.

mod model;
mod scene;
mod stage;
mod status;
mod steps;
