//! The planner against a small model of the network: named scenarios and properties.

mod model;
mod properties;
mod room_scenarios;
mod scenario;
mod scenarios;
