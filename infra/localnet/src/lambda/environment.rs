//! An execution environment: one process of a function, frozen except while it works.

use std::{
    fs::OpenOptions,
    io,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    process::{Child, Command},
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};
use uuid::Uuid;

use super::runtime_api::{Call, Invocation, Registration, RuntimeApi};
use crate::{
    aws::{ACCOUNT, REGION},
    clock::{now_ms, since_1970},
};

/// Lambda gives a process this long before it must ask for work.
const INIT_TIMEOUT: Duration = Duration::from_secs(10);

/// What makes a function.
#[derive(Debug, Clone)]
pub struct FunctionConfig {
    /// Its name.
    pub name: String,
    /// The executable. It uses `lambda_runtime` or another client of the Runtime API.
    pub binary: PathBuf,
    /// Its environment variables. Nothing else is inherited but `PATH`: no AWS profile of the developer leaks in.
    pub env: Vec<(String, String)>,
    /// How long one invocation may take.
    pub timeout: Duration,
    /// How many environments may work at once; further invocations wait.
    pub concurrency: usize,
    /// Where its output goes.
    pub logs: Logs,
}

/// Where a function's standard output and error go.
#[derive(Debug, Clone)]
pub enum Logs {
    /// To this process's standard error.
    Stderr,
    /// To the end of a file.
    File(PathBuf),
}

/// An invocation that gave no response.
#[derive(Debug, thiserror::Error)]
pub enum FunctionError {
    /// The binary cannot be run.
    #[error("{binary:?} cannot be started")]
    Start {
        /// What was to be run.
        binary: PathBuf,
        /// Why it was not.
        #[source]
        source: io::Error,
    },
    /// The process reported that it cannot start.
    #[error("{error_type} while starting: {message}")]
    Init {
        /// The type of the error, by the runtime.
        error_type: String,
        /// What the function says of it.
        message: String,
    },
    /// The process did not ask for work in time.
    #[error("not ready within {} s", INIT_TIMEOUT.as_secs())]
    InitTimeout,
    /// The function returned an error, or panicked. Its process goes on.
    #[error("{error_type}: {message}")]
    Returned {
        /// The type of the error, by the runtime.
        error_type: String,
        /// What the function says of it.
        message: String,
    },
    /// The process ended (AWS: `Runtime.ExitError`).
    #[error("the process ended with {0}")]
    Exited(ExitStatus),
    /// The process took too long and was killed (AWS: `Sandbox.Timedout`).
    #[error("timed out after {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The process asked for more work before it answered, or it cannot be signalled.
    #[error("the process broke the Runtime API's order")]
    Protocol,
}

/// One process. Dropping it kills the process.
#[derive(Debug)]
pub(super) struct Environment {
    child: Child,
    group: Group,
    calls: mpsc::UnboundedReceiver<Call>,
    waiting: Option<oneshot::Sender<Invocation>>,
    _registration: Registration,
}

/// The process group of an environment, so that what a function starts is frozen and killed with it.
#[derive(Debug)]
struct Group(Pid);

impl Group {
    fn signal(&self, signal: Signal) {
        // The only failure is that the group is gone, which the child's exit status tells.
        let _ = kill_process_group(self.0, signal);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Works on a frozen process, too.
        self.signal(Signal::KILL);
    }
}

impl Environment {
    /// Starts a process and waits until it asks for work; it is frozen then.
    pub(super) async fn start(api: &RuntimeApi, config: &FunctionConfig) -> Result<Self, FunctionError> {
        let name = format!("{}-{}", config.name, Uuid::new_v4().simple());
        let (address, calls, registration) = api.register(&name);
        let start_error = |source| FunctionError::Start { binary: config.binary.clone(), source };
        let (stdout, stderr) = config.logs.open().map_err(start_error)?;
        let child = Command::new(&config.binary)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .envs(lambda_env(&config.name, &name, address))
            .envs(config.env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            // Ctrl-C in a terminal goes to the foreground group, and a stopped group whose parent died gets SIGHUP.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(start_error)?;
        let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)).ok_or(FunctionError::Protocol)?;
        let mut environment = Self { child, group: Group(pid), calls, waiting: None, _registration: registration };
        match timeout_at(Instant::now() + INIT_TIMEOUT, environment.said()).await {
            Err(_) => Err(FunctionError::InitTimeout),
            Ok(Err(status)) => Err(FunctionError::Exited(status)),
            Ok(Ok(Call::InitError(error))) => Err(error),
            Ok(Ok(Call::Done { .. })) => Err(FunctionError::Protocol),
            Ok(Ok(Call::Next(waiting))) => {
                environment.park(waiting);
                Ok(environment)
            }
        }
    }

    /// Whether the process still runs (frozen counts).
    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Works one payload off. The environment comes back, frozen, if it can serve another.
    pub(super) async fn invoke(
        mut self,
        config: &FunctionConfig,
        request_id: String,
        payload: Bytes,
    ) -> (Result<Bytes, FunctionError>, Option<Self>) {
        let deadline = Instant::now() + config.timeout;
        let mut invocation = Some(Invocation {
            request_id: request_id.clone(),
            deadline_ms: now_ms() + i64::try_from(config.timeout.as_millis()).unwrap_or(i64::MAX / 2),
            function_arn: format!("arn:aws:lambda:{REGION}:{ACCOUNT}:function:{}", config.name),
            trace_id: trace_id(),
            payload,
        });
        if let Some(waiting) = self.waiting.take() {
            // If its connection is gone the process asks again.
            invocation = waiting.send(invocation.take().expect("made above")).err();
        }
        self.group.signal(Signal::CONT);
        let mut outcome = None;
        loop {
            let call = match timeout_at(deadline, self.said()).await {
                Err(_) => return (outcome.unwrap_or(Err(FunctionError::Timeout(config.timeout))), None),
                Ok(Err(status)) => return (outcome.unwrap_or(Err(FunctionError::Exited(status))), None),
                Ok(Ok(call)) => call,
            };
            match (call, invocation.take(), outcome.take()) {
                (Call::Next(waiting), Some(undelivered), _) => invocation = waiting.send(undelivered).err(),
                (Call::Next(waiting), None, Some(outcome)) => {
                    self.park(waiting);
                    return (outcome, Some(self));
                }
                (Call::Next(_), None, None) => return (Err(FunctionError::Protocol), None),
                (Call::InitError(error), _, earlier) => return (earlier.unwrap_or(Err(error)), None),
                (Call::Done { request_id: id, outcome: said, accepted }, undelivered, earlier) => {
                    let expected = id == request_id && undelivered.is_none() && earlier.is_none();
                    // The process may have been too impatient to hear the answer.
                    let _ = accepted.send(expected);
                    invocation = undelivered;
                    outcome = if expected { Some(said) } else { earlier };
                }
            }
        }
    }

    /// The next thing the process says, or how it ended.
    async fn said(&mut self) -> Result<Call, ExitStatus> {
        tokio::select! {
            // What it said before it ended counts.
            biased;
            Some(call) = self.calls.recv() => Ok(call),
            status = self.child.wait() => Err(status.unwrap_or_default()),
        }
    }

    fn park(&mut self, waiting: oneshot::Sender<Invocation>) {
        self.waiting = Some(waiting);
        self.group.signal(Signal::STOP);
    }
}

impl Logs {
    fn open(&self) -> io::Result<(Stdio, Stdio)> {
        match self {
            Self::Stderr => Ok((io::stderr().into(), io::stderr().into())),
            Self::File(path) => {
                let file = OpenOptions::new().create(true).append(true).open(path)?;
                Ok((file.try_clone()?.into(), file.into()))
            }
        }
    }
}

/// What Lambda sets for every function.
fn lambda_env(function: &str, environment: &str, api: String) -> [(&'static str, String); 12] {
    [
        ("AWS_LAMBDA_RUNTIME_API", api),
        ("AWS_LAMBDA_FUNCTION_NAME", function.to_owned()),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512".to_owned()),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST".to_owned()),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand".to_owned()),
        ("AWS_LAMBDA_LOG_GROUP_NAME", format!("/aws/lambda/{function}")),
        ("AWS_LAMBDA_LOG_STREAM_NAME", format!("[$LATEST]{environment}")),
        ("AWS_EXECUTION_ENV", "AWS_Lambda_rust".to_owned()),
        ("AWS_REGION", REGION.to_owned()),
        ("AWS_DEFAULT_REGION", REGION.to_owned()),
        ("_HANDLER", "bootstrap".to_owned()),
        ("TZ", ":UTC".to_owned()),
    ]
}

/// An X-Ray trace header that samples nothing.
fn trace_id() -> String {
    let random = Uuid::new_v4().simple().to_string();
    format!("Root=1-{:08x}-{};Sampled=0", since_1970().as_secs(), &random[..24])
}
