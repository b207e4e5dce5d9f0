//! People with our own client, on a network in memory.

use usher_xmtp::{
    Account, Group, Identities, MemberKeyPackage, Wrapping,
    content::{self, Content, Outgoing},
    group::{Event, MembershipChange, MetadataChange},
    identity::{InboxId, LocalWallet, WalletSigner as _},
    inbox_of,
    network::Network as _,
};

use crate::network::MemoryNetwork;

/// What time it is, in nanoseconds since 1970. (openmls looks at the machine's clock.)
pub const NOW_NS: u64 = 1_795_474_164_000_000_000;

/// Time stands still.
#[derive(Debug, Clone, Copy)]
pub struct Still;

impl usher_xmtp::ports::Clock for Still {
    fn now_ns(&self) -> u64 {
        NOW_NS
    }
}

impl usher_domain::ports::Clock for Still {
    fn now_ms(&self) -> u64 {
        NOW_NS / 1_000_000
    }
}

/// The machine's randomness: keys cannot be stored in a corpus anyway, as openmls draws its own.
#[derive(Debug, Clone, Copy)]
pub struct Machine;

impl usher_xmtp::ports::Randomness for Machine {
    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the machine has randomness");
    }
}

impl usher_domain::ports::Randomness for Machine {
    fn fill(&self, bytes: &mut [u8]) {
        usher_xmtp::ports::Randomness::fill(self, bytes);
    }
}

/// Runs a target's calls to their end. Nothing here waits for a socket.
pub fn run<R>(work: impl Future<Output = R>) -> R {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime without sockets needs nothing").block_on(work)
}

/// The wallet of person number `number`, which is not 0.
pub fn wallet(number: u8) -> LocalWallet {
    LocalWallet::from_key(&[number; 32]).expect("small numbers are secp256k1 keys")
}

/// A registered installation of person number `number`.
pub async fn register(number: u8, wrapping: Wrapping, network: &MemoryNetwork) -> Account {
    let wallet = wallet(number);
    let inbox = inbox_of(wallet.address(), network).await.expect("the network is in memory");
    let mut account = Account::new(inbox, &Still, &Machine).expect("keys can be made");
    account.rotate_key_package(wrapping, &Still, &Machine).expect("keys can be made");
    account.register(&wallet, network, &Still).await.expect("the network takes everything");
    account
}

/// A copy as a cold start makes it.
pub fn copied(account: &Account) -> Account {
    Account::decode(&account.encode().expect("an account encodes")).expect("what was encoded decodes")
}

/// A member of a group.
#[derive(Debug)]
pub struct Seat {
    /// Whose.
    pub account: Account,
    /// The group as the member sees it.
    pub group: Group,
    /// What was met in its log.
    pub events: Vec<Event>,
}

impl Seat {
    /// A seat whose log was not read yet.
    pub fn new(account: Account, group: Group) -> Self {
        Self { account, group, events: Vec::new() }
    }

    /// A copy as a cold start makes it.
    pub fn copied(&self) -> Self {
        let group = self.group.encode().expect("a group encodes");
        Self::new(copied(&self.account), Group::decode(&group).expect("what was encoded decodes"))
    }

    /// Follows the log.
    pub async fn sync(&mut self, network: &MemoryNetwork) {
        let mut identities = Identities::default();
        let synced = self.group.sync(&self.account, network, &mut identities, &mut self.events).await;
        synced.expect("the network answers");
    }

    /// Sends application data.
    pub async fn send(&mut self, message: &Outgoing, network: &MemoryNetwork) {
        let message = self.group.encrypt(&self.account, message, &Still).expect("a member can send");
        network.send_group_messages(vec![message]).await.expect("the network takes it");
    }

    /// Says something.
    pub async fn say(&mut self, text: &str, network: &MemoryNetwork) {
        self.send(&content::encode_text(text, text), network).await;
    }

    /// Whether somebody was heard saying something.
    pub fn heard(&self, text: &str) -> bool {
        let says = |event: &Event| match event {
            Event::Received(received) => received.content == Content::Text(text.to_owned()),
            _ => false,
        };
        self.events.iter().any(says)
    }

    /// Stages the commit that describes the group so.
    pub async fn stage_description(&mut self, text: &str, network: &MemoryNetwork) {
        let attributes = [(usher_xmtp::attributes::DESCRIPTION.to_owned(), text.to_owned())].into();
        let change = MetadataChange { attributes, ..MetadataChange::default() };
        let staged = self.group.stage_metadata(&self.account, network, &mut Identities::default(), change).await;
        staged.expect("a super admin may describe the group");
    }

    /// Stages the commit that adds these inboxes and does nothing else.
    pub async fn stage_addition(&mut self, inboxes: &[&InboxId], network: &MemoryNetwork) {
        let mut identities = Identities::default();
        identities.load(network, inboxes.iter().copied()).await.expect("the logs of those who are added are good");
        let failed_installations = self.group.membership().failed_installations;
        let mut change = MembershipChange { failed_installations, ..MembershipChange::default() };
        for inbox in inboxes.iter().copied() {
            let (sequence_id, state) = identities.latest(inbox).expect("the logs of those who are added are good");
            change.set.insert(inbox.clone(), sequence_id);
            for installation in state.installations() {
                let package = network.key_package(installation).expect("everybody added has key packages");
                let package = MemberKeyPackage::verify(&package, inbox, installation);
                change.add_installations.push(package.expect("and they are good"));
            }
        }
        let staged = self.group.stage_membership(&self.account, network, &mut identities, change).await;
        staged.expect("a super admin may add");
    }

    /// Adds inboxes, in one commit, and sends the welcomes.
    pub async fn admit(&mut self, inboxes: &[&InboxId], network: &MemoryNetwork) {
        self.stage_addition(inboxes, network).await;
        self.publish(network).await;
    }

    /// Publishes the staged commit and follows the log.
    pub async fn publish_commit(&mut self, network: &MemoryNetwork) {
        let commit = self.group.pending_commit(&self.account, &Still).expect("a commit was staged");
        network.send_group_messages(vec![commit]).await.expect("the network takes it");
        self.sync(network).await;
        assert!(!self.group.has_pending_commit(), "the log has decided about the commit: {:?}", self.events);
    }

    /// Publishes the staged commit, follows the log and sends the welcomes.
    pub async fn publish(&mut self, network: &MemoryNetwork) {
        self.publish_commit(network).await;
        let sent = self.group.send_welcomes(network, &Machine, |_| true).await.expect("the network takes it");
        self.group.clear_welcomes(&sent);
    }
}
