//! A chain of its own: anvil, with the contracts of `contracts/Haus.sol` on it.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_rpc_client::RpcClient;
use alloy_sol_types::{SolCall, SolEvent as _, sol};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::{interval, timeout},
};

use crate::{
    haus::{FACTORY, Factory, Transaction},
    world::AnyError,
};

const PATIENCE: Duration = Duration::from_secs(30);
/// 15 January 2035, in seconds.
const START_S: u64 = 2_052_432_000;

sol! {
    function createEventForCreator(address creator, uint256 startDate, string artCategory);
    function purchaseTicket();
    function transferFrom(address from, address to, uint256 id);
    function burn(uint256 id);
    function refund(uint256 id);
}

/// A running anvil with a factory at [`FACTORY`]; killed when dropped. Its accounts are those of
/// [`ANVIL_KEYS`](crate::world::ANVIL_KEYS).
pub struct Anvil {
    /// Its JSON-RPC address.
    pub url: String,
    rpc: RpcClient,
    accounts: Vec<Address>,
    process: Child,
}

impl Anvil {
    /// Starts on a free port and deploys the factory.
    pub async fn start() -> Result<Self, AnyError> {
        let mut process = Command::new(binary()?)
            .args(["--port", "0", "--host", "127.0.0.1"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = process.stdout.take().ok_or("standard output is piped")?;
        let mut lines = BufReader::new(stdout).lines();
        let address = async {
            while let Some(line) = lines.next_line().await? {
                if let Some(address) = line.strip_prefix("Listening on ") {
                    return Ok(address.to_owned());
                }
            }
            Err(AnyError::from("anvil ended before it was ready"))
        };
        let url = format!("http://{}", timeout(PATIENCE, address).await??);
        // Who writes into a pipe that nobody reads ends.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        // A client wants to know its TLS, be the address without it or not; who told it first does not matter.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let rpc = RpcClient::new_http(url.parse()?);
        let accounts = rpc.request_noparams("eth_accounts").await?;
        let anvil = Self { url, rpc, accounts, process };
        anvil.deploy_factory().await?;
        Ok(anvil)
    }

    /// An account's address.
    pub fn account(&self, number: usize) -> Address {
        self.accounts[number]
    }

    /// Ends it, as a node that is down.
    pub async fn stop(&mut self) -> Result<(), AnyError> {
        Ok(self.process.kill().await?)
    }

    /// `account` mints an event for `creator`; returns its kiosk, too.
    pub async fn mint(&self, account: usize, creator: usize) -> Result<(Transaction, Address), AnyError> {
        let (creator, category) = (self.account(creator), "jazz".to_owned());
        let call = createEventForCreatorCall { creator, startDate: U256::from(START_S), artCategory: category };
        let minted = self.call(account, FACTORY, &call).await?;
        let is_created = |log: &&Value| log["topics"][0] == json!(Factory::EventCreated::SIGNATURE_HASH);
        let created = minted.logs.iter().find(is_created).ok_or("an event is created")?;
        let data: Bytes = serde_json::from_value(created["data"].clone())?;
        let kiosk = Factory::EventCreated::abi_decode_data(&data)?.4;
        Ok((minted, kiosk))
    }

    /// `account` buys a ticket.
    pub async fn purchase(&self, account: usize, kiosk: Address) -> Result<Transaction, AnyError> {
        self.call(account, kiosk, &purchaseTicketCall {}).await
    }

    /// `account` gives a ticket to another.
    pub async fn transfer(&self, account: usize, kiosk: Address, to: usize, id: u64) -> Result<Transaction, AnyError> {
        let (from, to) = (self.account(account), self.account(to));
        self.call(account, kiosk, &transferFromCall { from, to, id: U256::from(id) }).await
    }

    /// `account` burns a ticket.
    pub async fn burn(&self, account: usize, kiosk: Address, id: u64) -> Result<Transaction, AnyError> {
        self.call(account, kiosk, &burnCall { id: U256::from(id) }).await
    }

    /// `account` has a ticket refunded.
    pub async fn refund(&self, account: usize, kiosk: Address, id: u64) -> Result<Transaction, AnyError> {
        self.call(account, kiosk, &refundCall { id: U256::from(id) }).await
    }

    /// What the chain is now, to go back to.
    pub async fn snapshot(&self) -> Result<U256, AnyError> {
        Ok(self.rpc.request_noparams("evm_snapshot").await?)
    }

    /// A reorganisation: what came after the snapshot never was, and another block is mined.
    pub async fn revert(&self, snapshot: U256) -> Result<(), AnyError> {
        let reverted: bool = self.rpc.request("evm_revert", (snapshot,)).await?;
        let _: Value = self.rpc.request_noparams("evm_mine").await?;
        if reverted { Ok(()) } else { Err("there is no such snapshot".into()) }
    }

    async fn deploy_factory(&self) -> Result<(), AnyError> {
        let code = compiled().await?["Factory"].clone();
        let receipt = self.send(json!({ "from": self.account(0), "data": code })).await?;
        let at: Address = serde_json::from_value(receipt["contractAddress"].clone())?;
        if at == FACTORY { Ok(()) } else { Err(format!("the factory is at {at}").into()) }
    }

    async fn call(&self, account: usize, to: Address, call: &impl SolCall) -> Result<Transaction, AnyError> {
        let data = Bytes::from(call.abi_encode());
        let receipt = self.send(json!({ "from": self.account(account), "to": to, "data": data })).await?;
        if receipt["status"] != "0x1" {
            return Err(format!("the transaction failed: {receipt}").into());
        }
        Ok(Transaction { logs: receipt["logs"].as_array().cloned().unwrap_or_default() })
    }

    /// Mines a transaction.
    async fn send(&self, transaction: Value) -> Result<Value, AnyError> {
        let hash: B256 = self.rpc.request("eth_sendTransaction", (transaction,)).await?;
        // It mines at once, beside the answer.
        let mined = async {
            let mut ticks = interval(Duration::from_millis(20));
            loop {
                ticks.tick().await;
                if let Some(receipt) = self.rpc.request("eth_getTransactionReceipt", (hash,)).await? {
                    return Ok(receipt);
                }
            }
        };
        timeout(PATIENCE, mined).await?
    }
}

fn packages() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("node-sdk")
}

/// npm installs the one for this machine.
fn binary() -> Result<PathBuf, AnyError> {
    let folder = packages().join("node_modules/@foundry-rs");
    let folders = std::fs::read_dir(&folder).map_err(|_| "anvil is not installed: run `npm ci` in tests/node-sdk")?;
    let mut binaries = folders.map_while(Result::ok).map(|entry| entry.path().join("bin/anvil"));
    binaries.find(|binary| binary.is_file()).ok_or_else(|| format!("no anvil in {}", folder.display()).into())
}

/// Each contract's creation code.
async fn compiled() -> Result<Value, AnyError> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("contracts/Haus.sol");
    let output = Command::new("node").arg(packages().join("compile.mjs")).arg(source).output().await?;
    if !output.status.success() {
        return Err(format!("Haus.sol: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
