//! Functions run as Lambda runs them: a real `lambda_runtime` binary against our Runtime API.

#![expect(clippy::unwrap_used, reason = "a helper that panics fails its test")]

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use aws_sdk_sqs::{
    Client,
    types::{QueueAttributeName as Attribute, SendMessageBatchRequestEntry},
};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use usher_localnet::{
    aws::sqs_client,
    lambda::{EventSourceConfig, Function, FunctionConfig, FunctionError, Logs, RuntimeApi, Schedule, SqsEventSource},
    sqs::Sqs,
};

fn config() -> FunctionConfig {
    FunctionConfig {
        name: "sample".to_owned(),
        binary: PathBuf::from(env!("CARGO_BIN_EXE_sample-function")),
        env: vec![("AWS_LAMBDA_LOG_LEVEL".to_owned(), "OFF".to_owned())],
        timeout: Duration::from_secs(20),
        concurrency: 1,
        logs: Logs::Stderr,
    }
}

async fn function(config: FunctionConfig) -> Arc<Function> {
    let api = RuntimeApi::start(0).await.unwrap();
    Arc::new(Function::new(Arc::new(api), config))
}

async fn invoke(function: &Function, event: Value) -> Result<Value, FunctionError> {
    let response = function.invoke(event.to_string().into()).await?;
    Ok(serde_json::from_slice(&response).unwrap())
}

/// A process's state letter, `None` when it is gone; `T` is frozen.
fn state(pid: &Value) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

#[tokio::test]
async fn one_process_serves_many_and_is_frozen_between() {
    let function = function(config()).await;
    let first = invoke(&function, json!({ "number": 1 })).await.unwrap();
    assert_eq!(first["event"], json!({ "number": 1 }));
    assert_eq!(first["context"]["invoked_function_arn"], "arn:aws:lambda:us-east-1:000000000000:function:sample");
    assert_eq!(first["context"]["env_config"]["function_name"], "sample");
    let trace = first["context"]["xray_trace_id"].as_str().unwrap();
    assert!(trace.starts_with("Root=1-") && trace.len() == 50, "{trace}");
    let now = std::time::UNIX_EPOCH.elapsed().unwrap();
    let left = Duration::from_millis(first["context"]["deadline"].as_u64().unwrap()) - now;
    assert!(left > Duration::from_secs(10) && left <= Duration::from_secs(20), "{left:?}");
    // A stop signal is delivered without delay to a process that waits, but not within the call.
    while state(&first["pid"]) != Some('T') {
        tokio::task::yield_now().await;
    }

    let second = invoke(&function, json!({ "number": 2 })).await.unwrap();
    assert_eq!(second["pid"], first["pid"]);
    assert_ne!(second["context"]["request_id"], first["context"]["request_id"]);

    function.recycle();
    while state(&first["pid"]).is_some_and(|state| state != 'Z') {
        tokio::task::yield_now().await;
    }
    assert_ne!(invoke(&function, json!({})).await.unwrap()["pid"], first["pid"]);
}

#[tokio::test]
async fn errors_and_panics_leave_the_process_alive() {
    let function = function(config()).await;
    let before = invoke(&function, json!({})).await.unwrap();
    for order in ["return an error", "panic"] {
        match invoke(&function, json!({ "do": order })).await {
            Err(FunctionError::Returned { message, .. }) => assert!(message.contains("as ordered"), "{message}"),
            other => panic!("{order}: {other:?}"),
        }
    }
    assert_eq!(invoke(&function, json!({})).await.unwrap()["pid"], before["pid"]);
}

#[tokio::test]
async fn a_process_that_hangs_is_killed_and_replaced() {
    let function = function(FunctionConfig { timeout: Duration::from_secs(2), ..config() }).await;
    let before = invoke(&function, json!({})).await.unwrap();
    let error = invoke(&function, json!({ "do": "hang" })).await.unwrap_err();
    assert_eq!(error.to_string(), "timed out after 2000 ms");
    // The first thread may be a zombie while others still end; the process can be waited for when it is the last.
    let threads = || std::fs::read_dir(format!("/proc/{}/task", before["pid"])).map_or(0, Iterator::count);
    while state(&before["pid"]).is_some_and(|state| state != 'Z') || threads() > 1 {
        tokio::task::yield_now().await;
    }
    assert_ne!(invoke(&function, json!({})).await.unwrap()["pid"], before["pid"]);
}

#[tokio::test]
async fn a_process_that_ends_is_replaced() {
    let function = function(config()).await;
    let error = invoke(&function, json!({ "do": "exit" })).await.unwrap_err();
    assert!(matches!(error, FunctionError::Exited(status) if status.code() == Some(3)), "{error}");
    let before = invoke(&function, json!({})).await.unwrap();

    // Killed while idle: nobody notices until the next invocation, which gets another.
    let pid = before["pid"].as_i64().unwrap();
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    // The first thread may be a zombie while others still end; the process can be waited for when it is the last.
    let threads = || std::fs::read_dir(format!("/proc/{}/task", before["pid"])).map_or(0, Iterator::count);
    while state(&before["pid"]).is_some_and(|state| state != 'Z') || threads() > 1 {
        tokio::task::yield_now().await;
    }
    assert_ne!(invoke(&function, json!({})).await.unwrap()["pid"], before["pid"]);
}

#[tokio::test]
async fn a_function_that_cannot_start_says_why() {
    let refusing = FunctionConfig { env: vec![("REFUSE_TO_START".to_owned(), "no key".to_owned())], ..config() };
    assert!(matches!(invoke(&*function(refusing).await, json!({})).await, Err(FunctionError::Exited(_))));
    let missing = FunctionConfig { binary: PathBuf::from("/nowhere"), ..config() };
    assert!(matches!(invoke(&*function(missing).await, json!({})).await, Err(FunctionError::Start { .. })));
}

#[tokio::test]
async fn concurrency_is_bounded() {
    let function = function(FunctionConfig { concurrency: 2, ..config() }).await;
    let answers = futures::future::join_all((0..8).map(|number| invoke(&function, json!({ "number": number })))).await;
    let mut pids: Vec<_> = answers.into_iter().map(|answer| answer.unwrap()["pid"].as_u64().unwrap()).collect();
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 2, "{pids:?}");
}

#[tokio::test]
async fn a_schedule_fires() {
    let log = Log::new();
    let schedule = Schedule::start(Duration::from_millis(200), function(log.config()).await);
    while log.text().matches(r#""detail-type":"Scheduled Event""#).count() < 2 {
        tokio::task::yield_now().await;
    }
    schedule.stop().await;
}

/// What a function printed.
struct Log(tempfile::NamedTempFile);

impl Log {
    fn new() -> Self {
        Self(tempfile::NamedTempFile::new().unwrap())
    }

    fn config(&self) -> FunctionConfig {
        FunctionConfig { logs: Logs::File(self.0.path().to_owned()), ..config() }
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.0.path()).unwrap()
    }

    /// How often a message with this body was delivered.
    fn deliveries(&self, body: &str) -> usize {
        self.text().matches(&format!(r#""body":"{body}""#)).count()
    }
}

struct Queue {
    client: Client,
    url: String,
    dead: String,
    _sqs: Sqs,
}

async fn queue(visibility: &str, max_receives: u32) -> Queue {
    let sqs = Sqs::start(0, None).await.unwrap();
    let client = sqs_client(&sqs.url());
    let dead = client.create_queue().queue_name("dead").send().await.unwrap().queue_url.unwrap();
    let policy = format!(
        r#"{{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:dead","maxReceiveCount":{max_receives}}}"#
    );
    let created = client
        .create_queue()
        .queue_name("q")
        .attributes(Attribute::VisibilityTimeout, visibility)
        .attributes(Attribute::RedrivePolicy, policy);
    let url = created.send().await.unwrap().queue_url.unwrap();
    Queue { client, url, dead, _sqs: sqs }
}

impl Queue {
    async fn send(&self, bodies: &[&str]) {
        let entry = |(index, body): (usize, &&str)| {
            SendMessageBatchRequestEntry::builder().id(index.to_string()).message_body(*body).build().unwrap()
        };
        let entries = bodies.iter().enumerate().map(entry).collect();
        self.client.send_message_batch().queue_url(&self.url).set_entries(Some(entries)).send().await.unwrap();
    }

    async fn poll(&self, config: FunctionConfig) -> SqsEventSource {
        let source = EventSourceConfig { queue_url: self.url.clone(), batch_size: 10, maximum_concurrency: 2 };
        SqsEventSource::start(self.client.clone(), source, function(config).await).await.unwrap()
    }

    async fn left(&self, url: &str) -> u32 {
        let counts = [Attribute::ApproximateNumberOfMessages, Attribute::ApproximateNumberOfMessagesNotVisible];
        let all = self.client.get_queue_attributes().queue_url(url).attribute_names(Attribute::All).send().await;
        let all = all.unwrap().attributes.unwrap();
        counts.iter().map(|name| all[name].parse::<u32>().unwrap()).sum()
    }

    /// Waits until the queue is empty, and returns what died.
    async fn dead_bodies(&self) -> Vec<String> {
        while self.left(&self.url).await > 0 {
            tokio::task::yield_now().await;
        }
        let received = self.client.receive_message().queue_url(&self.dead).max_number_of_messages(10).send().await;
        let messages = received.unwrap().messages.unwrap_or_default();
        let mut bodies: Vec<_> = messages.into_iter().map(|message| message.body.unwrap()).collect();
        bodies.sort();
        bodies
    }
}

#[tokio::test]
async fn a_record_is_what_lambda_delivers() {
    let queue = queue("600", 1).await;
    queue.send(&["hello"]).await;
    let log = Log::new();
    let source = queue.poll(log.config()).await;
    assert!(queue.dead_bodies().await.is_empty());
    source.stop(Duration::from_secs(5)).await;
    let log = log.text();
    let event: Value = serde_json::from_str(log.strip_prefix("got ").unwrap()).unwrap();
    let record = event["Records"][0].as_object().unwrap();
    let text = |name: &str| record[name].as_str().unwrap();
    assert_eq!(text("body"), "hello");
    assert_eq!(text("md5OfBody"), "5d41402abc4b2a76b9719d911017c592");
    assert_eq!(text("eventSource"), "aws:sqs");
    assert_eq!(text("eventSourceARN"), "arn:aws:sqs:us-east-1:000000000000:q");
    assert_eq!(text("awsRegion"), "us-east-1");
    assert_eq!(text("messageId").len(), 36);
    assert!(!text("receiptHandle").is_empty());
    assert_eq!(record["messageAttributes"], json!({}));
    assert_eq!(record["attributes"]["ApproximateReceiveCount"], "1");
    assert!(record["attributes"]["SentTimestamp"].as_str().unwrap().parse::<u64>().is_ok());
}

#[tokio::test]
async fn only_what_failed_is_delivered_again_and_dies() {
    let queue = queue("1", 2).await;
    queue.send(&["good", "fail", "also good"]).await;
    let log = Log::new();
    let source = queue.poll(log.config()).await;
    assert_eq!(queue.dead_bodies().await, ["fail"]);
    assert_eq!([log.deliveries("good"), log.deliveries("fail"), log.deliveries("also good")], [1, 2, 1]);
    source.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_failure_without_a_name_fails_the_batch() {
    let queue = queue("1", 1).await;
    queue.send(&["good", "fail without a name"]).await;
    let log = Log::new();
    let source = queue.poll(log.config()).await;
    assert_eq!(queue.dead_bodies().await, ["fail without a name", "good"]);
    assert_eq!([log.deliveries("good"), log.deliveries("fail without a name")], [1, 1]);
    source.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_function_error_a_crash_and_a_timeout_fail_the_batch() {
    for order in ["panic", "exit", "hang"] {
        let queue = queue("3", 1).await;
        queue.send(&["good", order]).await;
        let log = Log::new();
        let source = queue.poll(FunctionConfig { timeout: Duration::from_secs(1), ..log.config() }).await;
        let mut expected = vec!["good".to_owned(), order.to_owned()];
        expected.sort();
        assert_eq!(queue.dead_bodies().await, expected);
        assert_eq!([log.deliveries("good"), log.deliveries(order)], [1, 1]);
        source.stop(Duration::from_secs(5)).await;
    }
}

#[tokio::test]
async fn a_stop_leaves_unfinished_messages_in_the_queue() {
    let queue = queue("600", 1).await;
    queue.send(&["hang"]).await;
    let log = Log::new();
    let source = queue.poll(log.config()).await;
    while log.deliveries("hang") == 0 {
        tokio::task::yield_now().await;
    }
    source.stop(Duration::ZERO).await;
    assert_eq!(queue.left(&queue.url).await, 1);
}

/// A function that can be invoked over HTTP.
struct Published {
    api: Arc<RuntimeApi>,
    _function: Arc<Function>,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

impl Published {
    async fn new(config: FunctionConfig) -> Self {
        let api = Arc::new(RuntimeApi::start(0).await.unwrap());
        let function = Arc::new(Function::new(Arc::clone(&api), config));
        api.publish("sample", &function);
        Self { api, _function: function }
    }

    async fn post(&self, function: &str, kind: Option<&str>, payload: String) -> Answer {
        let address = self.api.url().strip_prefix("http://").unwrap().to_owned();
        let stream = TcpStream::connect(&address).await.unwrap();
        let (mut client, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        let request = Request::post(format!("/2015-03-31/functions/{function}/invocations")).header("host", address);
        let request = kind.into_iter().fold(request, |request, kind| request.header("x-amz-invocation-type", kind));
        let asked = async move {
            let (parts, body) =
                client.send_request(request.body(Full::new(Bytes::from(payload))).unwrap()).await.unwrap().into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
            Answer { status: parts.status, headers: parts.headers, body }
        };
        // The connection ends when the client is dropped.
        let (answer, _) = futures::future::join(asked, connection).await;
        answer
    }

    async fn invoke(&self, event: Value) -> Answer {
        self.post("sample", None, event.to_string()).await
    }
}

#[tokio::test]
async fn an_invocation_is_answered_as_lambda_answers() {
    let published = Published::new(config()).await;
    for kind in [None, Some("RequestResponse")] {
        let answer = published.post("sample", kind, json!({ "number": 1 }).to_string()).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.body["event"], json!({ "number": 1 }));
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("x-amz-executed-version"), Some("$LATEST"));
        assert_eq!(answer.header("x-amzn-requestid"), answer.body["context"]["request_id"].as_str());
        assert_eq!(answer.header("x-amz-function-error"), None);
    }
}

#[tokio::test]
async fn the_function_s_error_is_the_answer_to_its_invocation() {
    let published = Published::new(FunctionConfig { timeout: Duration::from_secs(2), ..config() }).await;
    for (order, error_type, message) in [
        ("return an error", None, "as ordered"),
        ("panic", None, "as ordered"),
        ("exit", Some("Runtime.ExitError"), "the process ended with exit status: 3"),
        ("hang", Some("Sandbox.Timedout"), "timed out after 2000 ms"),
    ] {
        let answer = published.invoke(json!({ "do": order })).await;
        assert_eq!((answer.status, answer.header("x-amz-function-error")), (StatusCode::OK, Some("Unhandled")));
        assert!(answer.header("x-amzn-requestid").is_some());
        let said = answer.body["errorMessage"].as_str().unwrap();
        assert!(said.contains(message), "{order}: {said}");
        let said = answer.body["errorType"].as_str().unwrap();
        assert!(error_type.map_or(!said.is_empty(), |error_type| said == error_type), "{order}: {said}");
    }
}

#[tokio::test]
async fn what_cannot_be_invoked_is_refused() {
    let log = Log::new();
    let published = Published::new(log.config()).await;
    let nothing =
        Published { api: Arc::new(RuntimeApi::start(0).await.unwrap()), _function: published._function.clone() };
    let event = || "{}".to_owned();
    for (answer, status, error_type, message) in [
        (published.post("other", None, event()).await, 404, "ResourceNotFoundException", "function:other"),
        (nothing.post("sample", None, event()).await, 404, "ResourceNotFoundException", "function:sample"),
        (published.post("sample", None, "{".to_owned()).await, 400, "InvalidRequestContentException", "EOF"),
        (published.post("sample", Some("Later"), event()).await, 400, "InvalidParameterValueException", "Later"),
    ] {
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("x-amzn-errortype"), Some(error_type));
        assert_eq!(answer.body["errorType"], error_type);
        let said = answer.body["errorMessage"].as_str().unwrap();
        assert!(said.contains(message), "{said}");
        assert_eq!(answer.body["Message"], said);
    }
    assert_eq!(log.text(), "");
}

#[tokio::test]
async fn an_event_runs_behind_the_answer_and_a_dry_run_not_at_all() {
    let log = Log::new();
    let published = Published::new(log.config()).await;
    let answer = published.post("sample", Some("DryRun"), json!({ "number": 1 }).to_string()).await;
    assert_eq!((answer.status, answer.body), (StatusCode::NO_CONTENT, Value::Null));
    let answer = published.post("sample", Some("Event"), json!({ "number": 2 }).to_string()).await;
    assert_eq!((answer.status, answer.body), (StatusCode::ACCEPTED, Value::Null));
    while log.text().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(log.text(), "got {\"number\":2}\n");
}

#[tokio::test]
async fn an_invocation_does_not_end_with_its_caller_but_with_the_server() {
    let log = Log::new();
    let timeout = Duration::from_secs(2);
    let published = Published::new(FunctionConfig { timeout, ..log.config() }).await;
    let began = Instant::now();
    let hanging = || log.text().matches("hang").count();
    tokio::select! {
        _ = published.invoke(json!({ "do": "hang" })) => panic!("it hangs"),
        () = async { while hanging() < 1 { tokio::task::yield_now().await; } } => {}
    }
    // There is one environment: the next invocation waits for the end of the first.
    assert_eq!(published.invoke(json!({})).await.status, StatusCode::OK);
    assert!(began.elapsed() >= timeout);

    let stop = async {
        while hanging() < 2 {
            tokio::task::yield_now().await;
        }
        published.api.stop().await;
    };
    let (answer, ()) = futures::future::join(published.invoke(json!({ "do": "hang" })), stop).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
}
