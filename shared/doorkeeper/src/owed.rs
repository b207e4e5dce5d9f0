//! What must be done even when little can be: removals.

use std::collections::BTreeSet;

use usher_domain::{EventKey, InboxId, Incarnation, admission::Admission};
use usher_store::{Owner, RoomState, Table};

use crate::{ConvergeError, Doorkeeper, RoomStatus};

impl<T: Table> Doorkeeper<T> {
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
                let status = self.parts.store.status(&Owner::Room(room.group)).await?;
                let status: Option<RoomStatus> = status.and_then(|status| serde_json::from_str(&status).ok());
                let seated = status.into_iter().flat_map(|status| status.seats);
                let must_go = |inbox: &InboxId| {
                    admission.departures.contains_key(inbox) || !live && !admission.seats.contains_key(inbox)
                };
                if seated.filter_map(|seat| seat.inbox.parse().ok()).any(|inbox| must_go(&inbox)) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}
