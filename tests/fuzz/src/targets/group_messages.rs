//! Messages in a room's log: changed copies of what is there, forgeries of the commit that is just being made, and
//! whatever a member encrypts.

use std::time::Duration;

use usher_xmtp::network::GroupMessage;

use super::contents;
use crate::{
    Target, cast,
    mutate::{Choices, hostile},
    room::Room,
};

/// Puts up to four hostile messages into the log; the room must live.
pub const TARGET: Target = Target { name: "group_messages", run, seeds, smoke: 80 };

fn run(data: &[u8]) {
    let mut room = Room::open();
    let mut choices = Choices::new(data);
    let log = room.network.log(room.id);
    cast::run(async {
        // Then the modified client speaks in an epoch that the others have left.
        if choices.yes() {
            room.usher.stage_description("without mallory", &room.network).await;
            room.usher.publish(&room.network).await;
        }
        for _ in 0..=choices.below(4) {
            post(&mut room, &log, &mut choices).await;
            room.network.pass(PAUSE);
        }
        room.assert_alive().await;
    });
}

/// Longer than any client takes to read its log.
const PAUSE: Duration = Duration::from_secs(2 * 60 * 60);

async fn post(room: &mut Room, log: &[GroupMessage], choices: &mut Choices<'_>) {
    let known: Vec<Vec<u8>> = log.iter().map(|message| message.data.clone()).collect();
    let (data, sender_hmac) = match choices.below(4) {
        // usher's commit, before it reaches the log itself.
        0 => {
            if !room.usher.group.has_pending_commit() {
                room.usher.stage_description("under attack", &room.network).await;
            }
            let commit = room.usher.group.pending_commit(&room.usher.account, &cast::Still);
            let commit = commit.expect("just staged");
            let forged = hostile(&[vec![commit.data.clone()], known].concat(), choices);
            if forged == commit.data {
                return;
            }
            (forged, commit.sender_hmac)
        }
        1 => (room.mallory.encrypt(&hostile(&contents::seeds(), choices)), Vec::new()),
        // With the HMAC of what was copied, or of something else.
        2 => {
            let hmac = choices.pick(log).map(|message| message.sender_hmac.clone());
            (hostile(&known, choices), hmac.unwrap_or_default())
        }
        _ => (hostile(&known, choices), Vec::new()),
    };
    room.network.post(room.id, data, sender_hmac);
}

fn seeds() -> Vec<Vec<u8>> {
    let messages = Room::open().messages().len();
    let mut seeds = vec![vec![0, 0, 0, 0, 0]];
    for moved_on in [0, 1] {
        seeds.extend(crate::unchanged(&[moved_on, 0, 1], contents::seeds().len()));
        seeds.extend(crate::unchanged(&[moved_on, 0, 2], messages));
        seeds.extend(crate::unchanged(&[moved_on, 0, 3], messages));
    }
    // Four texts with hours between them, in the epoch that the others have left.
    let text = [1, 0, 0];
    seeds.push([&[1, 3][..], &text, &text, &text, &text].concat());
    seeds
}
