//! A group: its MLS state, what of it still has to reach the network, and how far its log was read.

mod author;
mod change;
#[cfg(feature = "planted-bugs")]
mod planted;
mod refusal;
pub(crate) mod validate;
mod walk;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use openmls::group::{MlsGroup, MlsGroupJoinConfig, NewGroupError};
use prost::Message;
use zeroize::Zeroizing;

pub use change::{ChangeError, MembershipChange, MetadataChange};
pub use validate::InvalidCommit;
pub use walk::{Committed, Event, Received, WalkError};

use crate::{
    Account, GroupId,
    account::{decode_cursor, decode_values, encode_cursor, encode_values, wipe},
    extensions::{
        ConversationType, ExtensionError, GroupExtensions, ImmutableMetadata, Membership, MutableMetadata, attributes,
    },
    identity::{InboxId, InstallationId},
    key_package::{CIPHERSUITE, capabilities, credential_with_key},
    network::Cursor,
    policy::Policies,
    ports::{Randomness, random},
    proto::state,
    provider::{Provider, StorageCodecError},
    welcome::named,
};

/// libxmtp decrypts messages of this many past epochs.
const PAST_EPOCHS: usize = 3;
/// Own messages that were sent and not met in the log yet; more than this many are never waited for.
const SENT_MAX: usize = 256;

/// Why a group can never be written again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lost {
    /// The log holds a message of ours that this state does not know: the state is older than what was sent from it,
    /// and encrypting from it again would reuse keys.
    RolledBack,
    /// Somebody removed us.
    Ejected,
    /// Members go on in the epoch before a commit of ours: we have split off from them.
    Refused,
    /// Members took a commit that openmls refuses: for us the group has ended.
    Unfollowable(String),
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RolledBack => f.write_str("rolled back"),
            Self::Ejected => f.write_str("ejected"),
            Self::Refused => f.write_str("refused"),
            Self::Unfollowable(reason) => write!(f, "unfollowable: {reason}"),
        }
    }
}

impl Lost {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "" => None,
            "rolled back" => Some(Self::RolledBack),
            "ejected" => Some(Self::Ejected),
            "refused" => Some(Self::Refused),
            other => Some(Self::Unfollowable(other.strip_prefix("unfollowable: ").unwrap_or(other).to_owned())),
        }
    }
}

/// Why a group cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// openmls did not make it.
    #[error("the MLS group cannot be made")]
    New(#[from] NewGroupError<openmls_memory_storage::MemoryStorageError>),
    /// Its extensions are not an XMTP group's.
    #[error("the group's extensions cannot be used")]
    Extensions(#[from] ExtensionError),
    /// The account is not registered, so its sequence id is not known.
    #[error("the account is not registered")]
    NotRegistered,
    /// What is to be decoded is not a group.
    #[error("this is no encoded group: {0}")]
    Malformed(String),
    /// A stored MLS value cannot be read.
    #[error("an MLS value of the group cannot be read")]
    Storage(#[from] StorageCodecError),
    /// openmls cannot load what it stored.
    #[error("the MLS state cannot be loaded")]
    Load(#[from] openmls_memory_storage::MemoryStorageError),
}

/// What a new group starts with.
#[derive(Debug, Clone)]
pub struct NewGroup {
    /// At most 100 bytes.
    pub name: String,
    /// At most 1000 bytes.
    pub description: String,
    /// Who may do what.
    pub policies: Policies,
}

/// A member as the group's state shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The entry of its identity log that the group has taken note of.
    pub sequence_id: u64,
    /// Its installations that have a leaf.
    pub installations: BTreeSet<InstallationId>,
}

/// An XMTP group as one member sees it. Dropping it loses nothing that [`Group::encode`] wrote.
#[derive(Debug)]
pub struct Group {
    id: GroupId,
    mls: MlsGroup,
    provider: Provider,
    cursor: Cursor,
    pending: Option<state::PendingCommit>,
    pub(crate) welcomes: Vec<state::Welcome>,
    leaving: BTreeSet<InboxId>,
    damaged: BTreeSet<InboxId>,
    pub(crate) stranded: BTreeSet<(InboxId, InstallationId)>,
    sent: Vec<[u8; 32]>,
    trials: refusal::Trials,
    lost: Option<Lost>,
    added_by: Option<InboxId>,
    /// Not encoded.
    messages_read: u64,
}

impl Group {
    /// Makes a group at epoch 0 with the account as its only member and super admin. Nothing goes to the network:
    /// store the group before its first change is published.
    pub fn create(account: &Account, new: NewGroup, randomness: &dyn Randomness) -> Result<Self, GroupError> {
        if !account.is_registered() {
            return Err(GroupError::NotRegistered);
        }
        let text = |name: &str, value: String| (name.to_owned(), value);
        let extensions = GroupExtensions {
            immutable: ImmutableMetadata {
                conversation_type: ConversationType::Group,
                creator: account.inbox().to_string(),
                dm_members: None,
            },
            mutable: MutableMetadata {
                attributes: BTreeMap::from([
                    text(attributes::NAME, new.name),
                    text(attributes::DESCRIPTION, new.description),
                    text(attributes::IMAGE_URL, String::new()),
                    text(attributes::APP_DATA, String::new()),
                ]),
                super_admins: [account.inbox().clone()].into(),
                ..MutableMetadata::default()
            },
            membership: Membership {
                // libxmtp writes 0 here and repairs it in the first commit; joiners refuse a 0 that stayed.
                members: [(account.inbox().clone(), account.sequence_id())].into(),
                failed_installations: account.siblings().iter().copied().collect(),
            },
            policies: new.policies,
        };
        let id = GroupId(random(randomness));
        let provider = Provider::default();
        let signer = account.key().mls_signer();
        let mls = MlsGroup::builder()
            .with_group_id(openmls::group::GroupId::from_slice(&id.0))
            .ciphersuite(CIPHERSUITE)
            .with_capabilities(capabilities())
            .with_group_context_extensions(extensions.to_extensions()?)
            .use_ratchet_tree_extension(true)
            .max_past_epochs(PAST_EPOCHS)
            .build(&provider, &signer, credential_with_key(account.inbox(), account.key()))?;
        Ok(Self::assemble(id, mls, provider))
    }

    pub(crate) fn assemble(id: GroupId, mls: MlsGroup, provider: Provider) -> Self {
        Self {
            id,
            mls,
            provider,
            cursor: Cursor::default(),
            pending: None,
            welcomes: Vec::new(),
            leaving: BTreeSet::new(),
            damaged: BTreeSet::new(),
            stranded: BTreeSet::new(),
            sent: Vec::new(),
            trials: refusal::Trials::default(),
            lost: None,
            added_by: None,
            messages_read: 0,
        }
    }

    pub(crate) fn joined(mut self, cursor: Cursor, added_by: InboxId) -> Self {
        self.cursor = cursor;
        self.added_by = Some(added_by);
        self
    }

    /// The group's id.
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// The MLS epoch (RFC 9420).
    pub fn epoch(&self) -> u64 {
        self.mls.epoch().as_u64()
    }

    /// How far the group's log was read.
    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// How many messages of the log were read since this value was made or decoded. (Their ids do not tell: a node
    /// counts the messages of all groups in one sequence.)
    pub fn messages_read(&self) -> u64 {
        self.messages_read
    }

    /// Why the group can never be written again, if so.
    pub fn lost(&self) -> Option<&Lost> {
        self.lost.as_ref()
    }

    /// Declares that the group can never be written again.
    pub fn lose(&mut self, lost: Lost) {
        self.lost.get_or_insert(lost);
    }

    /// Who added this member, if it joined by a welcome.
    pub fn added_by(&self) -> Option<&InboxId> {
        self.added_by.as_ref()
    }

    /// Whether a commit of ours is stored that the log has not decided about.
    pub fn has_pending_commit(&self) -> bool {
        self.pending.is_some()
    }

    /// Inboxes that asked to leave and are still members.
    pub fn leaving(&self) -> &BTreeSet<InboxId> {
        &self.leaving
    }

    /// Inboxes that keep others from joining: their installations are neither all in the tree nor listed as failed.
    /// Removing the inbox and adding it again heals that.
    pub fn damaged(&self) -> &BTreeSet<InboxId> {
        &self.damaged
    }

    /// Inboxes that cannot see the group although they have leaves: an installation had replaced its key package before
    /// its welcome went out. Adding the same installations again heals that.
    pub fn stranded(&self) -> BTreeSet<InboxId> {
        self.stranded.iter().map(|(inbox, _)| inbox.clone()).collect()
    }

    /// Takes over what an earlier state of the group owes its members, for an account whose new installation was let in
    /// by somebody else: devices that are in and may not have got their welcome are stranded.
    pub fn take_over(&mut self, before: &Group) {
        let unsure = before.pending.iter().filter_map(|commit| commit.welcome.as_ref());
        let mut blind = before.welcome_recipients();
        blind.extend(unsure.flat_map(|welcome| &welcome.recipients).map(named));
        blind.extend(before.stranded.iter().cloned());
        let members = self.members();
        blind.retain(|(inbox, installation)| {
            members.get(inbox).is_some_and(|member| member.installations.contains(installation))
        });
        self.stranded.extend(blind);
    }

    pub(crate) fn extensions(&self) -> GroupExtensions {
        GroupExtensions::parse(self.mls.extensions()).expect("checked at creation, at joining and with every commit")
    }

    /// Names, texts and roles.
    pub fn metadata(&self) -> MutableMetadata {
        self.extensions().mutable
    }

    /// Who made the group and what kind it is.
    pub fn immutable_metadata(&self) -> ImmutableMetadata {
        self.extensions().immutable
    }

    /// Who may do what.
    pub fn policies(&self) -> Policies {
        self.extensions().policies
    }

    /// The membership as the group context has it.
    pub fn membership(&self) -> Membership {
        self.extensions().membership
    }

    /// The members with their leaves.
    pub fn members(&self) -> BTreeMap<InboxId, Member> {
        let leaves = validate::leaves(&self.mls);
        let mut leaves = validate::by_inbox(&leaves);
        let members = self.membership().members;
        let member = |(inbox, sequence_id): (InboxId, u64)| {
            let installations = leaves.remove(&inbox).unwrap_or_default();
            (inbox, Member { sequence_id, installations })
        };
        members.into_iter().map(member).collect()
    }

    /// Leaves whose inbox the membership does not list.
    pub fn strangers(&self) -> BTreeSet<InstallationId> {
        let members = self.membership().members;
        let leaves = validate::leaves(&self.mls).into_iter();
        leaves
            .filter(|leaf| !leaf.inbox.as_ref().is_some_and(|inbox| members.contains_key(inbox)))
            .map(|leaf| leaf.installation)
            .collect()
    }

    /// The installation whose leaf this is; only an account of it can write to the group. `None` after a removal.
    pub fn installation(&self) -> Option<InstallationId> {
        self.mls.own_leaf_node().and_then(|leaf| leaf.signature_key().as_slice().try_into().ok())
    }

    /// Whether this member is still in the group.
    pub fn is_active(&self) -> bool {
        self.mls.is_active()
    }

    fn remember_sent(&mut self, digest: [u8; 32]) {
        if self.sent.len() >= SENT_MAX {
            self.sent.remove(0);
        }
        self.sent.push(digest);
    }

    /// The group as bytes: secrets in clear. Seal them before storing them.
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>, GroupError> {
        let inboxes = |inboxes: &BTreeSet<InboxId>| inboxes.iter().map(ToString::to_string).collect();
        let mut group = state::Group {
            id: self.id.0.to_vec(),
            mls: encode_values(self.provider.encode()?),
            cursor: Some(encode_cursor(&self.cursor)),
            pending: self.pending.clone(),
            welcomes: self.welcomes.clone(),
            leaving: inboxes(&self.leaving),
            damaged: inboxes(&self.damaged),
            stranded: self.stranded.iter().map(stranded).collect(),
            sent: self.sent.iter().map(|digest| digest.to_vec()).collect(),
            trials: self.trials.encode(),
            lost: self.lost.as_ref().map(ToString::to_string).unwrap_or_default(),
            added_by: self.added_by.as_ref().map(ToString::to_string).unwrap_or_default(),
        };
        let bytes = Zeroizing::new(group.encode_to_vec());
        wipe(&mut group.mls);
        Ok(bytes)
    }

    /// The group that [`Group::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, GroupError> {
        let malformed = |what: &str| GroupError::Malformed(what.to_owned());
        let group = state::Group::decode(bytes).map_err(|error| malformed(&error.to_string()))?;
        let id = GroupId(group.id.as_slice().try_into().map_err(|_| malformed("the id is not 16 bytes"))?);
        let provider = Provider::decode(decode_values(group.mls))?;
        let mls = Self::load(id, &provider)?.ok_or_else(|| malformed("no MLS state"))?;
        let inboxes = |inboxes: Vec<String>| -> Result<BTreeSet<InboxId>, GroupError> {
            inboxes.into_iter().map(|inbox| inbox.parse().map_err(|_| malformed("an inbox id"))).collect()
        };
        let digest = |digest: Vec<u8>| digest.as_slice().try_into().map_err(|_| malformed("a digest"));
        let mut decoded = Self::assemble(id, mls, provider);
        decoded.extensions_checked()?;
        decoded.cursor = decode_cursor(group.cursor);
        decoded.pending = group.pending;
        decoded.welcomes = group.welcomes;
        decoded.leaving = inboxes(group.leaving)?;
        decoded.damaged = inboxes(group.damaged)?;
        let stranded = |it: state::Stranded| -> Result<_, GroupError> {
            let inbox = it.inbox_id.parse().map_err(|_| malformed("an inbox id"))?;
            Ok((inbox, it.installation.as_slice().try_into().map_err(|_| malformed("an installation id"))?))
        };
        decoded.stranded = group.stranded.into_iter().map(stranded).collect::<Result<_, _>>()?;
        decoded.sent = group.sent.into_iter().map(digest).collect::<Result<_, _>>()?;
        decoded.trials = refusal::Trials::decode(group.trials)?;
        decoded.lost = Lost::parse(&group.lost);
        decoded.added_by = group.added_by.parse().ok();
        Ok(decoded)
    }

    pub(crate) fn extensions_checked(&self) -> Result<GroupExtensions, ExtensionError> {
        GroupExtensions::parse(self.mls.extensions())
    }

    fn load(id: GroupId, provider: &Provider) -> Result<Option<MlsGroup>, GroupError> {
        use openmls_traits::OpenMlsProvider;
        Ok(MlsGroup::load(provider.storage(), &openmls::group::GroupId::from_slice(&id.0))?)
    }
}

fn stranded((inbox, installation): &(InboxId, InstallationId)) -> state::Stranded {
    state::Stranded { inbox_id: inbox.to_string(), installation: installation.as_bytes().to_vec() }
}

/// How we take part in groups we join: as libxmtp does.
pub(crate) fn join_config() -> MlsGroupJoinConfig {
    MlsGroupJoinConfig::builder().max_past_epochs(PAST_EPOCHS).use_ratchet_tree_extension(true).build()
}
