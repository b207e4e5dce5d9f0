//! Named scenarios of rooms: damaged, full, lost, in doubt.

use std::collections::BTreeMap;

use super::{model::*, scenario::*};
use crate::{
    admission::Answer,
    planner::{Limits, RoomState, WantedMetadata},
};

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
                |world| world.claims.moderators = [wallet(8)].into(),
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
                world.claims.moderators = [wallet(8)].into();
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
                world.claims.moderators = [wallet(8)].into();
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
            "nor is anybody taken out of one of two rooms that may lose the other seat just now",
            with(World::new(&[3], vec![Room::new(0xa0).with(&[2, 3]), Room::new(0xa1).with(&[2, 3])]), |world| {
                world.rooms[0].pending_commit = true
            }),
            "a0a0a0a0: settle\n",
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
                world.claims.moderators = [wallet(8)].into();
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
