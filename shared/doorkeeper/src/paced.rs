//! XMTP within the node's rate limits: every call is paid from the deployment's shared budget.
//!
//! Tokens are reserved in portions that grow while they are used up, so that few calls wait for the table. That the
//! node has refused somebody is heard within a second. What cannot be paid fails at once, as a call that the node
//! refuses would, without touching it. Trouble with the budget itself stops nothing: the node still counts.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard},
};

use alloy_primitives::Address;
use async_trait::async_trait;
use usher_domain::ports::Clock;
use usher_store::{
    Chain, Store,
    budget::{Class, PORTION_LIFE_MS, Purpose, RateLimits, Reserved},
};
use usher_xmtp::{
    GroupId,
    identity::{InboxId, InstallationId},
    network::{
        FailureKind, GROUPS_PER_CALL, GroupMessage, IDENTITY_LOGS_PER_CALL, LoggedUpdate, Network, NetworkError,
        Newest, OutgoingMessage,
    },
    proto::{associations::IdentityUpdate, mls_api},
};

/// The first portion after a pause, and the largest.
const PORTION_MIN: u64 = 10;
const PORTION_MAX: u64 = 100;
/// How long a function may not have heard that everybody is quiet.
const HEARD_MS: u64 = 1_000;

/// A network paid from the budget in the store.
pub struct Paced {
    network: Arc<dyn Network>,
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    limits: RateLimits,
    purpose: Purpose,
    purse: Mutex<Purse>,
}

#[derive(Default)]
struct Purse {
    publish: Portion,
    default: Portion,
    /// When the budget was last looked at.
    heard_ms: u64,
    quiet_until_ms: u64,
}

#[derive(Default)]
struct Portion {
    left: u64,
    until_ms: u64,
    size: u64,
    /// There is nothing to be had before.
    spent_until_ms: u64,
}

impl Portion {
    fn lasts(&self, cost: u64, now_ms: u64) -> bool {
        now_ms < self.until_ms && cost <= self.left
    }

    /// What did not last is doubled.
    fn next_size(&self, now_ms: u64) -> u64 {
        let size = if now_ms < self.until_ms { self.size.saturating_mul(2) } else { PORTION_MIN };
        size.clamp(PORTION_MIN, PORTION_MAX)
    }
}

impl Purse {
    fn portion(&mut self, class: Class) -> &mut Portion {
        match class {
            Class::Publish => &mut self.publish,
            Class::Default => &mut self.default,
        }
    }

    /// Why nothing can be paid now, as far as is known.
    fn closed(&mut self, class: Class, now_ms: u64) -> Option<String> {
        let spent_until_ms = self.portion(class).spent_until_ms;
        if now_ms < self.quiet_until_ms {
            Some(format!("everybody is quiet until {}", self.quiet_until_ms))
        } else if now_ms < spent_until_ms {
            Some(format!("the budget is spent until {spent_until_ms}"))
        } else {
            None
        }
    }

    fn take(&mut self, class: Class, cost: u64, now_ms: u64) -> bool {
        let portion = self.portion(class);
        let paid = portion.lasts(cost, now_ms);
        if paid {
            portion.left -= cost;
        }
        paid
    }

    /// Notes the answer to a reservation of which `cost` is spent at once; whether it was paid.
    fn fill(&mut self, class: Class, reserved: Reserved, cost: u64, now_ms: u64) -> bool {
        self.heard_ms = now_ms;
        match reserved {
            Reserved::Granted(size) => {
                let (left, until_ms) = (size.saturating_sub(cost), now_ms + PORTION_LIFE_MS);
                *self.portion(class) = Portion { left, until_ms, size, spent_until_ms: 0 };
            }
            Reserved::Quiet(until_ms) => self.quiet_until_ms = until_ms,
            Reserved::Spent(until_ms) => self.portion(class).spent_until_ms = until_ms,
        }
        matches!(reserved, Reserved::Granted(_))
    }
}

impl fmt::Debug for Paced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Paced").field("limits", &self.limits).field("purpose", &self.purpose).finish_non_exhaustive()
    }
}

impl Paced {
    /// `network` within `limits`, for everything; leaves the last fifth to removals.
    pub fn new(network: Arc<dyn Network>, store: Arc<Store>, clock: Arc<dyn Clock>, limits: RateLimits) -> Self {
        Self { network, store, clock, limits, purpose: Purpose::Any, purse: Mutex::default() }
    }

    /// The same network for removals alone: it may spend all, and refuses what only an addition asks for.
    pub fn for_removals(&self) -> Self {
        let (network, store, clock) = (self.network.clone(), self.store.clone(), self.clock.clone());
        Self { network, store, clock, limits: self.limits, purpose: Purpose::Removal, purse: Mutex::default() }
    }

    /// Whether the share of this network is known to be spent, and more is left to removals.
    pub fn is_spent(&self) -> bool {
        let now_ms = self.clock.now_ms();
        let purse = self.purse();
        purse.quiet_until_ms <= now_ms && purse.publish.spent_until_ms.max(purse.default.spent_until_ms) > now_ms
    }

    fn purse(&self) -> MutexGuard<'_, Purse> {
        self.purse.lock().expect("no holder of this lock panics")
    }

    async fn call<R>(
        &self,
        method: &'static str,
        class: Class,
        cost: usize,
        call: impl Future<Output = Result<R, NetworkError>>,
    ) -> Result<R, NetworkError> {
        if cost > 0 {
            self.pay(method, class, u64::try_from(cost).unwrap_or(u64::MAX)).await?;
        }
        let answer = call.await;
        if let Err(NetworkError { kind: FailureKind::RateLimited, .. }) = &answer {
            self.refused(method, class).await;
        }
        answer
    }

    async fn pay(&self, method: &'static str, class: Class, cost: u64) -> Result<(), NetworkError> {
        let now_ms = self.clock.now_ms();
        let is_stale = {
            let mut purse = self.purse();
            if let Some(reason) = purse.closed(class, now_ms) {
                return Err(limited(method, reason));
            }
            let is_fresh = now_ms < purse.heard_ms + HEARD_MS;
            if is_fresh && purse.take(class, cost, now_ms) {
                return Ok(());
            }
            !is_fresh && purse.portion(class).lasts(cost, now_ms)
        };
        if is_stale {
            self.listen(now_ms).await;
            let mut purse = self.purse();
            if let Some(reason) = purse.closed(class, now_ms) {
                return Err(limited(method, reason));
            }
            if purse.take(class, cost, now_ms) {
                return Ok(());
            }
        }
        let wanted = self.purse().portion(class).next_size(now_ms).max(cost);
        let reserved = match self.store.reserve(&self.limits, class, self.purpose, cost, wanted).await {
            Ok(reserved) => reserved,
            Err(error) => {
                tracing::warn!(method, error = %Chain(&error), "called without a reservation");
                return Ok(());
            }
        };
        let mut purse = self.purse();
        if purse.fill(class, reserved, cost, now_ms) {
            return Ok(());
        }
        let reason = purse.closed(class, now_ms).unwrap_or_else(|| "the budget is spent".to_owned());
        tracing::info!(method, reason, "calls are left for later");
        Err(limited(method, reason))
    }

    /// Looks whether everybody is quiet.
    async fn listen(&self, now_ms: u64) {
        match self.store.quiet_until_ms().await {
            Ok(until_ms) => {
                let mut purse = self.purse();
                purse.quiet_until_ms = until_ms;
                purse.heard_ms = now_ms;
            }
            Err(error) => tracing::warn!(error = %Chain(&error), "the budget was not read"),
        }
    }

    async fn refused(&self, method: &'static str, class: Class) {
        let until_ms = match self.store.refused(&self.limits, class).await {
            Ok(until_ms) => until_ms,
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "nobody else was told to be quiet");
                self.clock.now_ms() + 60_000
            }
        };
        tracing::warn!(method, quiet_until_ms = until_ms, "rate limited by the node: everybody is quiet");
        *self.purse() = Purse { quiet_until_ms: until_ms, ..Purse::default() };
    }

    /// What only additions ask for is refused where the last of the budget is spent.
    fn not_for_removals(&self, method: &'static str) -> Result<(), NetworkError> {
        match self.purpose {
            Purpose::Any => Ok(()),
            Purpose::Removal => Err(limited(method, "what is left is for removals".to_owned())),
        }
    }
}

fn limited(method: &'static str, message: String) -> NetworkError {
    NetworkError { method, kind: FailureKind::RateLimited, message }
}

#[async_trait]
impl Network for Paced {
    async fn publish_identity_update(&self, update: IdentityUpdate) -> Result<(), NetworkError> {
        self.call("PublishIdentityUpdate", Class::Publish, 1, self.network.publish_identity_update(update)).await
    }

    async fn identity_updates(&self, after: &[(InboxId, u64)]) -> Result<Vec<Vec<LoggedUpdate>>, NetworkError> {
        let cost = after.len().div_ceil(IDENTITY_LOGS_PER_CALL);
        self.call("GetIdentityUpdates", Class::Default, cost, self.network.identity_updates(after)).await
    }

    async fn inbox_ids(&self, wallets: &[Address]) -> Result<Vec<Option<InboxId>>, NetworkError> {
        self.not_for_removals("GetInboxIds")?;
        self.call("GetInboxIds", Class::Default, 1, self.network.inbox_ids(wallets)).await
    }

    async fn verify_smart_wallet_signature(
        &self,
        account_id: &str,
        block_number: Option<u64>,
        hash: [u8; 32],
        signature: &[u8],
    ) -> Result<bool, NetworkError> {
        let call = self.network.verify_smart_wallet_signature(account_id, block_number, hash, signature);
        self.call("VerifySmartContractWalletSignatures", Class::Default, 1, call).await
    }

    async fn upload_key_package(&self, key_package: Vec<u8>) -> Result<(), NetworkError> {
        self.call("UploadKeyPackage", Class::Publish, 1, self.network.upload_key_package(key_package)).await
    }

    async fn key_packages(&self, installations: &[InstallationId]) -> Result<Vec<Option<Vec<u8>>>, NetworkError> {
        self.not_for_removals("FetchKeyPackages")?;
        self.call("FetchKeyPackages", Class::Default, 1, self.network.key_packages(installations)).await
    }

    async fn send_group_messages(&self, messages: Vec<OutgoingMessage>) -> Result<(), NetworkError> {
        let cost = messages.len();
        self.call("SendGroupMessages", Class::Publish, cost, self.network.send_group_messages(messages)).await
    }

    async fn group_messages(&self, group: GroupId, after: u64) -> Result<Vec<GroupMessage>, NetworkError> {
        self.call("QueryGroupMessages", Class::Default, 1, self.network.group_messages(group, after)).await
    }

    async fn newest_group_messages(&self, groups: &[GroupId]) -> Result<Vec<Option<Newest>>, NetworkError> {
        let cost = groups.len().div_ceil(GROUPS_PER_CALL);
        self.call("GetNewestGroupMessage", Class::Default, cost, self.network.newest_group_messages(groups)).await
    }

    async fn send_welcomes(&self, welcomes: Vec<mls_api::WelcomeMessageInput>) -> Result<(), NetworkError> {
        self.not_for_removals("SendWelcomeMessages")?;
        let cost = welcomes.len();
        self.call("SendWelcomeMessages", Class::Publish, cost, self.network.send_welcomes(welcomes)).await
    }

    async fn welcomes(&self, installation: [u8; 32], after: u64) -> Result<Vec<mls_api::WelcomeMessage>, NetworkError> {
        self.call("QueryWelcomeMessages", Class::Default, 1, self.network.welcomes(installation, after)).await
    }
}
