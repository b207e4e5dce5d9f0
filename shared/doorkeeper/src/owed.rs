//! What must be done even when little can be: removals.

use std::collections::BTreeSet;

use usher_domain::{EventKey, InboxId, Incarnation, admission::Admission};
use usher_store::RoomState;

use crate::{ConvergeError, Doorkeeper};

impl Doorkeeper {
    /// Whether the ledger by itself says that somebody who was seated must go. Asks nobody but the table.
    pub async fn owes_removal(&self, event: &EventKey) -> Result<bool, ConvergeError> {
        let Some(account) = self.account().await? else { return Ok(false) };
        let Some(record) = self.parts.store.event(event).await? else { return Ok(false) };
        let current = record.minted.as_ref().map(|minted| minted.incarnation);
        let active = || record.rooms.iter().filter(|room| room.state == RoomState::Active);
        let incarnations: BTreeSet<Incarnation> = active().map(|room| room.incarnation).collect();
        for incarnation in incarnations {
            let live = current == Some(incarnation);
            let standing = self.parts.store.standing(&incarnation).await?;
            let admission = Admission::new(&self.unresolved(&account, &incarnation, live, &standing).await?);
            for room in active().filter(|room| room.incarnation == incarnation) {
                let must_go = |inbox: &InboxId| {
                    admission.departures.contains_key(inbox) || !live && !admission.seats.contains_key(inbox)
                };
                if self.seated(room).await?.iter().any(must_go) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}
