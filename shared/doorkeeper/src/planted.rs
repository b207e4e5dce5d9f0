//! Known mistakes around a room's group (feature `planted-bugs`); see [`Bug`].

use usher_domain::planted::Bug;
use usher_xmtp::{
    Group, GroupError, Identities,
    group::{Event, WalkError},
    network::Network,
};
use zeroize::Zeroizing;

pub(crate) fn opened(mut group: Group) -> Group {
    if Bug::SecondCommit.is_planted() && group.has_pending_commit() {
        group.forget_pending_commit();
    }
    group
}

pub(crate) fn encoded(group: &mut Group) -> Result<Zeroizing<Vec<u8>>, GroupError> {
    if Bug::WelcomeNotStored.is_planted() { group.encode_without_welcome() } else { group.encode() }
}

pub(crate) async fn published(
    group: &mut Group,
    network: &dyn Network,
    taken: bool,
    events: &mut Vec<Event>,
) -> Result<(), WalkError> {
    if taken && Bug::SkipReadBack.is_planted() {
        events.extend(group.merge_unread(network, &mut Identities::default()).await?);
    }
    Ok(())
}

pub(crate) fn walked(group: &mut Group, events: &[Event]) {
    let refused =
        |event: &Event| matches!(event, Event::Skipped { reason, .. } if reason.starts_with("refused commit"));
    if Bug::RetiredByInvalid.is_planted() && group.has_pending_commit() && events.iter().any(refused) {
        group.forget_pending_commit();
    }
}
