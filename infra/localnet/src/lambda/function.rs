//! A function: up to so many environments, started when needed and kept.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::{sync::Semaphore, time::Instant};
use uuid::Uuid;

use super::{
    environment::{Environment, FunctionConfig, FunctionError},
    runtime_api::RuntimeApi,
};

/// A function that can be invoked.
#[derive(Debug)]
pub struct Function {
    api: Arc<RuntimeApi>,
    config: FunctionConfig,
    free: Semaphore,
    idle: Mutex<Vec<Environment>>,
}

impl Function {
    /// A function with no process yet.
    pub fn new(api: Arc<RuntimeApi>, config: FunctionConfig) -> Self {
        Self { api, free: Semaphore::new(config.concurrency), idle: Mutex::default(), config }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Runs the function on `payload` (JSON) and returns its response (JSON). Waits while all environments work.
    ///
    /// # Errors
    /// The process cannot be started, ends or takes too long (it is replaced next time), or the function returns an
    /// error or panics (its process goes on).
    pub async fn invoke(&self, payload: Bytes) -> Result<Bytes, FunctionError> {
        self.invoke_as(Uuid::new_v4().to_string(), payload).await
    }

    /// The same, with the id that the function sees as its invocation's.
    pub(super) async fn invoke_as(&self, request_id: String, payload: Bytes) -> Result<Bytes, FunctionError> {
        let _permit = self.free.acquire().await.expect("this semaphore is never closed");
        let environment = match self.wake() {
            Some(environment) => environment,
            None => Environment::start(&self.api, &self.config).await?,
        };
        let began = Instant::now();
        let (outcome, environment) = environment.invoke(&self.config, request_id, payload).await;
        let elapsed_ms = began.elapsed().as_millis();
        match &outcome {
            Ok(_) => tracing::debug!(function = self.name(), elapsed_ms, "invoked"),
            Err(error) => tracing::warn!(function = self.name(), elapsed_ms, %error, "failed"),
        }
        if let Some(environment) = environment {
            self.idle().push(environment);
        }
        outcome
    }

    /// Kills the idle processes; a later invocation starts new ones, as after a deploy.
    pub fn recycle(&self) {
        self.idle().clear();
    }

    /// The idle process used last, as Lambda prefers; dead ones are forgotten.
    fn wake(&self) -> Option<Environment> {
        let mut idle = self.idle();
        std::iter::from_fn(|| idle.pop()).find_map(|mut environment| environment.is_alive().then_some(environment))
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Environment>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
