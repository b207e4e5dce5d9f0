//! XMTP as usher's processes and the members' clients meet it.

use std::sync::{Arc, Mutex};

use alloy_primitives::Address;
use async_trait::async_trait;
use usher_domain::ports::Clock as _;
use usher_localnet::xmtp_node::{Limiter, Method};
use usher_xmtp::{
    GroupId,
    identity::{InboxId, InstallationId},
    network::{
        FailureKind, GROUPS_PER_CALL, GroupMessage, IDENTITY_LOGS_PER_CALL, LoggedUpdate, Network, NetworkError,
        Newest, OutgoingMessage,
    },
    proto::{associations::IdentityUpdate, mls_api},
};

use crate::{
    faults::Fault,
    node::{Node, framing},
    process::Process,
    shared::{Shared, pause},
    trouble::MINUTE_MS,
    watch::{Watch, recipients},
};

/// How often the planned outage begins at a call of its kind, per mille.
const OUTAGE: u32 = 300;
/// How far behind a replica may be, in entries of all logs.
const LAG_MAX: u64 = 12;

/// The network of one of usher's processes.
pub(crate) struct UsherNetwork {
    pub(crate) node: Arc<Node>,
    pub(crate) process: Arc<Process>,
    pub(crate) watch: Arc<Watch>,
    pub(crate) limiter: Arc<Mutex<Option<Limiter>>>,
}

impl UsherNetwork {
    fn failed<R>(method: &'static str, kind: FailureKind) -> Result<R, NetworkError> {
        Err(NetworkError { method, kind, message: "simulated".to_owned() })
    }

    async fn call<R>(
        &self,
        method: &'static str,
        (rpc, cost): (Method, usize),
        effect: impl Future<Output = Result<R, NetworkError>>,
    ) -> Result<R, NetworkError> {
        self.process.before(method).await;
        self.go_down(method);
        let down = {
            let mut state = self.process.shared.lock();
            let down = state.now_ms < state.node_down_until_ms;
            if down {
                state.tally.meet(Fault::Down, method);
                // A call that waits for its timeout.
                state.now_ms += 4_000;
            }
            down
        };
        if down || self.process.meets(Fault::Unanswered, method) {
            return Self::failed(method, FailureKind::Unknown);
        }
        if self.process.meets(Fault::Throttled, method) {
            return Self::failed(method, FailureKind::RateLimited);
        }
        if self.exceeds(rpc, cost) {
            self.process.shared.count("calls beyond the node's limits");
            self.process.shared.trace(|| format!("{} {method} exceeds the node's limits", self.process.name));
            return Self::failed(method, FailureKind::RateLimited);
        }
        let answer = effect.await;
        if self.process.meets(Fault::AnswerLost, method) {
            return Self::failed(method, FailureKind::Unknown);
        }
        self.process.after(method).await;
        answer
    }

    /// The planned outage begins now, maybe.
    fn go_down(&self, method: &'static str) {
        let mut state = self.process.shared.lock();
        if state.outage != Some(method) || !state.dice.happens(OUTAGE) {
            return;
        }
        state.outage = None;
        let for_ms = state.dice.between(MINUTE_MS, 60 * MINUTE_MS);
        state.node_down_until_ms = state.now_ms + for_ms;
        drop(state);
        self.process.shared.trace(|| format!("the node is down for {} s, before {method}", for_ms / 1000));
    }

    /// Whether the node has counted enough: all of usher's processes call from one address.
    fn exceeds(&self, rpc: Method, cost: usize) -> bool {
        let now_ns = self.process.shared.now_ms() * 1_000_000;
        let cost = u32::try_from(cost).expect("a few");
        let mut limiter = self.limiter.lock().expect("no panic");
        limiter.as_mut().is_some_and(|limiter| limiter.spend(rpc, cost, "usher", now_ns).is_err())
    }

    fn behind(&self, method: &'static str) -> u64 {
        if self.process.meets(Fault::Stale, method) { self.process.shared.lock().dice.between(1, LAG_MAX) } else { 0 }
    }
}

#[async_trait]
impl Network for UsherNetwork {
    async fn publish_identity_update(&self, update: IdentityUpdate) -> Result<(), NetworkError> {
        self.call(
            "publish_identity_update",
            (Method::PublishIdentityUpdate, 1),
            self.node.publish_identity_update(update),
        )
        .await
    }

    async fn identity_updates(&self, after: &[(InboxId, u64)]) -> Result<Vec<Vec<LoggedUpdate>>, NetworkError> {
        self.call(
            "identity_updates",
            (Method::GetIdentityUpdates, after.len().div_ceil(IDENTITY_LOGS_PER_CALL)),
            async { Ok(self.node.identity_updates(after)) },
        )
        .await
    }

    async fn inbox_ids(&self, wallets: &[Address]) -> Result<Vec<Option<InboxId>>, NetworkError> {
        let behind = self.behind("inbox_ids");
        self.call("inbox_ids", (Method::GetInboxIds, 1), async { Ok(self.node.inbox_ids(wallets, behind)) }).await
    }

    async fn verify_smart_wallet_signature(
        &self,
        _account_id: &str,
        _block_number: Option<u64>,
        _hash: [u8; 32],
        _signature: &[u8],
    ) -> Result<bool, NetworkError> {
        Ok(false)
    }

    async fn upload_key_package(&self, key_package: Vec<u8>) -> Result<(), NetworkError> {
        self.call("upload_key_package", (Method::UploadKeyPackage, 1), async {
            self.node.upload_key_package(key_package)
        })
        .await
    }

    async fn key_packages(&self, installations: &[InstallationId]) -> Result<Vec<Option<Vec<u8>>>, NetworkError> {
        self.call("key_packages", (Method::FetchKeyPackages, 1), async { Ok(self.node.key_packages(installations)) })
            .await
    }

    async fn send_group_messages(&self, messages: Vec<OutgoingMessage>) -> Result<(), NetworkError> {
        let cost = messages.len();
        self.call("send_group_messages", (Method::SendGroupMessages, cost), async {
            messages.iter().for_each(|message| self.watch.leaves(&self.process, message));
            self.node.send_group_messages(messages)
        })
        .await
    }

    async fn group_messages(&self, group: GroupId, after: u64) -> Result<Vec<GroupMessage>, NetworkError> {
        self.call("group_messages", (Method::QueryGroupMessages, 1), async {
            Ok(self.node.group_messages(group, after))
        })
        .await
    }

    async fn newest_group_messages(&self, groups: &[GroupId]) -> Result<Vec<Option<Newest>>, NetworkError> {
        let behind = self.behind("newest_group_messages");
        self.call(
            "newest_group_messages",
            (Method::GetNewestGroupMessage, groups.len().div_ceil(GROUPS_PER_CALL)),
            async { Ok(self.node.newest_group_messages(groups, behind)) },
        )
        .await
    }

    async fn send_welcomes(&self, welcomes: Vec<mls_api::WelcomeMessageInput>) -> Result<(), NetworkError> {
        let cost = welcomes.len();
        self.call("send_welcomes", (Method::SendWelcomeMessages, cost), async {
            self.watch.welcomes_leave(&self.process, &welcomes);
            self.node.send_welcomes(welcomes);
            Ok(())
        })
        .await
    }

    async fn welcomes(&self, installation: [u8; 32], after: u64) -> Result<Vec<mls_api::WelcomeMessage>, NetworkError> {
        self.call("welcomes", (Method::QueryWelcomeMessages, 1), async { Ok(self.node.welcomes(installation, after)) })
            .await
    }
}

/// The network of a member's client: it works, but others may come between two calls.
pub(crate) struct MemberNetwork {
    pub(crate) node: Arc<Node>,
    pub(crate) shared: Arc<Shared>,
}

impl MemberNetwork {
    async fn turn(&self) {
        pause().await;
        // A client of ours is down as long as the node is: it tries again until that answers.
        while self.shared.now_ms() < self.shared.lock().node_down_until_ms {
            pause().await;
        }
    }
}

#[async_trait]
impl Network for MemberNetwork {
    async fn publish_identity_update(&self, update: IdentityUpdate) -> Result<(), NetworkError> {
        self.turn().await;
        if !self.shared.lock().pending.is_empty() {
            self.shared.count("changes of devices while a commit was pending");
        }
        self.node.publish_identity_update(update).await
    }

    async fn identity_updates(&self, after: &[(InboxId, u64)]) -> Result<Vec<Vec<LoggedUpdate>>, NetworkError> {
        self.turn().await;
        Ok(self.node.identity_updates(after))
    }

    async fn inbox_ids(&self, wallets: &[Address]) -> Result<Vec<Option<InboxId>>, NetworkError> {
        self.turn().await;
        Ok(self.node.inbox_ids(wallets, 0))
    }

    async fn verify_smart_wallet_signature(
        &self,
        _account_id: &str,
        _block_number: Option<u64>,
        _hash: [u8; 32],
        _signature: &[u8],
    ) -> Result<bool, NetworkError> {
        Ok(false)
    }

    async fn upload_key_package(&self, key_package: Vec<u8>) -> Result<(), NetworkError> {
        self.turn().await;
        self.node.upload_key_package(key_package)
    }

    async fn key_packages(&self, installations: &[InstallationId]) -> Result<Vec<Option<Vec<u8>>>, NetworkError> {
        self.turn().await;
        Ok(self.node.key_packages(installations))
    }

    async fn send_group_messages(&self, messages: Vec<OutgoingMessage>) -> Result<(), NetworkError> {
        self.turn().await;
        for message in &messages {
            let of = framing(&message.data).filter(|(_, epoch)| epoch.is_some());
            if of.is_some_and(|(group, _)| self.shared.lock().pending.contains(&group)) {
                self.shared.count("members' commits while usher's was pending");
            }
        }
        self.node.send_group_messages(messages)
    }

    async fn group_messages(&self, group: GroupId, after: u64) -> Result<Vec<GroupMessage>, NetworkError> {
        self.turn().await;
        Ok(self.node.group_messages(group, after))
    }

    async fn newest_group_messages(&self, groups: &[GroupId]) -> Result<Vec<Option<Newest>>, NetworkError> {
        self.turn().await;
        Ok(self.node.newest_group_messages(groups, 0))
    }

    async fn send_welcomes(&self, welcomes: Vec<mls_api::WelcomeMessageInput>) -> Result<(), NetworkError> {
        self.turn().await;
        self.shared.trace(|| format!("a member sends welcomes to {:?}", recipients(&welcomes)));
        self.node.send_welcomes(welcomes);
        Ok(())
    }

    async fn welcomes(&self, installation: [u8; 32], after: u64) -> Result<Vec<mls_api::WelcomeMessage>, NetworkError> {
        self.turn().await;
        Ok(self.node.welcomes(installation, after))
    }
}
