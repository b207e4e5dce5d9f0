//! How a named scenario is written down and run.

use super::model::*;
use crate::planner::KeyPackageView;

/// A world, the plan for it, and what is left when the plan is carried out.
pub(super) struct Scenario {
    name: &'static str,
    world: World,
    /// The plan at first.
    expected: &'static str,
    /// The plan when nothing is left to do: alarms and who waits.
    at_last: &'static str,
}

pub(super) fn scenario(name: &'static str, world: World, expected: &'static str, at_last: &'static str) -> Scenario {
    Scenario { name, world, expected, at_last }
}

pub(super) fn with(mut world: World, change: impl FnOnce(&mut World)) -> World {
    change(&mut world);
    world
}

/// usher, the creator and `members` in one room, all with tickets.
pub(super) fn settled(members: &[u8]) -> World {
    World::new(members, vec![Room::new(0xa0).with(&[CREATOR]).with(members)])
}

pub(super) fn lost(world: &mut World, n: u8) {
    world.claims.holders.remove(&ticket(n));
    world.claims.former.insert(wallet(n));
}

/// A second device of inbox n, known since update 20.
pub(super) fn second_device(world: &mut World, n: u8, key_package: KeyPackageView) {
    let log = world.logs.get_mut(&inbox(n)).unwrap();
    log.insert(20, [device(n, 1), device(n, 2)].into());
    world.key_packages.insert(device(n, 2), key_package);
}

pub(super) fn run(scenarios: Vec<Scenario>) {
    for Scenario { name, mut world, expected, at_last } in scenarios {
        assert_eq!(world.plan().to_string(), expected, "the plan of: {name}");
        let rest = world.converge().unwrap_or_else(|why| panic!("{name}: {why}"));
        assert_eq!(rest.to_string(), at_last, "the end of: {name}");
    }
}
