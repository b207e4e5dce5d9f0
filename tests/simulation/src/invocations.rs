//! Invocations and people's deeds under way: how they begin, get their turns, and end.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use aws_lambda_events::event::sqs::{SqsEvent, SqsMessage};
use usher_lambda::{Invocation, Usher, handle_queue, sweep};
use usher_xmtp::{GroupId, identity::LocalWallet};

use crate::{
    faults::Fault,
    panics,
    people::Deed,
    process::{Fate, Process},
    queue::Message,
    world::{USHER_KEY, World},
};

/// As in `template.yaml`.
const TIMEOUT_MS: u64 = 30_000;
/// A message is healthy: it fails nothing by itself, so that only so many attempts at it fail.
const MISHAPS_MAX: u32 = 2;
/// How long an operator waits for `usher init`.
const INIT_TIMEOUT_MS: u64 = 600_000;

/// A process with its warm memory.
pub(crate) struct Instance {
    pub(crate) usher: Usher,
    pub(crate) process: Arc<Process>,
}

type Work = Pin<Box<dyn Future<Output = Option<Vec<String>>>>>;

/// Something under way.
pub(crate) struct Task {
    name: String,
    work: Work,
    /// None for what members do.
    pub(crate) invocation: Option<Running>,
}

pub(crate) struct Running {
    function: &'static str,
    instance: Arc<Instance>,
    messages: Vec<(u64, String)>,
    deadline_ms: u64,
    pub(crate) frozen_until_ms: u64,
    /// How many turns it still has although its time is over.
    grace: u32,
}

impl World {
    /// Begins an invocation of a function on a queue's messages, or on the schedule.
    pub(crate) fn begin(&mut self, function: &'static str, batch: Vec<(u64, Message)>, scheduled: bool) {
        let warm = {
            let idle = self.idle.entry(function).or_default();
            let cold = self.shared.lock().dice.happens(200);
            if cold { None } else { idle.pop() }
        };
        let instance = warm.unwrap_or_else(|| self.instance(function));
        self.next_invocation += 1;
        let id = format!("{function}#{}", self.next_invocation);
        let mortal = !self.spares || batch.iter().all(|(_, message)| message.mishaps < MISHAPS_MAX);
        instance.process.begin(&id, mortal);
        self.watch.begins(&id);
        let deadline_ms = self.now_ms() + TIMEOUT_MS;
        let invocation = Invocation { id: id.clone(), deadline_ms };
        self.shared.trace(|| {
            let messages: Vec<_> = batch.iter().map(|(id, message)| format!("{id} ({message})")).collect();
            format!("{} begins {id} with messages {messages:?}", instance.process.name)
        });
        self.shared.count("invocations");
        let messages: Vec<_> = batch.iter().map(|(id, message)| (*id, message.body.clone())).collect();
        messages.iter().for_each(|(_, body)| self.taken.delivered(body));
        let mut event = SqsEvent::default();
        for (id, message) in batch {
            let mut record = SqsMessage::default();
            record.message_id = Some(id.to_string());
            record.body = Some(message.body);
            event.records.push(record);
        }
        let at_work = instance.clone();
        let work: Work = Box::pin(async move {
            let usher = &at_work.usher;
            if scheduled {
                return sweep::handle_schedule(usher, &invocation).await.ok().map(|_| Vec::new());
            }
            if function == "sweep" {
                sweep::handle_nudges(usher, event, &invocation).await;
                return Some(Vec::new());
            }
            let response = handle_queue(usher, event, &invocation).await.ok()?;
            Some(response.batch_item_failures.into_iter().map(|failure| failure.item_identifier).collect())
        });
        let running = Running { function, instance, messages, deadline_ms, frozen_until_ms: 0, grace: u32::MAX };
        self.tasks.push(Task { name: id, work, invocation: Some(running) });
    }

    /// An operator runs `usher init`.
    pub(crate) fn begin_init(&mut self) {
        let instance = self.instance("init");
        self.next_invocation += 1;
        let id = format!("init#{}", self.next_invocation);
        instance.process.begin(&id, true);
        self.watch.begins(&id);
        self.shared.trace(|| format!("{} begins {id}", instance.process.name));
        let (at_work, inbox) = (instance.clone(), self.usher.clone());
        let work: Work = Box::pin(async move {
            let wallet = LocalWallet::from_key(&USHER_KEY).expect("a key");
            let shared = &at_work.process.shared;
            match at_work.usher.init(&wallet).await {
                Ok(account) if account.inbox == inbox.as_str() => shared.count("inits that end well"),
                Ok(account) => shared.broken(format!("the account is of inbox {}", account.inbox)),
                Err(error) => {
                    shared.count("inits that fail");
                    shared.trace(|| format!("{}: {error:?}", at_work.process.name));
                }
            }
            Some(Vec::new())
        });
        let deadline_ms = self.now_ms() + INIT_TIMEOUT_MS;
        let (messages, function) = (Vec::new(), "init");
        let running = Running { function, instance, messages, deadline_ms, frozen_until_ms: 0, grace: u32::MAX };
        self.tasks.push(Task { name: id, work, invocation: Some(running) });
    }

    /// How many run `usher init` now.
    pub(crate) fn inits(&self) -> usize {
        self.tasks.iter().filter(|task| task.invocation.as_ref().is_some_and(|it| it.function == "init")).count()
    }

    pub(crate) fn invocations(&self) -> usize {
        self.tasks.iter().filter(|task| task.invocation.is_some()).count()
    }

    pub(crate) fn deliver(&mut self, queue: &'static str) {
        let now_ms = self.now_ms();
        let (batch, dead) = {
            let mut queues = self.queues.lock().expect("no panic");
            let queue = queues.get_mut(queue).expect("one of the queues");
            let before = queue.dead.len();
            (queue.receive(now_ms, &mut self.shared.lock().dice), queue.dead.len() - before)
        };
        if dead > 0 && self.spares {
            self.shared.broken(format!("{dead} healthy messages of {queue} became dead letters"));
        }
        if !batch.is_empty() {
            self.begin(if queue == "nudge" { "sweep" } else { queue }, batch, false);
        }
    }

    /// Starts something that a person does.
    pub(crate) fn deed(&mut self, who: usize, device: usize, room: Option<GroupId>, deed: Deed) {
        self.shared.trace(|| format!("person {who}.{device} {deed:?} in {room:?}"));
        let people = self.people.clone();
        let work = Box::pin(async move {
            people.act(who, device, room, deed).await;
            None
        });
        self.tasks.push(Task { name: format!("person {who}.{device}"), work, invocation: None });
    }

    /// The tasks that can go on.
    pub(crate) fn ready(&self) -> Vec<usize> {
        let now_ms = self.now_ms();
        let down = now_ms < self.shared.lock().node_down_until_ms;
        let ready = |task: &Task| match &task.invocation {
            Some(running) => running.frozen_until_ms <= now_ms,
            None => !down,
        };
        (0..self.tasks.len()).filter(|index| ready(&self.tasks[*index])).collect()
    }

    /// Gives one task one turn.
    pub(crate) fn turn(&mut self, index: usize) {
        let now_ms = self.now_ms();
        let task = &mut self.tasks[index];
        if let Some(running) = &mut task.invocation
            && now_ms > running.deadline_ms
        {
            // A process that slept through its deadline has a few calls left before it is killed.
            if running.grace == u32::MAX {
                running.grace = u32::try_from(self.shared.lock().dice.below(12)).expect("small");
            }
            if running.grace == 0 {
                return self.kill(index, "killed at its deadline");
            }
            running.grace -= 1;
        }
        let mut context = Context::from_waker(Waker::noop());
        let polled = task.work.as_mut().poll(&mut context);
        for panic in panics::take() {
            self.shared.broken(format!("{}: {panic}", task.name));
        }
        match polled {
            Poll::Ready(failures) => self.done(index, failures),
            Poll::Pending => {
                let Some(running) = &mut self.tasks[index].invocation else { return };
                match running.instance.process.take_fate() {
                    Fate::Lives => {}
                    Fate::Frozen { until_ms } => running.frozen_until_ms = until_ms,
                    Fate::Dies => self.kill(index, "dies"),
                }
            }
        }
    }

    fn kill(&mut self, index: usize, how: &'static str) {
        let task = self.tasks.swap_remove(index);
        self.shared.trace(|| format!("{} {how}", task.name));
        self.shared.count(how);
        let Some(running) = task.invocation else { return };
        self.watch.ends(&task.name);
        let mut queues = self.queues.lock().expect("no panic");
        if let Some(queue) = queues.get_mut(source(running.function)) {
            running.messages.iter().for_each(|(id, _)| queue.fail(*id));
        }
    }

    fn done(&mut self, index: usize, failures: Option<Vec<String>>) {
        let task = self.tasks.swap_remove(index);
        let Some(running) = task.invocation else { return };
        self.shared.trace(|| format!("{} ends, failed: {failures:?}", task.name));
        self.watch.ends(&task.name);
        let failed = failures.is_none();
        let failures = failures.unwrap_or_default();
        let mut queues = self.queues.lock().expect("no panic");
        // An operator's command has no queue.
        let Some(queue) = queues.get_mut(source(running.function)) else { return };
        for (id, body) in &running.messages {
            if failed || failures.contains(&id.to_string()) {
                self.shared.count("messages that failed");
                queue.fail(*id);
            } else {
                self.taken.dealt_with(&self.shared, body);
                let spared = self.spares && queue.mishaps(*id) >= MISHAPS_MAX;
                if !spared && self.shared.strikes(Fault::Stale, "delete_message") {
                    queue.fail(*id);
                } else {
                    queue.delete(*id);
                }
            }
        }
        drop(queues);
        self.idle.entry(running.function).or_default().push(running.instance);
    }
}

fn source(function: &'static str) -> &'static str {
    if function == "sweep" { "nudge" } else { function }
}
