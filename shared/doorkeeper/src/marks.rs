//! What others' commits and leave requests say about who belongs: rows beside the tickets.

use std::collections::{BTreeMap, BTreeSet};

use usher_domain::{InboxId, Incarnation};
use usher_store::{
    standing::{Mark, Marked, Standing},
    table::Write,
};
use usher_xmtp::{
    Account,
    content::Content,
    group::{Committed, Event},
};

use crate::{ConvergeError, Doorkeeper, claims::domain_inbox};

impl Doorkeeper {
    /// What others' commits and leave requests say about who belongs.
    pub(crate) async fn marks(
        &self,
        account: &Account,
        incarnation: &Incarnation,
        standing: &Standing,
        events: &[Event],
    ) -> Result<Vec<Write>, ConvergeError> {
        let since_ms = self.parts.clock.now_ms();
        let mut marks: BTreeMap<InboxId, Option<Mark>> = BTreeMap::new();
        let titled =
            if events.iter().any(invites) { self.ever_titled(incarnation, standing).await? } else { BTreeSet::new() };
        for event in events {
            match event {
                Event::Received(received) if matches!(received.content, Content::LeaveRequest { .. }) => {
                    marks.insert(domain_inbox(&received.sender), Some(Mark::Left));
                }
                Event::Committed(Committed { own: false, actor_is_admin: true, actor, change, .. }) => {
                    let by = domain_inbox(actor);
                    // Whoever removes usher loses the room, and bans nobody.
                    let usher = account.inbox().as_str();
                    for removed in change.removed_inboxes.iter().filter(|removed| removed.inbox_id != usher) {
                        if let Ok(inbox) = removed.inbox_id.parse() {
                            marks.insert(inbox, Some(Mark::Banned { by: by.clone() }));
                        }
                    }
                    for added in &change.added_inboxes {
                        if let Ok(inbox) = added.inbox_id.parse::<InboxId>() {
                            let guest = (!titled.contains(&inbox)).then(|| Mark::Guest { by: by.clone() });
                            marks.insert(inbox, guest);
                        }
                    }
                }
                _ => {}
            }
        }
        let write = |(inbox, mark): (InboxId, Option<Mark>)| match mark {
            Some(mark) => Marked { inbox, mark, since_ms }.write(incarnation),
            None => Marked::remove(incarnation, &inbox),
        };
        Ok(marks.into_iter().map(write).collect())
    }
}

/// Whether something met in a log changes more than the cursor.
pub(crate) fn matters(event: &Event) -> bool {
    match event {
        Event::Received(received) => matches!(received.content, Content::LeaveRequest { .. }),
        Event::Committed(_) | Event::Superseded => true,
        Event::Skipped { .. } => false,
    }
}

/// Whether somebody else's commit adds people.
fn invites(event: &Event) -> bool {
    matches!(event, Event::Committed(Committed { own: false, change, .. }) if !change.added_inboxes.is_empty())
}
