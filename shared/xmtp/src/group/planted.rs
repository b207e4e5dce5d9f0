//! What a client must not do, for the simulation to find that it does (feature `planted-bugs`).

use zeroize::Zeroizing;

use super::{Group, GroupError, WalkError};
use crate::{
    identities::Identities,
    network::{GroupMessage, Network},
};

impl Group {
    /// Throws the stored commit away while its epoch may still be current.
    pub fn forget_pending_commit(&mut self) {
        use openmls_traits::OpenMlsProvider as _;
        self.pending = None;
        self.mls.clear_pending_commit(self.provider.storage()).expect("memory takes it");
    }

    /// The group as bytes, its pending commit without its Welcome.
    pub fn encode_without_welcome(&mut self) -> Result<Zeroizing<Vec<u8>>, GroupError> {
        let welcome = self.pending.as_mut().and_then(|pending| pending.welcome.take());
        let encoded = self.encode();
        if let Some(pending) = &mut self.pending {
            pending.welcome = welcome;
        }
        encoded
    }

    /// Takes the stored commit for merged, whatever the log says.
    pub async fn merge_unread(
        &mut self,
        network: &dyn Network,
        identities: &mut Identities,
    ) -> Result<Option<super::Event>, WalkError> {
        let Some(data) = self.pending.as_ref().map(|pending| pending.data.clone()) else { return Ok(None) };
        let id = self.cursor.latest() + 1;
        self.meet_own(&GroupMessage { id, created_ns: 0, data, sender_hmac: Vec::new() }, network, identities).await
    }
}
