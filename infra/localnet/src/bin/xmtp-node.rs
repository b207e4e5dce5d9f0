//! `usher-xmtp-node`: the loopback XMTP V3 node as a process of its own.

use std::{
    io::{Write, copy, sink, stdin, stdout},
    path::PathBuf,
};

use clap::Parser;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};
use tonic::Code;
use usher_localnet::xmtp_node::{Fault, Method, Node, NodeOptions, RateLimits};

/// A loopback XMTP V3 node. Prints one line of JSON with its URLs when ready; stops on SIGINT, SIGTERM or when its
/// standard input ends.
#[derive(Parser)]
#[command(name = "usher-xmtp-node", version)]
struct Args {
    /// gRPC port; 0 takes a free one
    #[arg(long, default_value_t = 5556)]
    port: u16,
    /// gRPC-Web port; 0 takes a free one
    #[arg(long, default_value_t = 5557)]
    web_port: u16,
    /// SQLite file to keep everything in; in memory without it
    #[arg(long, value_name = "FILE")]
    db: Option<PathBuf>,
    /// What goes wrong with an RPC: unimplemented, unavailable, resource-exhausted, deadline-exceeded (carried out, the
    /// answer lost). Repeatable
    #[arg(long, value_name = "RPC=FAULT", value_parser = parse_fault)]
    fault: Vec<(Method, Fault)>,
    /// Refuse publishing as before the cutover to D14n
    #[arg(long)]
    disable_publishing: bool,
    /// Refuse publishing and streams as after the cutover to D14n
    #[arg(long)]
    cut_over: bool,
    /// Limit rates as the hosted networks do
    #[arg(long)]
    rate_limits: bool,
}

fn parse_fault(text: &str) -> Result<(Method, Fault), String> {
    let (method, fault) = text.split_once('=').ok_or("expected RPC=FAULT")?;
    let fault = match fault {
        "unimplemented" => Fault::Unimplemented,
        "unavailable" => Fault::Unavailable,
        "resource-exhausted" => Fault::ResourceExhausted,
        "deadline-exceeded" => Fault::AnswerLost(Code::DeadlineExceeded),
        other => return Err(format!("no fault is called {other}")),
    };
    Ok((method.parse().map_err(|error| format!("{error}"))?, fault))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let options = NodeOptions { port: args.port, web_port: args.web_port, database: args.db, ..NodeOptions::default() };
    let node = Node::start(options).await?;
    let faults = node.faults();
    for (method, fault) in args.fault {
        faults.fail(method, fault);
    }
    faults.disable_publishing(args.disable_publishing);
    faults.cut_over(args.cut_over);
    faults.limit_rates(args.rate_limits.then(RateLimits::default));
    let ready = serde_json::json!({ "xmtp_url": node.url(), "xmtp_web_url": node.web_url() });
    writeln!(stdout(), "{ready}")?;
    stop_requested().await?;
    node.shutdown().await?;
    Ok(())
}

async fn stop_requested() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let (end, input_ended) = oneshot::channel();
    // A thread of its own: a read that waits for input must not hold the process up when a signal ends it.
    std::thread::spawn(move || {
        let copied = copy(&mut stdin().lock(), &mut sink());
        end.send(copied)
    });
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
        _ = input_ended => Ok(()),
    }
}
