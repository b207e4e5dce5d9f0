//! A run's quiet part: faults have stopped, and within a bounded number of sweeps everything is as it should be.

use usher_xmtp::GroupId;

use crate::{
    faults::Rates,
    oracle::{self, Wrong},
    people::Deed,
    queue::Queue,
    world::{QUEUES, STEPS_MAX, World},
};

/// Once faults stop, so many sweeps put everything right.
const SWEEPS_MAX: usize = 120;
/// The account's lease ends within a minute.
const INITS_MAX: usize = 3;
const INIT_PAUSE_MS: u64 = 61_000;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

impl World {
    /// Faults stop: within a bounded number of sweeps everything is as it should be.
    pub(crate) async fn settle(&mut self) {
        {
            let mut state = self.shared.lock();
            state.rates = Rates::default();
            state.node_down_until_ms = 0;
            state.outage = None;
            state.grant_revoked_until_ms = 0;
        }
        self.shared.trace(|| "faults stop".to_owned());
        // A frozen process is thawed, or was killed long ago.
        for index in (0..self.tasks.len()).rev() {
            if let Some(running) = &mut self.tasks[index].invocation {
                running.frozen_until_ms = 0;
            }
        }
        self.drain();
        self.finish_init();
        let devices: Vec<(usize, usize, bool)> = {
            let all = self.people.all.lock().expect("no panic");
            let devices = all.iter().enumerate().flat_map(|(who, somebody)| {
                let each = somebody.devices.iter().enumerate().filter(|(_, it)| !it.revoked);
                each.map(move |(device, it)| (who, device, it.spoiled))
            });
            devices.collect()
        };
        for (who, device, spoiled) in &devices {
            // Some stay out of reach, which must keep nobody else in or out.
            let mends = *spoiled && self.shared.lock().dice.happens(500);
            self.deed(*who, *device, None, if mends { Deed::MendKeyPackage } else { Deed::Sync });
        }
        let mut wrong = self.sweep().await;
        if wrong.soon.is_empty() && !wrong.within_a_day.is_empty() && self.shared.lock().broken.is_none() {
            self.shared.count("waits for a day");
            self.shared.lock().now_ms += DAY_MS;
            wrong = self.sweep().await;
        }
        if !self.spares && self.dead_letters() > 0 && self.shared.lock().broken.is_none() {
            // What processes died over came for the last time just now: the next sweep puts it back.
            wrong = self.sweep().await;
        }
        if self.shared.lock().broken.is_some() {
            return;
        }
        if !wrong.is_empty() {
            let all = [wrong.soon, wrong.within_a_day].concat().join("; ");
            return self.shared.broken(format!("not settled after {SWEEPS_MAX} sweeps: {all}"));
        }
        if self.dead_letters() > 0 {
            self.shared.broken(format!("{} healthy messages are dead letters", self.dead_letters()));
        }
        self.taken.check(&self.shared, &self.database.items);
        oracle::read(self).await;
        self.watch.scan_all();
    }

    /// If every `usher init` died, the operator repeats it, until nobody holds the account any more.
    fn finish_init(&mut self) {
        for _ in 0..INITS_MAX {
            if self.watch.has_account() {
                return;
            }
            self.begin_init();
            self.drain();
            self.shared.lock().now_ms += INIT_PAUSE_MS;
        }
        if !self.watch.has_account() {
            self.shared.broken(format!("the account is not made after {INITS_MAX} repetitions"));
        }
    }

    /// Sweeps until nothing is wrong, at most [`SWEEPS_MAX`] times; returns what is wrong then.
    async fn sweep(&mut self) -> Wrong {
        let mut wrong = Wrong::default();
        for sweep in 0..SWEEPS_MAX {
            {
                let mut state = self.shared.lock();
                state.now_ms = state.now_ms.max(self.next_schedule_ms);
            }
            // Among what processes died over are messages whose last receipt was that.
            self.redrive();
            self.schedule();
            self.drain();
            if self.shared.lock().broken.is_some() {
                break;
            }
            if !self.queues_are_empty() {
                continue;
            }
            wrong = oracle::wrong(self).await;
            if wrong.is_empty() {
                self.shared.trace(|| format!("settled after {sweep} sweeps"));
                break;
            }
        }
        wrong
    }

    /// Runs until nothing is under way and no message is visible.
    fn drain(&mut self) {
        for _ in 0..STEPS_MAX {
            let ready = self.ready();
            if let Some(first) = ready.first() {
                // One after the other is enough now, but not always in the same order.
                let at = self.shared.lock().dice.below(ready.len());
                let _ = first;
                self.turn(ready[at]);
                continue;
            }
            let now_ms = self.now_ms();
            let deliverable = {
                let queues = self.queues.lock().expect("no panic");
                QUEUES.into_iter().find(|name| queues[name].has_visible(now_ms))
            };
            match deliverable {
                Some(queue) => self.deliver(queue),
                None if self.tasks.is_empty() => return,
                None => self.wait(),
            }
            if self.shared.lock().broken.is_some() {
                return;
            }
        }
        self.shared.broken("the quiet part does not end");
    }

    /// Does something with a device and everything that follows from it.
    pub(crate) fn now(&mut self, who: usize, device: usize, room: Option<GroupId>, deed: Deed) {
        self.deed(who, device, room, deed);
        self.drain();
    }

    fn dead_letters(&self) -> usize {
        self.queues.lock().expect("no panic").values().map(|queue| queue.dead.len()).sum()
    }

    fn queues_are_empty(&self) -> bool {
        self.queues.lock().expect("no panic").values().all(Queue::is_empty)
    }
}
