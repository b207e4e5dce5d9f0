//! Named scenarios: what the plan reads like, and that it can be carried out.

use std::collections::BTreeMap;

use super::model::*;
use crate::{
    admission::{Answer, CreatorRole, Unresolved},
    planner::{KeyPackageView, Limits, RoomState, WantedMetadata},
};

struct Scenario {
    name: &'static str,
    world: World,
    /// The plan at first.
    expected: &'static str,
    /// The plan when nothing is left to do: alarms and who waits.
    at_last: &'static str,
}

fn scenario(name: &'static str, world: World, expected: &'static str, at_last: &'static str) -> Scenario {
    Scenario { name, world, expected, at_last }
}

fn with(mut world: World, change: impl FnOnce(&mut World)) -> World {
    change(&mut world);
    world
}

/// usher, the creator and `members` in one room, all with tickets.
fn settled(members: &[u8]) -> World {
    World::new(members, vec![Room::new(0xa0).with(&[CREATOR]).with(members)])
}

fn lost(world: &mut World, n: u8) {
    world.claims.holders.remove(&ticket(n));
    world.claims.former.insert(wallet(n));
}

/// A second device of inbox n, known since update 20.
fn second_device(world: &mut World, n: u8, key_package: KeyPackageView) {
    let log = world.logs.get_mut(&inbox(n)).unwrap();
    log.insert(20, [device(n, 1), device(n, 2)].into());
    world.key_packages.insert(device(n, 2), key_package);
}

fn run(scenarios: Vec<Scenario>) {
    for Scenario { name, mut world, expected, at_last } in scenarios {
        assert_eq!(world.plan().to_string(), expected, "the plan of: {name}");
        let rest = world.converge().unwrap_or_else(|why| panic!("{name}: {why}"));
        assert_eq!(rest.to_string(), at_last, "the end of: {name}");
    }
}

#[test]
fn a_room_from_the_mint_to_the_first_guests() {
    run(vec![
        scenario("an event was minted", World::new(&[], vec![]), "create a room\n", ""),
        scenario("all is well", settled(&[3, 4]), "", ""),
        scenario(
            "the creator and two holders come into a new room, and the creator takes charge",
            World::new(&[3, 4], vec![Room::new(0xa0)]),
            "a0a0a0a0: add 02020202=10 03030303=10 04040404=10 +02010000 +03010000 +04010000\n\
             a0a0a0a0: roles +admin 02020202\n",
            "",
        ),
        scenario(
            "a trusted creator becomes super admin, and who he appoints stays appointed",
            with(settled(&[3, 4]), |world| {
                world.claims.creator_role = CreatorRole::SuperAdmin;
                world.rooms[0].admins = [inbox(3)].into();
                world.rooms[0].super_admins.insert(inbox(4));
            }),
            "a0a0a0a0: roles +super 02020202\n",
            "",
        ),
        scenario(
            "a role without title is taken back",
            with(settled(&[3, 4]), |world| {
                world.rooms[0].admins = [inbox(3)].into();
                world.rooms[0].super_admins.extend([inbox(2), inbox(4)]);
            }),
            "a0a0a0a0: roles +admin 02020202 -admin 03030303 -super 02020202 -super 04040404\n",
            "",
        ),
        scenario(
            "widened policies are put back, the name is cut to what members accept",
            with(settled(&[]), |world| {
                world.rooms[0].policies_ok = false;
                world.metadata.name = Some("ü".repeat(51));
                world.rooms[0].name = "ü".repeat(50);
                world.metadata.description = Some("doors at 8".to_owned());
            }),
            "a0a0a0a0: restore policies\na0a0a0a0: describe description=\"doors at 8\"\n",
            "",
        ),
    ]);
}

#[test]
fn who_must_go() {
    run(vec![
        scenario(
            "a refund goes before a purchase, in a commit of its own",
            with(World::new(&[3, 4, 5], vec![Room::new(0xa0).with(&[2, 3, 4])]), |world| lost(world, 4)),
            "a0a0a0a0: remove (04040404: ticket lost) 04040404=out -04010000\n\
             a0a0a0a0: add 05050505=10 +05010000\n",
            "",
        ),
        scenario(
            "a failed device stays listed when its inbox goes, one with a leaf does not",
            with(settled(&[3, 4]), |world| {
                second_device(world, 3, unusable());
                world.rooms[0].map.insert(inbox(3), 20);
                world.rooms[0].failed = [device(3, 2), device(4, 1)].into();
                world.claims.bans = [inbox(3), inbox(4)].into();
            }),
            "a0a0a0a0: remove (03030303: banned, 04040404: banned) \
             03030303=out 04040404=out -03010000 -04010000 !03020000\n",
            "",
        ),
        scenario(
            "a revocation does not wait for the identity log",
            with(settled(&[3, 4]), |world| {
                lost(world, 3);
                world.silent = [inbox(3)].into();
            }),
            "a0a0a0a0: remove (03030303: ticket lost) 03030303=out -03010000\n",
            "",
        ),
        scenario(
            "an admin loses the list first; others do not wait for that",
            with(settled(&[3, 4, 5]), |world| {
                world.rooms[0].super_admins.insert(inbox(3));
                world.claims.bans = [inbox(CREATOR), inbox(3), inbox(4)].into();
            }),
            "a0a0a0a0: remove (04040404: banned) 04040404=out -04010000\n\
             a0a0a0a0: roles -admin 02020202 -super 03030303\n\
             a0a0a0a0: remove (02020202: banned, 03030303: banned) 02020202=out 03030303=out -02010000 -03010000\n",
            "",
        ),
        scenario(
            "somebody else removed an admin: the role does not wait for him to come back",
            with(settled(&[3]), |world| {
                world.rooms[0].map.remove(&inbox(CREATOR));
                world.rooms[0].tree.remove(&device(CREATOR, 1));
                world.claims.bans = [inbox(CREATOR)].into();
            }),
            "a0a0a0a0: roles -admin 02020202\n",
            "",
        ),
        scenario(
            "a leave request is followed, and not undone while its row is not written",
            with(settled(&[3, 4]), |world| world.rooms[0].leave_requests = [inbox(3), inbox(USHER)].into()),
            "a0a0a0a0: remove (03030303: left) 03030303=out -03010000\n",
            "",
        ),
        scenario(
            "usher's own inbox stays, whatever is said of it",
            with(settled(&[]), |world| {
                world.claims.bans = [inbox(USHER)].into();
                world.claims.left = [inbox(USHER)].into();
            }),
            "",
            "",
        ),
    ]);
}

#[test]
fn what_nothing_explains() {
    let twenty: Vec<u8> = (3..23).collect();
    let without = |world: World, gone: &[u8]| {
        with(world, |world| gone.iter().for_each(|n| _ = world.claims.holders.remove(&ticket(*n))))
    };
    run(vec![
        scenario(
            "two of 21 may go unexplained",
            without(settled(&twenty), &[3, 4]),
            "a0a0a0a0: remove (03030303: unexplained, 04040404: unexplained) \
             03030303=out 04040404=out -03010000 -04010000\n",
            "",
        ),
        scenario(
            "three may not, and then none does",
            without(settled(&twenty), &[3, 4, 5]),
            "! a0a0a0a0: nothing explains the removal of 03030303 04040404 05050505\n",
            "! a0a0a0a0: nothing explains the removal of 03030303 04040404 05050505\n",
        ),
        scenario(
            "what was removed lately counts",
            with(without(settled(&twenty), &[3]), |world| world.rooms[0].unexplained_removals = 2),
            "! a0a0a0a0: nothing explains the removal of 03030303\n",
            "! a0a0a0a0: nothing explains the removal of 03030303\n",
        ),
        scenario(
            "nobody goes unexplained while the network is silent about somebody",
            with(without(settled(&twenty), &[3]), |world| _ = world.claims.answers.remove(&wallet(4))),
            "! a0a0a0a0: nothing explains the removal of 03030303 04040404\n",
            "! a0a0a0a0: nothing explains the removal of 03030303 04040404\n",
        ),
        scenario(
            "an empty read removes nobody",
            with(settled(&[3, 4, 5]), |world| {
                world.claims.holders.clear();
                world.claims.answers.clear();
            }),
            "! a0a0a0a0: nothing explains the removal of 02020202 03030303 04040404 05050505\n",
            "! a0a0a0a0: nothing explains the removal of 02020202 03030303 04040404 05050505\n",
        ),
    ]);
}

#[test]
fn key_packages() {
    run(vec![
        scenario(
            "no usable device: wait; some: the rest is listed as failed; unknown: ask again first",
            with(World::new(&[3, 4, 5, 6, 7], vec![Room::new(0xa0).with(&[CREATOR])]), |world| {
                world.key_packages.insert(device(3, 1), unusable());
                second_device(world, 4, unusable());
                second_device(world, 5, KeyPackageView::Unknown);
                world.silent = [inbox(6)].into();
                world.logs.insert(inbox(7), [(10, [].into())].into());
            }),
            "a0a0a0a0: add 04040404=20 +04010000 !04020000\n\
             wait 03030303: none of its installations can be added\n\
             wait 05050505: its key packages were not read\n\
             wait 06060606: its identity log was not read\n\
             wait 07070707: it has no installation\n",
            "wait 03030303: none of its installations can be added\n\
             wait 05050505: its key packages were not read\n\
             wait 06060606: its identity log was not read\n\
             wait 07070707: it has no installation\n",
        ),
        scenario(
            "who was listed as failed comes off the list when added",
            with(World::new(&[3], vec![Room::new(0xa0).with(&[CREATOR])]), |world| {
                world.rooms[0].failed = [device(3, 1), device(9, 9)].into();
            }),
            "a0a0a0a0: add 03030303=10 +03010000 !09090000\n",
            "",
        ),
        scenario(
            "one device in two inboxes' names",
            with(settled(&[3, 4]), |world| {
                world.claims.holders.insert(ticket(5), wallet(5));
                world.claims.holders.insert(ticket(6), wallet(6));
                world
                    .logs
                    .insert(inbox(4), [(10, [device(4, 1)].into()), (20, [device(4, 1), device(6, 1)].into())].into());
                world.logs.insert(inbox(5), [(10, [device(3, 1)].into())].into());
                world.rooms[0].map.insert(inbox(4), 10);
            }),
            "a0a0a0a0: refresh 04040404=20 +06010000\n\
             wait 05050505: another inbox has its installation in the room\n\
             wait 06060606: another inbox has its installation in the room\n",
            "wait 05050505: another inbox has its installation in the room\n\
             wait 06060606: another inbox has its installation in the room\n",
        ),
    ]);
}

#[test]
fn devices_of_members() {
    run(vec![
        scenario(
            "given up devices go first; new ones come, or are listed",
            with(settled(&[3, 4, 5, 6]), |world| {
                second_device(world, 3, usable());
                second_device(world, 4, unusable());
                world.logs.get_mut(&inbox(5)).unwrap().insert(30, [device(5, 3)].into());
                world.key_packages.insert(device(5, 3), usable());
                second_device(world, 6, KeyPackageView::Unknown);
                world.limits.commit_bytes = 18_500 + KEY_PACKAGE;
            }),
            "a0a0a0a0: refresh 05050505=30 +05030000 -05010000\n\
             a0a0a0a0: refresh 03030303=20 04040404=20 +03020000 !04020000\n\
             wait 06060606: its key packages were not read\n",
            "wait 06060606: its key packages were not read\n",
        ),
        scenario(
            "a failed device that was given up stays listed in that commit",
            with(settled(&[3]), |world| {
                second_device(world, 3, unusable());
                world.rooms[0].map.insert(inbox(3), 20);
                world.rooms[0].failed = [device(3, 2)].into();
                world.logs.get_mut(&inbox(3)).unwrap().insert(30, [device(3, 1)].into());
            }),
            "a0a0a0a0: refresh 03030303=30 !03020000\n",
            "",
        ),
        scenario(
            "a creator's placeholder id 0 is raised without touching his leaf",
            with(settled(&[]), |world| {
                second_device(world, CREATOR, usable());
                world.rooms[0].map.insert(inbox(CREATOR), 0);
            }),
            "a0a0a0a0: refresh 02020202=20 +02020000\n",
            "",
        ),
        scenario(
            "devices of who has no title are not looked after",
            with(settled(&[3, 4]), |world| {
                second_device(world, 3, usable());
                world.claims.holders.remove(&ticket(3));
            }),
            "! a0a0a0a0: nothing explains the removal of 03030303\n",
            "! a0a0a0a0: nothing explains the removal of 03030303\n",
        ),
        scenario(
            "silence about a member changes nothing",
            with(settled(&[3]), |world| {
                second_device(world, 3, usable());
                world.silent = [inbox(3)].into();
            }),
            "",
            "",
        ),
    ]);
}

#[test]
fn repairs() {
    let failed = |n: u8, key_package: KeyPackageView| {
        with(settled(&[3, 4]), |world| {
            second_device(world, n, key_package);
            world.rooms[0].map.insert(inbox(n), 20);
            world.rooms[0].failed = [device(n, 2)].into();
        })
    };
    run(vec![
        scenario(
            "a failed device has a key package now: out, and in with both; newcomers first",
            with(failed(3, usable()), |world| _ = world.claims.holders.insert(ticket(5), wallet(5))),
            "a0a0a0a0: add 05050505=10 +05010000 !03020000\n\
             a0a0a0a0: readmit 03030303=out -03010000 !03020000\n\
             a0a0a0a0: add 03030303=20 +03010000 +03020000\n",
            "",
        ),
        scenario(
            "an admin steps down to be repaired and is appointed again",
            failed(CREATOR, usable()),
            "a0a0a0a0: roles -admin 02020202\n\
             a0a0a0a0: readmit 02020202=out -02010000 !02020000\n\
             a0a0a0a0: add 02020202=20 +02010000 +02020000\n\
             a0a0a0a0: roles +admin 02020202\n",
            "",
        ),
        scenario("it still has none", failed(3, unusable()), "", ""),
        scenario("nobody knows", failed(3, KeyPackageView::Unknown), "", ""),
        scenario(
            "another device of the inbox would be lost",
            with(failed(3, usable()), |world| _ = world.key_packages.insert(device(3, 1), unusable())),
            "",
            "",
        ),
        scenario(
            "it was tried lately",
            with(failed(3, usable()), |world| {
                let almost = world.now_ms - world.limits.repair_every_ms + 1;
                world.rooms[0].last_repaired_ms.insert(inbox(3), almost);
            }),
            "",
            "",
        ),
        scenario(
            "a member that cannot see the room is added again in one commit, with what can be",
            with(settled(&[3, 4]), |world| {
                second_device(world, 3, KeyPackageView::Unknown);
                world.rooms[0].map.insert(inbox(3), 20);
                world.rooms[0].tree.insert(device(3, 2), inbox(3));
                world.rooms[0].damaged = [inbox(3)].into();
            }),
            "a0a0a0a0: re-add +03010000 -03010000\n",
            "",
        ),
        scenario(
            "whoever is out for repair keeps the seat in a full room",
            with(World::new(&[3, 4, 5], vec![Room::new(0xa0).with(&[2, 4]), Room::new(0xa1).with(&[2])]), |world| {
                world.limits.seats_per_room = 4;
                world.rooms[0].last_repaired_ms.insert(inbox(5), world.now_ms);
            }),
            "a0a0a0a0: add 05050505=10 +05010000\na1a1a1a1: add 03030303=10 +03010000\n",
            "",
        ),
    ]);
}

#[test]
fn rooms_that_others_damaged() {
    let damaged = || {
        with(World::new(&[3, 4], vec![Room::new(0xa0).with(&[2, 3])]), |world| {
            second_device(world, 3, unusable());
            world.rooms[0].map.insert(inbox(3), 20);
            world.rooms[0].tree.insert(device(9, 9), inbox(9));
            world.rooms[0].tree.insert(device(3, 7), inbox(3));
        })
    };
    run(vec![
        scenario(
            "before anybody is added, leaves that nothing vouches for go and missing devices are listed",
            damaged(),
            "a0a0a0a0: mend -03070000 -09090000 !03020000 !03070000 !09090000\n\
             a0a0a0a0: add 04040404=10 +04010000 !03020000 !03070000 !09090000\n",
            "",
        ),
        scenario(
            "a removal takes such leaves along",
            with(damaged(), |world| {
                world.rooms[0].tree.remove(&device(9, 9));
                lost(world, 3);
                world.claims.holders.clear();
            }),
            "a0a0a0a0: remove (03030303: ticket lost) 03030303=out -03010000 -03070000 !03020000 !03070000\n",
            "",
        ),
        scenario(
            "nobody is added to what usher may not mend",
            with(damaged(), |world| {
                world.rooms[0].super_admins.clear();
                world.rooms[0].admins.insert(inbox(USHER));
            }),
            "! a0a0a0a0: usher is not a super admin\n\
             ! a0a0a0a0: nobody can join and usher may not mend it\n\
             a0a0a0a0: mend !03020000\n\
             wait 04040404: no room has a seat yet\n",
            "! a0a0a0a0: usher is not a super admin\n\
             ! a0a0a0a0: nobody can join and usher may not mend it\n\
             wait 04040404: no room has a seat yet\n",
        ),
    ]);
}

#[test]
fn several_rooms() {
    let four_seats = |world: World| with(world, |world| world.limits.seats_per_room = 4);
    run(vec![
        scenario(
            "the room is full: those who fit come in, the others get another room",
            four_seats(World::new(&[3, 4, 5], vec![Room::new(0xa0).with(&[CREATOR])])),
            "a0a0a0a0: add 03030303=10 04040404=10 +03010000 +04010000\n\
             create a room\n\
             wait 05050505: no room has a seat yet\n",
            "",
        ),
        scenario(
            "moderators sit in every room, others keep the seat they have",
            four_seats(with(
                World::new(&[3, 5], vec![Room::new(0xa0).with(&[2, 3]), Room::new(0xa1).with(&[2, 5])]),
                |world| world.claims.moderators = [inbox(8)].into(),
            )),
            "a0a0a0a0: add 08080808=10 +08010000\n\
             a1a1a1a1: add 08080808=10 +08010000\n\
             a0a0a0a0: roles +admin 08080808\n\
             a1a1a1a1: roles +admin 08080808\n",
            "",
        ),
        scenario(
            "a seat for a moderator is not given away",
            four_seats(with(World::new(&[3, 4], vec![Room::new(0xa0).with(&[2, 3])]), |world| {
                world.claims.moderators = [inbox(8)].into();
                world.key_packages.insert(device(8, 1), unusable());
            })),
            "create a room\n\
             wait 04040404: no room has a seat yet\n\
             wait 08080808: none of its installations can be added\n",
            "wait 08080808: none of its installations can be added\n",
        ),
        scenario(
            "nobody sits in two rooms",
            World::new(&[3], vec![Room::new(0xa0).with(&[2, 3]), Room::new(0xa1).with(&[2, 3])]),
            "a1a1a1a1: remove (03030303: seated elsewhere) 03030303=out -03010000\n",
            "",
        ),
        scenario(
            "a room for whom no room is large enough would help nobody",
            with(World::new(&[3], vec![Room::new(0xa0).with(&[CREATOR])]), |world| {
                world.limits.seats_per_room = 2;
                world.claims.moderators = [inbox(8)].into();
            }),
            "a0a0a0a0: add 08080808=10 +08010000\n\
             a0a0a0a0: roles +admin 08080808\n\
             wait 03030303: no room can take it\n",
            "wait 03030303: no room can take it\n",
        ),
        scenario(
            "leaves are limited as well",
            with(World::new(&[3, 4], vec![Room::new(0xa0).with(&[CREATOR])]), |world| {
                second_device(world, 3, usable());
                world.limits.leaves_per_room = 4;
            }),
            "a0a0a0a0: add 03030303=20 +03010000 +03020000\n\
             create a room\n\
             wait 04040404: no room has a seat yet\n",
            "",
        ),
        scenario(
            "as many newcomers in a commit as it holds",
            with(World::new(&[3, 4, 5], vec![Room::new(0xa0).with(&[CREATOR])]), |world| {
                world.limits.commit_bytes = 17_500 + 2 * KEY_PACKAGE;
            }),
            "a0a0a0a0: add 03030303=10 04040404=10 +03010000 +04010000\n\
             a0a0a0a0: add 05050505=10 +05010000\n",
            "",
        ),
    ]);
}

#[test]
fn rooms_in_doubt() {
    let lost_room = |successor| with(settled(&[3]), |world| world.rooms[0].state = RoomState::Lost { successor });
    run(vec![
        scenario(
            "a lost room is not written to",
            lost_room(None),
            "create a room in place of a0a0a0a0\nwait 03030303: no room has a seat yet\n",
            "",
        ),
        scenario(
            "its members come into the successor, not into an older room",
            with(lost_room(Some(group(0xa2))), |world| {
                world.rooms.extend([Room::new(0xa1).with(&[2]), Room::new(0xa2).with(&[2])]);
                world.claims.holders.insert(ticket(4), wallet(4));
            }),
            "a1a1a1a1: add 04040404=10 +04010000\na2a2a2a2: add 03030303=10 +03010000\n",
            "",
        ),
        scenario(
            "they wait for the successor while it is not there",
            with(lost_room(None), |world| world.rooms.push(Room::new(0xa1).with(&[2]))),
            "create a room in place of a0a0a0a0\nwait 03030303: no room has a seat yet\n",
            "",
        ),
        scenario(
            "while a commit is unsettled, removals go on elsewhere and nobody is seated",
            with(World::new(&[3, 4, 5], vec![Room::new(0xa0).with(&[2, 3]), Room::new(0xa1).with(&[2, 4])]), |world| {
                world.rooms[0].pending_commit = true;
                lost(world, 3);
                lost(world, 4);
            }),
            "a0a0a0a0: settle\n\
             a1a1a1a1: remove (04040404: ticket lost) 04040404=out -04010000\n\
             wait 05050505: a commit is not settled yet\n",
            "",
        ),
        scenario(
            "an admin can still add and remove, not appoint",
            with(World::new(&[3, 4], vec![Room::new(0xa0).with(&[2, 3])]), |world| {
                world.rooms[0].super_admins = [inbox(CREATOR)].into();
                world.rooms[0].admins = [inbox(USHER)].into();
                world.rooms[0].policies_ok = false;
                lost(world, 3);
            }),
            "! a0a0a0a0: usher is not a super admin\n\
             a0a0a0a0: remove (03030303: ticket lost) 03030303=out -03010000\n\
             a0a0a0a0: add 04040404=10 +04010000\n",
            "! a0a0a0a0: usher is not a super admin\n",
        ),
        scenario(
            "without rights nothing is done, and no room made behind the room's back",
            with(World::new(&[3], vec![Room::new(0xa0).with(&[2])]), |world| {
                world.rooms[0].super_admins = [inbox(CREATOR)].into();
                world.claims.moderators = [inbox(8)].into();
            }),
            "! a0a0a0a0: usher is not a super admin\n\
             wait 03030303: no room has a seat yet\n\
             wait 08080808: no room has a seat yet\n",
            "! a0a0a0a0: usher is not a super admin\n\
             wait 03030303: no room has a seat yet\n\
             wait 08080808: no room has a seat yet\n",
        ),
        scenario(
            "ejected",
            with(settled(&[3]), |world| _ = world.rooms[0].map.remove(&inbox(USHER))),
            "! a0a0a0a0: usher is not a member\nwait 03030303: no room has a seat yet\n",
            "! a0a0a0a0: usher is not a member\nwait 03030303: no room has a seat yet\n",
        ),
    ]);
}

#[test]
fn a_wallet_that_moves_takes_its_seat_along() {
    let mut world = settled(&[3]);
    world.claims.links = [(wallet(3), inbox(3))].into();
    world.claims.answers.insert(wallet(3), Answer::Unresolved(Unresolved::NoInbox));
    assert_eq!(world.plan().to_string(), "", "silence changes nothing");
    world.claims.answers.insert(wallet(3), Answer::Linked(inbox(7)));
    assert_eq!(
        world.plan().to_string(),
        "a0a0a0a0: remove (03030303: wallet unlinked) 03030303=out -03010000\n\
         a0a0a0a0: add 07070707=10 +07010000\n"
    );
}

#[test]
fn a_room_at_the_default_limits_is_filled_in_commits_that_can_be_sent() {
    let mut world = World::new(&[], vec![Room::new(0xa0)]);
    // 250 holders with two devices each: inbox ids beyond one byte are made here.
    for n in 0..250_u32 {
        let id: crate::ids::InboxId = format!("{n:064x}").parse().unwrap();
        let wallet = alloy_primitives::Address::left_padding_from(&(n + 1_000).to_be_bytes());
        let devices = [0, 1].map(|k| {
            let mut bytes = [0xcc; 32];
            bytes[..4].copy_from_slice(&n.to_be_bytes());
            bytes[4] = k;
            crate::ids::InstallationId(bytes)
        });
        world.claims.answers.insert(wallet, Answer::Linked(id.clone()));
        let token = crate::ids::TicketKey { token_id: alloy_primitives::U256::from(n + 1_000), ..ticket(0) };
        world.claims.holders.insert(token, wallet);
        world.key_packages.extend(devices.map(|device| (device, usable())));
        world.logs.insert(id, BTreeMap::from([(7, devices.into())]));
    }
    assert_eq!(world.limits, Limits::default());
    assert_eq!(world.metadata, WantedMetadata::default());
    let rest = world.converge().unwrap();
    assert_eq!(rest.to_string(), "");
    let seats: Vec<_> = world.rooms.iter().map(|room| room.map.len()).collect();
    assert_eq!(seats, [220, 34], "250 holders, usher and the creator twice");
}
