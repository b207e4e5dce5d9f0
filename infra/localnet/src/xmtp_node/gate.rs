//! What every call passes before its work starts: counting, injected faults, the rate limiter, the cutover.

use std::{
    collections::HashMap,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tonic::{Code, Request, Response, Status};
use usher_xmtp::ports::Clock;

use super::{
    method::Method,
    rate_limit::{Limiter, exceeded},
};

pub(super) const PUBLISHING_ENDED: &str =
    "publishing to XMTP V3 is no longer available. Please upgrade your client to XMTP D14N.";
pub(super) const STREAMING_ENDED: &str =
    "XMTP V3 streaming is no longer available. Please upgrade your client to XMTP D14N.";

/// What goes wrong with the calls of one RPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// UNIMPLEMENTED; nothing is done.
    Unimplemented,
    /// UNAVAILABLE; nothing is done.
    Unavailable,
    /// RESOURCE_EXHAUSTED with the rate limiter's text; nothing is done.
    ResourceExhausted,
    /// The call does its work and its answer is lost: the caller sees this code instead of OK.
    AnswerLost(Code),
}

#[derive(Default)]
pub(super) struct Switches {
    /// Per RPC, the fault and how many more calls it hits (`None`: all).
    pub(super) faults: HashMap<Method, (Fault, Option<u32>)>,
    pub(super) publishing_disabled: bool,
    pub(super) cut_over: bool,
    pub(super) limiter: Option<Limiter>,
}

impl Switches {
    fn next_fault(&mut self, method: Method) -> Option<Fault> {
        let (fault, calls_left) = self.faults.get_mut(&method)?;
        let fault = *fault;
        if let Some(left) = calls_left {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.faults.remove(&method);
            }
        }
        Some(fault)
    }
}

pub(super) struct Gate {
    clock: Arc<dyn Clock>,
    calls: [AtomicU64; Method::ALL.len()],
    switches: Mutex<Switches>,
}

impl Gate {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, calls: Default::default(), switches: Mutex::default() }
    }

    pub(super) fn calls(&self, method: Method) -> u64 {
        self.calls[method as usize].load(Ordering::Relaxed)
    }

    pub(super) fn switches(&self) -> MutexGuard<'_, Switches> {
        self.switches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` on the request, unless a switch or the limiter stands in its way. `cost` is in limiter tokens.
    pub(super) async fn serve<Q, A, F>(
        &self,
        method: Method,
        cost: usize,
        request: Request<Q>,
        work: impl FnOnce(Q) -> F,
    ) -> Result<Response<A>, Status>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        self.calls[method as usize].fetch_add(1, Ordering::Relaxed);
        let lost = self.admit(method, u32::try_from(cost).unwrap_or(u32::MAX), &client_ip(&request))?;
        let answer = work(request.into_inner()).await?;
        match lost {
            Some(code) => Err(Status::new(code, format!("injected: {method} was carried out, its answer is lost"))),
            None => Ok(answer),
        }
    }

    /// The code to answer with although the work is done, if its answer is to be lost.
    fn admit(&self, method: Method, cost: u32, ip: &str) -> Result<Option<Code>, Status> {
        let mut switches = self.switches();
        let lost = match switches.next_fault(method) {
            Some(Fault::Unimplemented) => {
                return Err(Status::unimplemented(format!("method {method} not implemented")));
            }
            Some(Fault::Unavailable) => return Err(Status::unavailable(format!("injected: {method} is unavailable"))),
            Some(Fault::ResourceExhausted) => return Err(exceeded(method, cost, ip)),
            Some(Fault::AnswerLost(code)) => Some(code),
            None => None,
        };
        if let Some(limiter) = &mut switches.limiter {
            limiter.spend(method, cost, ip, self.clock.now_ns())?;
        }
        if method.publishes() && (switches.publishing_disabled || switches.cut_over) {
            return Err(Status::unavailable(PUBLISHING_ENDED));
        }
        if method.streams() && switches.cut_over {
            return Err(Status::unavailable(STREAMING_ENDED));
        }
        Ok(lost)
    }
}

/// The address a call is accounted to: the first entry of `x-forwarded-for`, else the peer.
fn client_ip<Q>(request: &Request<Q>) -> String {
    let forwarded = request.metadata().get("x-forwarded-for").and_then(|value| value.to_str().ok());
    match (forwarded, request.remote_addr()) {
        (Some(list), _) => list.split(',').next().unwrap_or_default().trim().to_owned(),
        (None, Some(peer)) => peer.ip().to_string(),
        (None, None) => "ip_unknown".to_owned(),
    }
}
