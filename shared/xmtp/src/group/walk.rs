//! Following a group's log: commits that count move the epoch, all else is read or stepped over.

use futures::future::BoxFuture;
use openmls::{
    framing::{ContentType, MlsMessageBodyIn, MlsMessageIn, PrivateMessageIn, ProcessedMessageContent},
    group::{ProcessMessageError, StagedCommit},
    prelude::ProtocolMessage,
};
use sha2::{Digest, Sha256};
use tls_codec::Deserialize;

use super::{Group, Lost, validate::CommitView};
use crate::{
    Account,
    content::{self, Content},
    identities::{Identities, IdentitiesError},
    identity::{InboxId, InstallationId},
    key_package::credential_inbox,
    network::{APPLICATION_MESSAGES, COMMITS, GroupMessage, Network, NetworkError, PAGE_SIZE},
    policy::Roles,
    proto::contents::GroupUpdated,
};

/// Something met in a group's log.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A member's message.
    Received(Received),
    /// A commit that moved the epoch.
    Committed(Committed),
    /// Somebody else's commit took the epoch that ours was made for. Look at the group and decide again.
    Superseded,
    /// A message that does not count: junk, a refused commit, or one that cannot be decrypted.
    Skipped {
        /// Its id.
        id: u64,
        /// Why it does not count.
        reason: String,
    },
}

impl Event {
    /// The id of the message that it tells of.
    pub fn id(&self) -> Option<u64> {
        match self {
            Self::Received(received) => Some(received.id),
            Self::Committed(committed) => Some(committed.id),
            Self::Skipped { id, .. } => Some(*id),
            Self::Superseded => None,
        }
    }
}

/// A member's message.
#[derive(Debug, Clone, PartialEq)]
pub struct Received {
    /// Its id in the group's log.
    pub id: u64,
    /// When the node stored it, in nanoseconds since 1970.
    pub created_ns: u64,
    /// Who sent it.
    pub sender: InboxId,
    /// From which installation.
    pub installation: InstallationId,
    /// What it says.
    pub content: Content,
}

/// A commit that moved the epoch.
#[derive(Debug, Clone, PartialEq)]
pub struct Committed {
    /// Its id in the group's log.
    pub id: u64,
    /// When the node stored it, in nanoseconds since 1970.
    pub created_ns: u64,
    /// The epoch it led to.
    pub epoch: u64,
    /// Whether it is our own.
    pub own: bool,
    /// Who committed.
    pub actor: InboxId,
    /// His roles before the commit.
    pub actor_is_admin: bool,
    /// What it changed, as clients show it.
    pub change: GroupUpdated,
}

/// Trouble that a later sync may not have. What was read before it counts.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// The network failed.
    #[error("the group's log cannot be read")]
    Network(#[from] NetworkError),
    /// A commit cannot be checked now.
    #[error("a commit cannot be checked now")]
    Identities(#[from] IdentitiesError),
}

impl Group {
    /// Reads the log from where it was left. On trouble the cursor stands before the message that could not be
    /// decided; what came before it is in `events` and in the group.
    pub async fn sync(
        &mut self,
        account: &Account,
        network: &dyn Network,
        identities: &mut Identities,
        events: &mut Vec<Event>,
    ) -> Result<(), WalkError> {
        while self.sync_page(account, network, identities, events).await? {}
        Ok(())
    }

    /// [`Group::sync`] for one page of the log (100 messages): says whether there may be more. Whoever has little time
    /// stores the group between pages.
    pub fn sync_page<'a>(
        &'a mut self,
        account: &'a Account,
        network: &'a dyn Network,
        identities: &'a mut Identities,
        events: &'a mut Vec<Event>,
    ) -> BoxFuture<'a, Result<bool, WalkError>> {
        Box::pin(async move {
            let page = network.group_messages(self.id, self.cursor.latest()).await?;
            let full = page.len() >= PAGE_SIZE;
            for message in page {
                if self.lost.is_some() {
                    return Ok(false);
                }
                self.receive(&message, account, network, identities, events).await?;
            }
            Ok(full && self.lost.is_none())
        })
    }

    /// What the keys at hand open of the messages that follow, without following a single commit: all that somebody
    /// can read who has this state and nothing else. Says whether a removed member is really shut out.
    pub async fn overhear(mut self, network: &dyn Network) -> Result<Vec<Content>, NetworkError> {
        let mut heard = Vec::new();
        let mut after = self.cursor.latest();
        loop {
            let page = network.group_messages(self.id, after).await?;
            for message in &page {
                after = message.id;
                let application = self.parse(&message.data).filter(|it| it.content_type() == ContentType::Application);
                let Some(application) = application else { continue };
                let opened = self.mls.process_message(&self.provider, ProtocolMessage::from(application));
                if let Ok(ProcessedMessageContent::ApplicationMessage(plaintext)) =
                    opened.map(openmls::framing::ProcessedMessage::into_content)
                {
                    heard.extend(content::decode(&plaintext.into_bytes()));
                }
            }
            if page.len() < PAGE_SIZE {
                return Ok(heard);
            }
        }
    }

    async fn receive(
        &mut self,
        message: &GroupMessage,
        account: &Account,
        network: &dyn Network,
        identities: &mut Identities,
        events: &mut Vec<Event>,
    ) -> Result<(), WalkError> {
        let skipped = |reason: &str| Event::Skipped { id: message.id, reason: reason.to_owned() };
        let Some(protocol_message) = self.parse(&message.data) else {
            self.pass(APPLICATION_MESSAGES, message.id);
            events.push(skipped("not a PrivateMessage of this group"));
            return Ok(());
        };
        let originator = match protocol_message.content_type() {
            ContentType::Commit => COMMITS,
            ContentType::Application | ContentType::Proposal => APPLICATION_MESSAGES,
        };
        let digest: [u8; 32] = Sha256::digest(&message.data).into();
        let pending = self.pending.as_ref().is_some_and(|pending| pending.data == message.data);
        if pending || self.sent.contains(&digest) {
            events.extend(self.meet_own(message, network, identities).await?);
            self.sent.retain(|sent| *sent != digest);
        } else {
            let event = self.meet_other(message, protocol_message, account, network, identities, events).await?;
            events.extend(event);
        }
        self.pass(originator, message.id);
        Ok(())
    }

    fn pass(&mut self, originator: u32, id: u64) {
        self.cursor.advance(originator, id);
        self.messages_read += 1;
    }

    /// Whether a message of a log is framed as a commit that leads to the group's epoch.
    pub fn begins_with(&self, data: &[u8]) -> bool {
        self.parse(data).is_some_and(|message| {
            message.content_type() == ContentType::Commit && message.epoch().as_u64() + 1 == self.epoch()
        })
    }

    fn parse(&self, data: &[u8]) -> Option<PrivateMessageIn> {
        let message = MlsMessageIn::tls_deserialize_exact(data).ok()?;
        match message.extract() {
            MlsMessageBodyIn::PrivateMessage(message) if message.group_id().as_slice() == self.id.0 => Some(message),
            _ => None,
        }
    }

    /// A message that this state sent. If it is the stored commit and its epoch is still current, it counts.
    pub(super) async fn meet_own(
        &mut self,
        message: &GroupMessage,
        network: &dyn Network,
        identities: &mut Identities,
    ) -> Result<Option<Event>, WalkError> {
        let ours = self.pending.as_ref().is_some_and(|pending| pending.data == message.data);
        if !ours {
            return Ok(None);
        }
        let staged = self.mls.pending_commit().expect("a pending commit is stored with its MLS state");
        let sender = openmls::framing::Sender::Member(self.mls.own_leaf_index());
        let view = CommitView::new(&self.mls, staged, &sender).expect("checked before it was stored");
        identities.load(network, &view.inboxes_to_verify()).await?;
        self.mls.merge_pending_commit(&self.provider).expect("a stored pending commit merges into memory");
        let pending = self.pending.take().expect("looked at above");
        if let Some(welcome) = pending.welcome {
            self.welcomes.push(crate::proto::state::Welcome { commit_id: message.id, ..welcome });
        }
        Ok(Some(self.committed(message, &view, identities, true)))
    }

    async fn meet_other(
        &mut self,
        message: &GroupMessage,
        private: PrivateMessageIn,
        account: &Account,
        network: &dyn Network,
        identities: &mut Identities,
        events: &mut Vec<Event>,
    ) -> Result<Option<Event>, WalkError> {
        let skipped = |reason: String| Ok(Some(Event::Skipped { id: message.id, reason }));
        let epoch = private.epoch().as_u64();
        let content_type = private.content_type();
        if content_type == ContentType::Proposal {
            return skipped("a standalone proposal".to_owned());
        }
        if content_type == ContentType::Commit && epoch != self.epoch() {
            return skipped(format!("a commit for epoch {epoch} in epoch {}", self.epoch()));
        }
        // Decrypting uses up a generation of the sender's ratchet. libxmtp takes that back unless the message counts,
        // on both sides: from a refused commit's generation its sender may next make a valid one.
        let before = self.provider.values();
        let processed = match self.mls.process_message(&self.provider, ProtocolMessage::from(private.clone())) {
            Ok(processed) => processed,
            Err(error) if is_lifetime(&error) => {
                // Members with libxmtp accept a commit that adds an expired key package; openmls does not.
                let author = self.author(private.into());
                self.restore(before);
                self.lose_to(message.id, author.as_ref(), &error);
                return Ok(None);
            }
            Err(error) => {
                self.restore(before);
                return skipped(error.to_string());
            }
        };
        let sender = processed.sender().clone();
        let credential = processed.credential().clone();
        match processed.into_content() {
            ProcessedMessageContent::ApplicationMessage(application) => {
                let Some((sender, installation)) = self.sender(&sender, &credential) else {
                    return skipped("its sender is no member any more".to_owned());
                };
                self.hear(account, &sender, installation, epoch, message.created_ns);
                let content = match content::decode(&application.into_bytes()) {
                    Ok(content) => content,
                    Err(error) => return skipped(error.to_string()),
                };
                if matches!(content, Content::LeaveRequest { .. }) {
                    self.leaving.insert(sender.clone());
                }
                let (id, created_ns) = (message.id, message.created_ns);
                Ok(Some(Event::Received(Received { id, created_ns, sender, installation, content })))
            }
            ProcessedMessageContent::StagedCommitMessage(staged) => {
                let decided = self.decide(message, &sender, *staged, network, identities, events).await;
                if !matches!(decided, Ok(Some(Event::Committed(_)))) {
                    self.restore(before);
                }
                decided
            }
            ProcessedMessageContent::OwnPrivateMessage => {
                if epoch < self.epoch() || !account.sent(self.id, message) {
                    return skipped("it claims to be ours".to_owned());
                }
                self.lose(Lost::RolledBack);
                skipped("an own message that this state does not know".to_owned())
            }
            _ => skipped("not an XMTP message".to_owned()),
        }
    }

    /// Merges somebody else's commit if every member accepts it.
    async fn decide(
        &mut self,
        message: &GroupMessage,
        sender: &openmls::framing::Sender,
        staged: StagedCommit,
        network: &dyn Network,
        identities: &mut Identities,
        events: &mut Vec<Event>,
    ) -> Result<Option<Event>, WalkError> {
        let refused = |reason: &dyn std::fmt::Display| {
            Ok(Some(Event::Skipped { id: message.id, reason: format!("refused commit: {reason}") }))
        };
        let view = match CommitView::new(&self.mls, &staged, sender) {
            Ok(view) => view,
            Err(invalid) => return refused(&invalid),
        };
        identities.load_up_to(network, &view.inboxes_to_verify(), &view.new.membership.members).await?;
        if let Err(invalid) = view.check(identities) {
            return refused(&invalid);
        }
        if let Some(ruined) = &view.ruined {
            self.lose_to(message.id, Some(&view.actor_inbox), ruined);
            return refused(ruined);
        }
        let ejected = staged.self_removed();
        self.mls.merge_staged_commit(&self.provider, staged).expect("a staged commit merges into memory");
        if self.pending.take().is_some() {
            events.push(Event::Superseded);
        }
        if ejected {
            self.lose(Lost::Ejected);
        }
        Ok(Some(self.committed(message, &view, identities, false)))
    }

    /// Gives the group up over a commit that others follow. Whoever made it can do so again in a successor, until he is
    /// banned: so he is named.
    fn lose_to(&mut self, commit: u64, author: Option<&InboxId>, reason: &dyn std::fmt::Display) {
        let author = author.map_or_else(|| "an unknown member".to_owned(), |inbox| format!("inbox {inbox}"));
        self.lose(Lost::Unfollowable(format!("commit {commit} by {author}: {reason}")));
    }

    /// What a merged commit leaves to remember.
    fn committed(&mut self, message: &GroupMessage, view: &CommitView, identities: &Identities, own: bool) -> Event {
        let change = view.summary(&self.leaving);
        self.try_commit(view, own);
        let members = self.membership().members;
        self.damaged.retain(|inbox| members.contains_key(inbox) && !view.inboxes_to_verify().contains(inbox));
        self.damaged.extend(view.damage(identities));
        self.leaving.retain(|inbox| members.contains_key(inbox));
        let seated = self.members();
        self.stranded.retain(|(inbox, installation)| {
            seated.get(inbox).is_some_and(|member| member.installations.contains(installation))
        });
        let Roles { admin, super_admin } = view.actor_roles();
        Event::Committed(Committed {
            id: message.id,
            created_ns: message.created_ns,
            epoch: self.epoch(),
            own,
            actor: view.actor_inbox.clone(),
            actor_is_admin: admin || super_admin,
            change,
        })
    }

    /// The inbox and installation that sent a message, if the leaf still belongs to the same inbox.
    fn sender(
        &self,
        sender: &openmls::framing::Sender,
        credential: &openmls::credentials::Credential,
    ) -> Option<(InboxId, InstallationId)> {
        let openmls::framing::Sender::Member(index) = sender else { return None };
        let member = self.mls.member_at(*index)?;
        if member.credential != *credential {
            return None;
        }
        Some((credential_inbox(credential)?, member.signature_key.as_slice().try_into().ok()?))
    }
}

fn is_lifetime<E: std::fmt::Debug>(error: &ProcessMessageError<E>) -> bool {
    // The lifetime is reported from three places, each wrapped differently.
    format!("{error:?}").contains("LifetimeError")
}
