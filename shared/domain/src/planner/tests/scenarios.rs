//! Named scenarios of members: what the plan reads like, and that it can be carried out.

use super::{model::*, scenario::*};
use crate::{
    admission::{Answer, CreatorRole, Unresolved},
    planner::KeyPackageView,
};

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
            "not while the network is silent about the wallet that may give it",
            with(settled(&[3]), |world| {
                world.claims.owner = Some(wallet(4));
                world.claims.answers.remove(&wallet(4));
                world.rooms[0].admins.insert(inbox(3));
            }),
            "",
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
            }),
            "a0a0a0a0: refresh 04040404=20 +06010000\n\
             wait 05050505: another inbox has its installation in the room\n\
             wait 06060606: another inbox has its installation in the room\n",
            "wait 05050505: another inbox has its installation in the room\n\
             wait 06060606: another inbox has its installation in the room\n",
        ),
        scenario(
            "an inbox gives up a device that is in the room in another's name",
            with(settled(&[3, 4]), |world| {
                let log = [(10, [device(3, 1), device(4, 1)].into()), (20, [device(3, 1)].into())];
                world.logs.insert(inbox(3), log.into());
            }),
            "a0a0a0a0: refresh 03030303=20 !04010000\n",
            "",
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
            "nobody knows about one of three",
            with(failed(3, usable()), |world| {
                let log = world.logs.get_mut(&inbox(3)).unwrap();
                log.insert(20, [1, 2, 3].map(|k| device(3, k)).into());
                world.rooms[0].failed.insert(device(3, 3));
            }),
            "",
            "",
        ),
        scenario(
            "the commit that brings it back could not be sent",
            with(failed(3, usable()), |world| world.limits.commit_bytes = 18_500),
            "",
            "",
        ),
        scenario(
            "usher may not take the role that is in the way",
            with(failed(CREATOR, usable()), |world| {
                world.rooms[0].super_admins.clear();
                world.rooms[0].admins.insert(inbox(USHER));
            }),
            "! a0a0a0a0: usher is not a super admin\n",
            "! a0a0a0a0: usher is not a super admin\n",
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
