//! The token buckets of the hosted network, one per address and kind of call.

use std::collections::HashMap;

use tonic::Status;

use super::method::Method;

const MINUTE_NS: u64 = 60_000_000_000;

/// Size and refill of one kind of bucket, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// What a full bucket holds, and what a new address starts with.
    pub max_tokens: u32,
    /// What a whole minute of silence puts back.
    pub per_minute: u32,
}

/// The two kinds of bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimits {
    /// Group messages and welcomes cost one token each; an upload or an identity update costs one.
    pub publish: Bucket,
    /// Every other call costs one, opening a stream and publishing to the commit log included.
    pub default: Bucket,
}

impl Default for RateLimits {
    /// The limits XMTP documents for its hosted networks.
    fn default() -> Self {
        Self {
            publish: Bucket { max_tokens: 3000, per_minute: 600 },
            default: Bucket { max_tokens: 20_000, per_minute: 4000 },
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Publish,
    Default,
}

impl Kind {
    /// Publishing to the commit log counts as reading: the limiter knows it by no special rule.
    fn of(method: Method) -> Self {
        if method.publishes() && method != Method::BatchPublishCommitLog { Self::Publish } else { Self::Default }
    }
}

/// The refusal a limited client sees.
pub(super) fn exceeded(method: Method, cost: u32, ip: &str) -> Status {
    let suffix = match Kind::of(method) {
        Kind::Publish => "PUB",
        Kind::Default => "DEF",
    };
    Status::resource_exhausted(format!("{cost} exceeds rate limit R{ip}{suffix}"))
}

#[derive(Debug)]
struct Tokens {
    left: u32,
    last_seen_ns: u64,
}

/// The buckets of all addresses seen.
#[derive(Debug)]
pub struct Limiter {
    limits: RateLimits,
    buckets: HashMap<(String, Kind), Tokens>,
}

impl Limiter {
    /// Full buckets for everybody.
    pub fn new(limits: RateLimits) -> Self {
        Self { limits, buckets: HashMap::new() }
    }

    /// Takes `cost` tokens of the address `ip` at `now_ns`, nanoseconds since 1970, or refuses and takes none.
    ///
    /// Only whole minutes since the address's last call of this kind refill, and every call, refused ones too,
    /// restarts that minute: whoever calls more often than once a minute is never refilled.
    pub fn spend(&mut self, method: Method, cost: u32, ip: &str, now_ns: u64) -> Result<(), Status> {
        let kind = Kind::of(method);
        let bucket = match kind {
            Kind::Publish => self.limits.publish,
            Kind::Default => self.limits.default,
        };
        let tokens = self
            .buckets
            .entry((ip.to_owned(), kind))
            .or_insert(Tokens { left: bucket.max_tokens, last_seen_ns: now_ns });
        let minutes = now_ns.saturating_sub(tokens.last_seen_ns) / MINUTE_NS;
        let refill = u32::try_from(minutes).unwrap_or(u32::MAX).saturating_mul(bucket.per_minute);
        tokens.left = tokens.left.saturating_add(refill).min(bucket.max_tokens);
        tokens.last_seen_ns = now_ns;
        tokens.left = tokens.left.checked_sub(cost).ok_or_else(|| exceeded(method, cost, ip))?;
        Ok(())
    }
}
