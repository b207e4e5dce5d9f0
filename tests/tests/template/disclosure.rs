//! Nothing secret is said where KMS keeps the keys and Secrets Manager the nodes' URLs, neither by the functions nor by
//! the operator's commands, however much is asked for. (What is said of rooms and chat: `tests/tests/secrets.rs`.)

use std::{collections::BTreeSet, fs};

use usher_localnet::{lambda::Logs, person::Person};
use usher_tests::{
    haus::{CHAIN, Chain, Event},
    spoken::forms,
    world::{ANVIL_KEYS, AnyError},
};

use crate::{
    deployment::{ASKED_CHAIN, Deployment, configuration},
    recorder::NODE_URL,
};

#[tokio::test]
async fn no_data_key_and_no_wallet_is_said_at_trace_level() -> Result<(), AnyError> {
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("log");
    let deployment = Deployment::start_logged("trace", &Logs::File(log.clone())).await?;
    let config = configuration()?;
    let config = config.path().to_string_lossy().into_owned();
    let mut said = Vec::new();
    let mut tell = async |arguments: &[&str]| {
        let output = deployment.usher(arguments).await?;
        said.push(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)));
        Ok::<_, AnyError>(())
    };
    tell(&["init", "--config", &config]).await?;
    let creator = Person::register(&ANVIL_KEYS[0], &deployment.xmtp_url).await?;
    let event = Event::new(0, creator.address());
    let mint = serde_json::json!({ "chainId": CHAIN, "logs": Chain::default().mint(&event).logs });
    deployment.send("MintQueue", mint.to_string()).await?;
    deployment
        .until("there is a room", async || {
            Ok(deployment.store.event(&event.key()).await?.is_some_and(|event| !event.rooms.is_empty()))
        })
        .await?;
    let purchase = serde_json::json!({ "chainId": ASKED_CHAIN, "logs": Chain::default().purchase(&event, 1, creator.address()).logs });
    deployment.leave("PurchaseQueue", &purchase.to_string()).await?;
    let asked = async || Ok(fs::read_to_string(&log)?.contains("not confirmed by the chain"));
    deployment.until("a node is asked", asked).await?;
    for command in
        [&["doctor"][..], &["config", "get"], &["parked", "list"], &["rooms"], &["recover", "--begin"], &["recover"]]
    {
        tell(command).await?;
    }
    let secrets = deployment.recorder.secrets();
    drop(deployment);
    said.push(fs::read_to_string(log)?);

    // The account's data key, the room's and the wallet's key at least; and everybody spoke of calls to KMS.
    assert!(secrets.len() >= 3, "{} secrets", secrets.len());
    for (number, text) in said.iter().enumerate() {
        assert!(text.contains("TRACE"), "nothing at trace level: {number}");
    }
    assert!(said.first().is_some_and(|text| text.contains("GenerateDataKey")));
    assert!(said.last().is_some_and(|text| text.contains("Decrypt") || text.contains("GenerateDataKey")));
    let mut found = BTreeSet::new();
    let path = NODE_URL.rsplit('/').next().unwrap_or_default();
    found.extend(said.iter().flat_map(|text| text.lines()).find(|line| line.contains(path)).map(str::to_owned));
    for (number, secret) in secrets.iter().enumerate() {
        for form in forms(secret) {
            let line = said.iter().flat_map(|text| text.lines()).find(|line| line.contains(&form));
            found.extend(line.map(|line| format!("secret {number}: {}", line.chars().take(300).collect::<String>())));
        }
    }
    assert!(found.is_empty(), "{found:#?}");
    Ok(())
}
