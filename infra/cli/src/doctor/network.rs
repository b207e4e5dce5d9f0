//! XMTP: whether the node answers, whether it is the right one, and what is left of usher's inbox.

use alloy_primitives::Address;
use usher_lambda::{InboxUsage, Place, network_name, telemetry::Chain};
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

/// Whether network and table are those that the deployment's rooms belong to.
async fn bound(deployment: &Deployment, url: &str) -> Vec<Check> {
    let Ok(Some(bound)) = deployment.store().place().await else { return Vec::new() };
    let told = Place { network: network_name(url), table: deployment.table_name().to_owned() };
    placed(bound, &told)
}

fn placed(bound: Place, told: &Place) -> Vec<Check> {
    let mut checks = Vec::new();
    checks.push(if bound.network == told.network {
        Check::ok("network", bound.network)
    } else {
        let seen = format!(
            "the deployment was initialised for {}, and this is {}: no room is touched",
            bound.network, told.network
        );
        Check::fail("network", seen, "give the stack the network it had; another network is another stage")
    });
    if bound.table != told.table {
        let seen = format!("it is {}, and the deployment's is {}: no room is touched", told.table, bound.table);
        let fix = "if it was restored from a backup, `usher recover --begin`: what it knows of rooms is old";
        checks.push(Check::fail("restored table", seen, fix));
    }
    checks
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
    fn a_deployment_that_is_elsewhere_is_told_what_to_do() {
        let place = |network: &str, table: &str| Place { network: network.to_owned(), table: table.to_owned() };
        let looked = |bound, told| {
            let checks = placed(bound, &told).into_iter();
            checks.map(|check| (check.check, check.status, check.fix.unwrap_or_default())).collect::<Vec<_>>()
        };
        let [(_, status, _)] = &looked(place("dev", "one"), place("dev", "one"))[..] else { panic!("one check") };
        assert_eq!(*status, Status::Ok);
        let [(_, network, _), (name, table, fix)] = &looked(place("dev", "one"), place("local", "two"))[..] else {
            panic!("two checks")
        };
        assert_eq!((*network, *table, &**name), (Status::Fail, Status::Fail, "restored table"));
        assert!(fix.contains("`usher recover --begin`"), "{fix}");
    }

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
