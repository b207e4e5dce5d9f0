//! Amazon's DynamoDB Local: one server for the whole test process.

use std::{
    fs::File,
    io::{Read, Seek},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use usher_store::dynamo::DynamoTable;

use crate::support::client;

/// How long the server may take to listen.
const PATIENCE: Duration = Duration::from_secs(60);
/// Becomes the command given, and kills it when its own standard input ends: with us, however we end. (A static is
/// never dropped, and a killed process drops nothing.)
const WHILE_WE_LIVE: &str = r#"exec 3<&0; (cat <&3; kill -9 $$) >/dev/null 2>&1 & exec "$@" 3<&- </dev/null"#;

struct Server {
    address: SocketAddr,
    tables: AtomicU64,
    _java: Child,
}

/// A new, empty table on the server that all tests of this process share.
pub(crate) async fn table() -> DynamoTable {
    let (address, name) = place().await;
    DynamoTable::new(client(&format!("http://{address}")), name)
}

/// The server's address, and the name of a new, empty table there.
pub(crate) async fn place() -> (SocketAddr, String) {
    static SERVER: OnceLock<Server> = OnceLock::new();
    let server = SERVER.get_or_init(start);
    let name = format!("usher-{}", server.tables.fetch_add(1, Ordering::Relaxed));
    let table = DynamoTable::new(client(&format!("http://{}", server.address)), &name);
    table.create_table().await.unwrap();
    table.create_table().await.unwrap(); // once more is fine
    (server.address, name)
}

fn start() -> Server {
    let store = Path::new(env!("CARGO_MANIFEST_DIR"));
    let installed = store.join("../../.tools/dynamodb-local");
    assert!(
        installed.join("installed").exists(),
        "DynamoDB Local is not installed in this checkout: run {}",
        store.join("tests/dynamodb-local/install").display()
    );
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let mut output = tempfile::tempfile().unwrap();
    let mut java = Command::new("sh")
        .args(["-c", WHILE_WE_LIVE, "sh", "java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx1g"])
        .arg(format!("-Djava.library.path={}", installed.display()))
        .args(["-cp", &format!("{}/*", installed.display())])
        .args(["com.amazonaws.services.dynamodbv2.local.main.ServerRunner", "-inMemory", "-disableTelemetry"])
        .args(["-port", &address.port().to_string()])
        .stdin(Stdio::piped())
        .stdout(output.try_clone().unwrap())
        .stderr(output.try_clone().unwrap())
        .spawn()
        .unwrap();
    await_listening(&mut java, address, &mut output);
    Server { address, tables: AtomicU64::new(0), _java: java }
}

fn await_listening(java: &mut Child, address: SocketAddr, output: &mut File) {
    let begun = Instant::now();
    while TcpStream::connect(address).is_err() {
        let ended = java.try_wait().unwrap();
        if ended.is_some() || begun.elapsed() > PATIENCE {
            let mut said = String::new();
            output.rewind().unwrap();
            output.read_to_string(&mut said).unwrap();
            panic!("DynamoDB Local does not listen on {address} (ended: {ended:?}):\n{said}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
