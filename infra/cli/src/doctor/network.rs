//! XMTP: whether the node answers, whether it is the right one, and what is left of usher's inbox.

use alloy_primitives::Address;
use usher_lambda::{InboxUsage, network_name, telemetry::Chain};
use usher_xmtp::{IDENTITY_UPDATES_MAX, INSTALLATIONS_MAX, V3, network::Network as _};

use super::Check;
use crate::stack::{Deployment, Machinery, XMTP_TIMEOUT};

/// From here on somebody should think about it.
const INSTALLATIONS_MANY: usize = INSTALLATIONS_MAX - 2;
const UPDATES_MANY: usize = IDENTITY_UPDATES_MAX - 26;

pub(super) async fn look(deployment: &Deployment, machinery: &Machinery) -> Vec<Check> {
    let url = deployment.xmtp_url(machinery);
    let network = match V3::new(url, XMTP_TIMEOUT) {
        Ok(network) => network,
        Err(error) => return vec![Check::fail("XMTP", Chain(&error).to_string(), "mend the node's address")],
    };
    // Anything that is asked will do.
    let answers = match network.inbox_ids(&[Address::ZERO]).await {
        Ok(_) => Check::ok("XMTP", format!("{url} answers")),
        Err(error) => {
            let seen = format!("{url}: {}", Chain(&error));
            return vec![Check::fail("XMTP", seen, "see whether the node is up and may be reached from here")];
        }
    };
    let mut checks = vec![answers];
    checks.extend(bound(deployment, url).await);
    if let Ok(Some(usher)) = deployment.usher(machinery).await
        && let Ok(Some(account)) = usher.account().await
    {
        checks.push(match InboxUsage::of(account.inbox(), &network).await {
            Ok(usage) => left(usage),
            Err(error) => Check::fail("inbox", Chain(&error).to_string(), "look again"),
        });
    }
    checks
}

/// Whether it is the network that the deployment's rooms are on.
async fn bound(deployment: &Deployment, url: &str) -> Option<Check> {
    let (bound, told) = (deployment.store().network().await.ok()??, network_name(url));
    Some(if bound == told {
        Check::ok("network", bound)
    } else {
        let seen = format!("the deployment was initialised for {bound}, and this is {told}: no room is touched");
        Check::fail("network", seen, "give the stack the network it had; another network is another stage")
    })
}

fn left(usage: InboxUsage) -> Check {
    let seen = usage.to_string();
    if usage.installations >= INSTALLATIONS_MANY {
        return Check::warn("inbox", seen, "revoke installations that nobody uses: the next recovery needs a new one");
    }
    if usage.updates >= UPDATES_MANY {
        return Check::warn("inbox", seen, "think of another wallet: a full log ends the inbox, and cannot be emptied");
    }
    Check::ok("inbox", seen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn an_inbox_that_is_nearly_used_up_is_told_in_time() {
        for (installations, updates, status) in [
            (1, 1, Status::Ok),
            (7, 229, Status::Ok),
            (8, 8, Status::Warn),
            (10, 10, Status::Warn),
            (1, 230, Status::Warn),
        ] {
            assert_eq!(left(InboxUsage { installations, updates }).status, status, "{installations} {updates}");
        }
    }
}
