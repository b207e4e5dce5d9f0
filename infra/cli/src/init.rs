//! `usher init`: a deployment gets its id, its network and its one XMTP account. It may be repeated at any time: it
//! takes up what was begun, and changes nothing that is done.

use std::path::PathBuf;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use serde::Serialize;
use usher_lambda::{AccountInfo, InboxUsage, network_name};
use usher_xmtp::{V3, inbox_of};

use crate::{
    Failure, config, print,
    stack::{Machinery, Stack, XMTP_TIMEOUT},
    wallet::WalletArgs,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Also put this configuration in force
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    wallet: WalletArgs,
    #[command(flatten)]
    stack: Stack,
    #[command(flatten)]
    machinery: Machinery,
}

/// What a deployment has been initialised to.
#[derive(Debug, Serialize)]
struct Done {
    network: String,
    #[serde(flatten)]
    account: AccountInfo,
    /// What the inbox has used up; XMTP gives it no more.
    usage: InboxUsage,
    /// The revision of the configuration, if there is one.
    configuration: Option<u64>,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    // What is wrong with the file is said before anything is done.
    let document = args.config.as_deref().map(config::read).transpose()?;
    let deployment = args.stack.reach().await?;
    let store = deployment.store();
    let stored = store.configuration().await.map_err(|error| deployment.unreachable(error))?;
    let wallet = args.wallet.open(&deployment).await?;
    let usher = deployment.usher(&args.machinery).await?.ok_or("name the data key's file: --data-key-file FILE")?;

    let account = usher.init(&*wallet).await?;
    let url = deployment.xmtp_url(&args.machinery);
    let network = V3::new(url, XMTP_TIMEOUT)?;
    let inbox = inbox_of(wallet.address(), &network).await?;
    if inbox.as_str() != account.inbox {
        return Err(format!(
            "the account is inbox {}, the wallet's {inbox}: use the wallet it was made with",
            account.inbox
        )
        .into());
    }
    let usage = InboxUsage::of(&inbox, &network).await?;
    if let Some(document) = document {
        config::put(&store, stored, &document).await?;
    }
    let configuration = store.configuration().await?.map(|stored| stored.revision);
    let done = Done { network: network_name(url), account, usage, configuration };
    print(&if args.json { serde_json::to_string(&done)? } else { text(&done) });
    Ok(())
}

fn text(done: &Done) -> String {
    let Done { network, account, usage, configuration } = done;
    let configuration = match configuration {
        Some(revision) => format!("revision {revision}"),
        None => "none: run `usher config put FILE`".to_owned(),
    };
    let mut table = comfy_table::Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(["XMTP network", network]);
    table.add_row(["inbox", &account.inbox]).add_row(["installation", &account.installation]);
    table.add_row(["wallet", &account.wallet]).add_row(["used up", &usage.to_string()]);
    table.add_row(["configuration", &configuration]);
    table.to_string()
}
