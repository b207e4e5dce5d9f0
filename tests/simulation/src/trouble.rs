//! A run's troubled part: everything happens at once, and anything may fail.

use crate::{
    chain::Sent,
    dice::Dice,
    faults::Rates,
    junk,
    people::Deed,
    queue::Queue,
    shared::State,
    world::{QUEUES, STEPS_MAX, World},
};

/// How many invocations run at once.
const CONCURRENCY: usize = 4;
pub(crate) const MINUTE_MS: u64 = 60_000;
/// Longer than usher keeps a key package.
const MONTH_MS: u64 = 31 * 24 * 60 * MINUTE_MS;
/// So many operators run `usher init` at once at most.
const INITS_MAX: usize = 3;
/// What happens on the chain before there is an account.
const ACTS_EARLY_MAX: u64 = 3;
/// The calls at which an outage of the node can begin.
const OUTAGES: [&str; 4] = ["send_group_messages", "send_welcomes", "key_packages", "identity_updates"];

/// What may happen next.
#[derive(Debug, Clone, Copy)]
enum Next {
    Turn,
    Delivery,
    /// On the chain.
    Act,
    Deed,
    /// A member commits while usher's commit is on its way.
    Rival,
    Hostility,
    Wait,
    Outage,
    Revocation,
    Init,
    Month,
    Redrive,
    Junk,
}

/// How much is still to happen.
struct Left {
    acts: u64,
    /// Acts that wait for an account, lest all be over when there is one.
    acts_later: u64,
    deeds: u64,
    rivals: u64,
    outages: u64,
    revocations: u64,
    months: u64,
    redrives: u64,
    junk: u64,
    /// Turns after the last act and deed: what is under way then is cut short by what follows.
    tail: u64,
}

impl Left {
    fn draw(dice: &mut Dice) -> Self {
        let acts = dice.between(8, 32);
        Self {
            acts,
            acts_later: acts - ACTS_EARLY_MAX,
            deeds: dice.between(15, 90),
            rivals: dice.between(0, 10),
            outages: u64::from(dice.happens(250)),
            revocations: u64::from(dice.happens(200)),
            months: u64::from(dice.happens(250)),
            redrives: dice.between(0, 3),
            junk: dice.between(0, 5),
            tail: dice.between(50, 1500),
        }
    }

    fn is_over(&self) -> bool {
        self.acts == 0 && self.deeds == 0
    }
}

impl World {
    /// The run's troubled part.
    pub(crate) async fn trouble(&mut self) {
        let mut left = {
            let mut state = self.shared.lock();
            state.rates = Rates::draw(&mut state.dice);
            state.outage = state.dice.happens(400).then(|| OUTAGES[state.dice.below(OUTAGES.len())]);
            Left::draw(&mut state.dice)
        };
        // Most people had XMTP before they bought a ticket.
        let people = self.people.all.lock().expect("no panic").len();
        for who in 0..people {
            if self.shared.lock().dice.happens(700) {
                self.deed(who, 0, None, Deed::Register);
            }
        }
        let mut steps = 0;
        while !left.is_over() || left.tail > 0 {
            steps += 1;
            if steps > STEPS_MAX {
                return self.shared.broken("the troubled part does not end");
            }
            if left.is_over() {
                left.tail -= 1;
            }
            self.schedule();
            let (ready, deliverable) = (self.ready(), self.deliverable());
            let next = self.next(&left, &ready, &deliverable);
            match next {
                Next::Turn => {
                    let at = self.shared.lock().dice.below(ready.len());
                    self.turn(ready[at]);
                }
                Next::Delivery => {
                    let at = self.shared.lock().dice.below(deliverable.len());
                    self.deliver(deliverable[at]);
                }
                other => self.happen(other, &mut left).await,
            }
            if self.shared.lock().broken.is_some() {
                return;
            }
        }
    }

    /// The queues that have a message for somebody.
    fn deliverable(&self) -> Vec<&'static str> {
        let now_ms = self.now_ms();
        let queues = self.queues.lock().expect("no panic");
        QUEUES.into_iter().filter(|name| queues[name].has_visible(now_ms)).collect()
    }

    fn next(&self, left: &Left, ready: &[usize], deliverable: &[&'static str]) -> Next {
        let if_any = |count: u64, weight: u32| if count > 0 { weight } else { 0 };
        let when = |condition: bool, weight: u32| if condition { weight } else { 0 };
        let has_account = self.watch.has_account();
        let may_act = has_account || left.acts > left.acts_later;
        let init = match self.inits() {
            _ if has_account => 0,
            _ if self.now_ms() < self.next_init_ms => 0,
            0 => 8,
            1..INITS_MAX => 1,
            _ => 0,
        };
        let wait = match (ready.is_empty(), left.is_over()) {
            (false, _) => 0,
            (true, false) => 2,
            (true, true) => 20,
        };
        let was_dealt_with = self.queues.lock().expect("no panic").values().any(Queue::has_left);
        let mut state = self.shared.lock();
        let pass_ms = state.dice.between(0, 30);
        state.now_ms += pass_ms;
        let commits = !state.pending.is_empty();
        state.dice.weighted(&[
            (when(!ready.is_empty(), 60), Next::Turn),
            (when(self.invocations() < CONCURRENCY && !deliverable.is_empty(), 12), Next::Delivery),
            (when(may_act, if_any(left.acts, 2)), Next::Act),
            (when(has_account, if_any(left.deeds, 2)), Next::Deed),
            (when(commits, if_any(left.rivals, 4)), Next::Rival),
            (1, Next::Hostility),
            (wait, Next::Wait),
            (if_any(left.outages, 1), Next::Outage),
            (if_any(left.revocations, 1), Next::Revocation),
            (init, Next::Init),
            (when(has_account, if_any(left.months, 1)), Next::Month),
            (when(was_dealt_with, if_any(left.redrives, 1)), Next::Redrive),
            (if_any(left.junk, 1), Next::Junk),
        ])
    }

    async fn happen(&mut self, next: Next, left: &mut Left) {
        match next {
            Next::Turn | Next::Delivery => {}
            Next::Act => {
                left.acts -= 1;
                let happened = self.chain.advance(&mut self.shared.lock().dice);
                self.shared.trace(|| format!("chain: {}", happened.what));
                match happened.depth {
                    0 => {}
                    1..=3 => self.shared.count("reorganisations"),
                    _ => self.shared.count("deep reorganisations"),
                }
                self.send(happened.sent);
            }
            Next::Deed => {
                left.deeds -= 1;
                self.stir().await;
            }
            Next::Rival => {
                left.rivals -= 1;
                self.compete().await;
            }
            Next::Hostility => {
                let (intrudes, offends) = {
                    let dice = &mut self.shared.lock().dice;
                    (dice.happens(100), dice.happens(250))
                };
                if intrudes {
                    self.intrude().await;
                }
                if offends {
                    self.offend();
                }
            }
            Next::Wait => self.wait(),
            Next::Outage => {
                left.outages -= 1;
                let for_ms = self.up_to_an_hour(|state, until_ms| state.node_down_until_ms = until_ms);
                self.shared.trace(|| format!("the node is down for {} s", for_ms / 1000));
            }
            Next::Revocation => {
                left.revocations -= 1;
                let for_ms = self.up_to_an_hour(|state, until_ms| state.grant_revoked_until_ms = until_ms);
                self.shared.trace(|| format!("the key's grant is revoked for {} s", for_ms / 1000));
            }
            Next::Init => {
                let races = self.shared.lock().dice.happens(500);
                let pause_ms = if races { 0 } else { self.shared.lock().dice.between(1_000, MINUTE_MS) };
                self.next_init_ms = self.now_ms() + pause_ms;
                self.begin_init();
            }
            Next::Month => {
                left.months -= 1;
                self.shared.lock().now_ms += MONTH_MS;
                self.shared.count("months that pass");
                self.shared.trace(|| "a month passes".to_owned());
            }
            Next::Redrive => {
                left.redrives -= 1;
                self.redrive();
                self.send_again();
            }
            Next::Junk => {
                left.junk -= 1;
                self.send_junk();
            }
        }
    }

    /// Has something last from now on for a minute to an hour; returns how long.
    fn up_to_an_hour(&self, set: impl FnOnce(&mut State, u64)) -> u64 {
        let mut state = self.shared.lock();
        let for_ms = state.dice.between(MINUTE_MS, 60 * MINUTE_MS);
        let until_ms = state.now_ms + for_ms;
        set(&mut state, until_ms);
        for_ms
    }

    /// Something that nobody can use comes to a queue.
    fn send_junk(&mut self) {
        self.junk += 1;
        let (junk, queue) = {
            let dice = &mut self.shared.lock().dice;
            let event = &self.chain.mints[dice.below(self.chain.mints.len())].event;
            let junk = junk::draw(self.junk, event, self.newest_logs.as_deref(), dice);
            (junk, QUEUES[dice.below(3)])
        };
        self.shared.trace(|| format!("to queue {queue}: {}", junk.what));
        self.send(vec![Sent { queue, body: junk.body.clone() }]);
        self.taken.expect_junk(junk);
    }

    /// Dead letters come back.
    pub(crate) fn redrive(&mut self) {
        let now_ms = self.now_ms();
        let mut queues = self.queues.lock().expect("no panic");
        for (name, queue) in queues.iter_mut() {
            for _ in 0..queue.redrive(now_ms) {
                self.shared.count("dead letters that come back");
                self.shared.trace(|| format!("a dead letter comes back to queue {name}"));
            }
        }
    }

    /// Messages that were dealt with come once more.
    fn send_again(&mut self) {
        let now_ms = self.now_ms();
        let mut queues = self.queues.lock().expect("no panic");
        for (name, queue) in queues.iter_mut() {
            let count = queue.send_again(now_ms, &mut self.shared.lock().dice);
            for _ in 0..count {
                self.shared.count("messages sent again after they were deleted");
                self.shared.trace(|| format!("a deleted message comes back to queue {name}"));
            }
        }
    }

    fn send(&mut self, sent: Vec<Sent>) {
        for message in sent {
            if message.body.contains("\"logs\"") {
                self.newest_logs = Some(message.body.clone());
            }
            let (copies, delays) = {
                let mut state = self.shared.lock();
                let copies = if state.dice.happens(150) { 2 } else { 1 };
                let now_ms = state.now_ms;
                let mut delay = || if state.dice.happens(100) { state.dice.between(0, 600_000) } else { 0 };
                (copies, [now_ms + delay(), now_ms + delay()])
            };
            if copies > 1 {
                self.shared.count("messages that come twice");
            }
            let mut queues = self.queues.lock().expect("no panic");
            let queue = queues.get_mut(message.queue).expect("one of the queues");
            delays.into_iter().take(copies).for_each(|at_ms| queue.send(message.body.clone(), at_ms));
        }
    }

    /// Lets the time pass to the next moment at which something can happen, if nothing can now.
    pub(crate) fn wait(&mut self) {
        let frozen = self.tasks.iter().filter_map(|task| task.invocation.as_ref()).map(|it| it.frozen_until_ms);
        let queues = self.queues.lock().expect("no panic");
        let visible = queues.values().filter_map(Queue::next_visible_ms);
        let mut state = self.shared.lock();
        let next = frozen.chain(visible).chain([
            self.next_schedule_ms,
            self.next_init_ms,
            state.node_down_until_ms,
            state.grant_revoked_until_ms,
        ]);
        let next = next.filter(|at_ms| *at_ms > state.now_ms).min();
        if let Some(next) = next {
            state.now_ms = next;
        }
    }

    pub(crate) fn schedule(&mut self) {
        if self.now_ms() >= self.next_schedule_ms {
            self.next_schedule_ms = self.now_ms() + MINUTE_MS;
            self.begin("sweep", Vec::new(), true);
        }
    }
}
