//! Welcomes: letting added installations in, and being let in.

use openmls::{
    framing::{MlsMessageBodyIn, MlsMessageIn},
    group::StagedWelcome,
};
use openmls_traits::OpenMlsProvider;
use prost::Message;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use tls_codec::Deserialize;

use crate::{
    Account, GroupId,
    extensions::{ConversationType, GroupExtensions},
    group::{
        Group, join_config,
        validate::{Leaf, by_inbox},
    },
    identities::{Identities, IdentitiesError},
    identity::{InboxId, InstallationId},
    key_package::credential_inbox,
    network::{COMMITS, Cursor, Network, NetworkError, PAGE_SIZE, WELCOMES},
    ports::{Randomness, random},
    proto::{
        contents::{WelcomePointerWrapperAlgorithm, WelcomeWrapperAlgorithm},
        mls_api::{self, WelcomeMetadata, welcome_message, welcome_message_input},
        state,
    },
    provider::Provider,
    wrapper::{self, Pointer, Unwrapped, WrapperAlgorithm, WrapperError},
};

/// libxmtp sends pointers to a single copy when at least this many recipients can follow one.
const POINTER_CAPABLE_RECIPIENTS_MIN: usize = 3;

/// What came of sending welcomes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct WelcomesSent {
    /// Installations that a welcome was sent to.
    pub sent: BTreeSet<InstallationId>,
    /// Installations that have replaced their key package since they were added, or whose key is none: they could not
    /// open the welcome, so none was sent. They get in by being removed and added again.
    pub outdated: BTreeSet<(InboxId, InstallationId)>,
    /// Installations that are in, and were not to get a welcome. If they are wanted again before they are removed, they
    /// get in by being removed and added again.
    pub withheld: BTreeSet<(InboxId, InstallationId)>,
}

impl Group {
    /// Whether commits were merged whose welcomes have not been sent.
    pub fn has_welcomes(&self) -> bool {
        !self.welcomes.is_empty()
    }

    /// Installations that wait for a welcome.
    pub fn welcome_recipients(&self) -> BTreeSet<(InboxId, InstallationId)> {
        self.welcomes.iter().flat_map(|welcome| &welcome.recipients).map(named).collect()
    }

    /// Wraps and sends the welcomes of merged commits to the recipients that `admit` still wants in. Afterwards
    /// [`Group::clear_welcomes`]. Sent twice, a welcome does no harm.
    pub async fn send_welcomes(
        &self,
        network: &dyn Network,
        randomness: &dyn Randomness,
        admit: impl Fn(&InboxId) -> bool,
    ) -> Result<WelcomesSent, NetworkError> {
        let mut result = WelcomesSent::default();
        let mut messages = Vec::new();
        for welcome in &self.welcomes {
            let (recipients, withheld): (Vec<_>, Vec<_>) =
                self.still_in(welcome).partition(|recipient| admit(&named(recipient).0));
            result.withheld.extend(withheld.into_iter().map(named));
            let recipients = current(network, recipients, &mut result).await?;
            messages.extend(wrap(welcome, &recipients, randomness, &mut result));
        }
        send(network, messages).await?;
        Ok(result)
    }

    /// The same as libxmtp's clients do it: to each recipient, with no look whether he has replaced his key package.
    pub async fn send_welcomes_unchecked(
        &self,
        network: &dyn Network,
        randomness: &dyn Randomness,
    ) -> Result<WelcomesSent, NetworkError> {
        let mut result = WelcomesSent::default();
        let mut messages = Vec::new();
        for welcome in &self.welcomes {
            let recipients: Vec<_> = self.still_in(welcome).collect();
            messages.extend(wrap(welcome, &recipients, randomness, &mut result));
        }
        send(network, messages).await?;
        Ok(result)
    }

    fn still_in<'a>(&self, welcome: &'a state::Welcome) -> impl Iterator<Item = &'a state::Recipient> + use<'a> {
        let members = self.members();
        welcome.recipients.iter().filter(move |recipient| {
            let (inbox, installation) = named(recipient);
            members.get(&inbox).is_some_and(|member| member.installations.contains(&installation))
        })
    }

    /// Forgets the welcomes, and remembers who is in and cannot open one. Store the group.
    pub fn clear_welcomes(&mut self, sent: &WelcomesSent) {
        for recipient in self.welcome_recipients() {
            self.stranded.remove(&recipient);
        }
        self.stranded.extend(sent.outdated.union(&sent.withheld).cloned());
        self.welcomes.clear();
    }
}

pub(crate) fn named(recipient: &state::Recipient) -> (InboxId, InstallationId) {
    let inbox = recipient.inbox_id.parse().expect("written by this crate");
    (inbox, recipient.installation.as_slice().try_into().expect("written by this crate"))
}

async fn send(network: &dyn Network, messages: Vec<mls_api::WelcomeMessageInput>) -> Result<(), NetworkError> {
    if messages.is_empty() { Ok(()) } else { network.send_welcomes(messages).await }
}

/// Leaves out recipients that have replaced their key package.
async fn current<'a>(
    network: &dyn Network,
    recipients: Vec<&'a state::Recipient>,
    result: &mut WelcomesSent,
) -> Result<Vec<&'a state::Recipient>, NetworkError> {
    let ids: Vec<InstallationId> = recipients.iter().map(|recipient| named(recipient).1).collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let packages = network.key_packages(&ids).await?;
    let mut kept = Vec::new();
    for (recipient, package) in recipients.into_iter().zip(packages) {
        let same = package.is_some_and(|bytes| Sha256::digest(&bytes).as_slice() == recipient.key_package_digest);
        if same {
            kept.push(recipient);
        } else {
            result.outdated.insert(named(recipient));
        }
    }
    Ok(kept)
}

fn wrap(
    welcome: &state::Welcome,
    recipients: &[&state::Recipient],
    randomness: &dyn Randomness,
    result: &mut WelcomesSent,
) -> Vec<mls_api::WelcomeMessageInput> {
    let metadata = WelcomeMetadata { message_cursor: welcome.commit_id }.encode_to_vec();
    let capable = recipients.iter().filter(|recipient| recipient.pointer_capable).count();
    let (by_pointer, directly): (Vec<&state::Recipient>, Vec<&state::Recipient>) = recipients
        .iter()
        .copied()
        .partition(|recipient| capable >= POINTER_CAPABLE_RECIPIENTS_MIN && recipient.pointer_capable);
    let mut messages = Vec::new();
    if !by_pointer.is_empty() {
        // One copy under a random key at a random place, and the key and the place to each recipient.
        let pointer = Pointer::new(&random(randomness));
        let pointee = pointer.seal(&welcome.data, &metadata);
        messages.push(input(welcome_message_input::Version::V1(welcome_message_input::V1 {
            installation_key: pointer.destination().as_bytes().to_vec(),
            data: pointee.data,
            hpke_public_key: Vec::new(),
            wrapper_algorithm: WelcomeWrapperAlgorithm::SymmetricKey.into(),
            welcome_metadata: pointee.welcome_metadata,
        })));
        for recipient in by_pointer {
            let wrapped = pointer.wrap(&recipient.key);
            let message = wrapped.map(|welcome_pointer| {
                welcome_message_input::Version::WelcomePointer(welcome_message_input::WelcomePointer {
                    installation_key: recipient.installation.clone(),
                    welcome_pointer,
                    hpke_public_key: recipient.key.clone(),
                    wrapper_algorithm: WelcomePointerWrapperAlgorithm::XwingMlkem768Draft6.into(),
                })
            });
            messages.extend(result.note(recipient, message));
        }
    }
    for recipient in directly {
        let algorithm = if recipient.xwing { WrapperAlgorithm::XWing } else { WrapperAlgorithm::Curve25519 };
        let wrapped = wrapper::wrap(algorithm, &recipient.key, &welcome.data, &metadata);
        let message = wrapped.map(|wrapped| {
            welcome_message_input::Version::V1(welcome_message_input::V1 {
                installation_key: recipient.installation.clone(),
                data: wrapped.data,
                hpke_public_key: recipient.key.clone(),
                wrapper_algorithm: WelcomeWrapperAlgorithm::from(algorithm).into(),
                welcome_metadata: wrapped.welcome_metadata,
            })
        });
        messages.extend(result.note(recipient, message));
    }
    messages
}

impl WelcomesSent {
    /// Counts a recipient. One whose key cannot be wrapped to keeps nobody else from getting in.
    fn note(
        &mut self,
        recipient: &state::Recipient,
        message: Result<welcome_message_input::Version, WrapperError>,
    ) -> Option<mls_api::WelcomeMessageInput> {
        let (inbox, installation) = named(recipient);
        match message {
            Ok(version) => {
                self.sent.insert(installation);
                Some(input(version))
            }
            Err(_) => {
                self.outdated.insert((inbox, installation));
                None
            }
        }
    }
}

fn input(version: welcome_message_input::Version) -> mls_api::WelcomeMessageInput {
    mls_api::WelcomeMessageInput { version: Some(version) }
}

/// What a welcome invites to, before it is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// The group.
    pub group: GroupId,
    /// What kind of conversation it is.
    pub conversation_type: ConversationType,
    /// Who added us.
    pub added_by: InboxId,
}

/// Why a welcome was dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DroppedWelcome {
    /// Its id.
    pub id: u64,
    /// What is wrong with it.
    pub reason: String,
}

/// What came of reading welcomes.
#[derive(Debug, Default)]
pub struct Welcomed {
    /// Groups that were joined.
    pub joined: Vec<Group>,
    /// Welcomes that cannot be used; they are not read again.
    pub dropped: Vec<DroppedWelcome>,
    /// Welcomes that `accept` refused. Nothing of them is kept.
    pub refused: usize,
}

enum Joining {
    Joined(Box<Group>),
    Refused,
    Dropped(String),
}

/// Trouble that a later attempt may not have.
#[derive(Debug, thiserror::Error)]
pub enum WelcomeError {
    /// The network failed.
    #[error("welcomes cannot be read")]
    Network(#[from] NetworkError),
    /// The members of a group cannot be checked now.
    #[error("the members of a group cannot be checked now")]
    Identities(#[from] IdentitiesError),
}

/// Why a wrapped welcome cannot be opened.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error("no key package with this key is kept")]
    UnknownKey,
    #[error("the wrapper algorithm {0} is not one for recipients")]
    Algorithm(i32),
    #[error(transparent)]
    Wrapper(#[from] WrapperError),
}

impl Account {
    /// Reads the welcomes that have come since the last time and joins the groups that `accept` wants. On trouble the
    /// cursor stands before the welcome that could not be decided. Store the account and the groups afterwards.
    pub async fn receive_welcomes(
        &mut self,
        network: &dyn Network,
        identities: &mut Identities,
        welcomed: &mut Welcomed,
        accept: impl Fn(&Invitation) -> bool,
    ) -> Result<(), WelcomeError> {
        loop {
            let after = self.welcomes.latest();
            let page = network.welcomes(*self.installation().as_bytes(), after).await?;
            let full = page.len() >= PAGE_SIZE;
            for message in page {
                let Some(version) = message.version else { continue };
                let id = match &version {
                    welcome_message::Version::V1(v1) => v1.id,
                    welcome_message::Version::WelcomePointer(pointer) => pointer.id,
                };
                match self.join(version, network, identities, &accept).await? {
                    Joining::Joined(group) => welcomed.joined.push(*group),
                    Joining::Refused => welcomed.refused += 1,
                    Joining::Dropped(reason) => welcomed.dropped.push(DroppedWelcome { id, reason }),
                }
                self.welcomes.advance(WELCOMES, id);
            }
            // A page of welcomes of a version that has no id would be read for ever.
            if !full || self.welcomes.latest() == after {
                return Ok(());
            }
        }
    }

    async fn join(
        &self,
        version: welcome_message::Version,
        network: &dyn Network,
        identities: &mut Identities,
        accept: &impl Fn(&Invitation) -> bool,
    ) -> Result<Joining, WelcomeError> {
        let dropped = |reason: &dyn std::fmt::Display| Ok(Joining::Dropped(reason.to_string()));
        let opened = match version {
            welcome_message::Version::V1(v1) => self.open(&v1),
            welcome_message::Version::WelcomePointer(message) => match self.open_pointer(&message) {
                Ok(pointer) => {
                    let pointees = network.welcomes(*pointer.destination().as_bytes(), 0).await?;
                    let Some(welcome_message::Version::V1(pointee)) =
                        pointees.into_iter().next().and_then(|pointee| pointee.version)
                    else {
                        return dropped(&"the pointer's destination is empty");
                    };
                    pointer.open(&pointee.data, &pointee.welcome_metadata).map_err(OpenError::from)
                }
                Err(error) => Err(error),
            },
        };
        let Unwrapped { data, metadata } = match opened {
            Ok(opened) => opened,
            Err(error) => return dropped(&error),
        };
        let commit_id = WelcomeMetadata::decode(metadata.as_slice()).map_or(0, |metadata| metadata.message_cursor);
        self.accept_welcome(&data, commit_id, network, identities, accept).await
    }

    fn private_key(&self, public_key: &[u8], xwing: bool) -> Option<Vec<u8>> {
        let package = self
            .key_packages
            .iter()
            .find(|package| package.init_key == public_key || package.xwing_public_key == public_key)?;
        if xwing {
            return Some(package.xwing_private_key.clone());
        }
        let reference = openmls::ciphersuite::hash_ref::make_key_package_ref(
            &package.key_package,
            crate::key_package::CIPHERSUITE,
            self.provider.crypto(),
        )
        .ok()?;
        use openmls_traits::storage::StorageProvider;
        let bundle: Option<openmls::key_packages::KeyPackageBundle> =
            StorageProvider::<1>::key_package(self.provider.storage(), &reference).ok()?;
        bundle.map(|bundle| bundle.init_private_key().to_vec())
    }

    fn open(&self, message: &welcome_message::V1) -> Result<Unwrapped, OpenError> {
        let algorithm = WelcomeWrapperAlgorithm::try_from(message.wrapper_algorithm)
            .ok()
            .and_then(|algorithm| WrapperAlgorithm::try_from(algorithm).ok())
            .ok_or(OpenError::Algorithm(message.wrapper_algorithm))?;
        let xwing = algorithm == WrapperAlgorithm::XWing;
        let private_key = self.private_key(&message.hpke_public_key, xwing).ok_or(OpenError::UnknownKey)?;
        Ok(wrapper::unwrap(algorithm, &private_key, &message.data, &message.welcome_metadata)?)
    }

    fn open_pointer(&self, message: &welcome_message::WelcomePointer) -> Result<Pointer, OpenError> {
        let private_key = self.private_key(&message.hpke_public_key, true).ok_or(OpenError::UnknownKey)?;
        Ok(Pointer::unwrap(&private_key, &message.welcome_pointer)?)
    }

    /// Joins by a MLS Welcome if the group is one and its members are who its membership says.
    async fn accept_welcome(
        &self,
        data: &[u8],
        commit_id: u64,
        network: &dyn Network,
        identities: &mut Identities,
        accept: &impl Fn(&Invitation) -> bool,
    ) -> Result<Joining, WelcomeError> {
        let dropped = |reason: &dyn std::fmt::Display| Ok(Joining::Dropped(reason.to_string()));
        let welcome = match MlsMessageIn::tls_deserialize_exact(data).map(MlsMessageIn::extract) {
            Ok(MlsMessageBodyIn::Welcome(welcome)) => welcome,
            _ => return dropped(&"not a Welcome"),
        };
        // openmls reads the key package and writes the group into one storage: give it a copy, keep what is new.
        let keys = self.provider.values();
        let provider = Provider::with_values(keys.clone());
        let staged = StagedWelcome::build_from_welcome(&provider, &join_config(), welcome)
            .and_then(|builder| builder.skip_lifetime_validation().build());
        let staged = match staged {
            Ok(staged) => staged,
            Err(error) => return dropped(&error),
        };
        let extensions = match GroupExtensions::parse(staged.group_context().extensions()) {
            Ok(extensions) => extensions,
            Err(error) => return dropped(&error),
        };
        let Ok(id) = staged.group_context().group_id().as_slice().try_into().map(GroupId) else {
            return dropped(&"the group id is not 16 bytes");
        };
        let Some(added_by) = staged.welcome_sender().ok().and_then(|leaf| credential_inbox(leaf.credential())) else {
            return dropped(&"who sent it names no inbox");
        };
        let conversation_type = extensions.immutable.conversation_type;
        if !accept(&Invitation { group: id, conversation_type, added_by: added_by.clone() }) {
            return Ok(Joining::Refused);
        }
        identities.load(network, extensions.membership.members.keys()).await?;
        let leaves: Option<BTreeSet<Leaf>> = staged.members().map(|member| Leaf::of_member(&member).ok()).collect();
        let Some(leaves) = leaves.filter(|leaves| leaves.iter().all(|leaf| leaf.inbox.is_some())) else {
            return dropped(&"a leaf names no inbox");
        };
        if let Err(reason) = check_membership(&extensions, &leaves, identities) {
            return dropped(&reason);
        }
        let mls = match staged.into_group(&provider) {
            Ok(mls) => mls,
            Err(error) => return dropped(&error),
        };
        let values = provider.values().into_iter().filter(|(key, _)| !keys.contains_key(key)).collect();
        let mut cursor = Cursor::default();
        cursor.advance(COMMITS, commit_id);
        let group = Group::assemble(id, mls, Provider::with_values(values)).joined(cursor, added_by);
        Ok(Joining::Joined(Box::new(group)))
    }
}

/// The joiner's rule: exactly the installations that the identity logs name are in the tree or listed as failed.
fn check_membership(
    extensions: &GroupExtensions,
    leaves: &BTreeSet<Leaf>,
    identities: &Identities,
) -> Result<(), String> {
    let by_inbox = by_inbox(leaves);
    let membership = &extensions.membership;
    if let Some(stranger) = by_inbox.keys().find(|inbox| !membership.members.contains_key(**inbox)) {
        return Err(format!("inbox {stranger} has a leaf and no membership"));
    }
    for (inbox, sequence_id) in &membership.members {
        let expected = identities
            .installations_at(inbox, *sequence_id)
            .ok_or_else(|| format!("inbox {inbox} has no identity update {sequence_id}"))?;
        let present = by_inbox.get(inbox).cloned().unwrap_or_default();
        if let Some(extra) = present.difference(&expected).next() {
            return Err(format!("installation {extra} does not belong to inbox {inbox}"));
        }
        let missing = expected.difference(&present).find(|id| !membership.failed_installations.contains(*id));
        if let Some(missing) = missing {
            return Err(format!("installation {missing} of inbox {inbox} is missing"));
        }
    }
    Ok(())
}
