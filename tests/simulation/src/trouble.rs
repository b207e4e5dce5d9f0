//! A run's troubled part: everything happens at once, and anything may fail.

use crate::{
    faults::Rates,
    people::Deed,
    queue::Queue,
    world::{QUEUES, STEPS_MAX, World},
};

/// How many invocations run at once.
const CONCURRENCY: usize = 4;
const MINUTE_MS: u64 = 60_000;

impl World {
    /// The run's troubled part.
    pub(crate) async fn trouble(&mut self) {
        let (mut acts, mut deeds) = {
            let mut state = self.shared.lock();
            let rates = Rates::draw(&mut state.dice);
            state.rates = rates;
            (state.dice.between(6, 24), state.dice.between(10, 60))
        };
        // Most people had XMTP before they bought a ticket.
        let people = self.people.all.lock().expect("no panic").len();
        for who in 0..people {
            if self.shared.lock().dice.happens(700) {
                self.deed(who, 0, None, Deed::Register);
            }
        }
        let mut outages = u32::from(self.shared.lock().dice.happens(250));
        let mut revocations = u32::from(self.shared.lock().dice.happens(200));
        let mut steps = 0;
        // What is under way when nothing new begins any more is cut short by what follows.
        let mut tail = self.shared.lock().dice.between(50, 1500);
        while acts > 0 || deeds > 0 || tail > 0 {
            steps += 1;
            if steps > STEPS_MAX {
                return self.shared.broken("the troubled part does not end");
            }
            if acts == 0 && deeds == 0 {
                tail -= 1;
            }
            self.schedule();
            let ready = self.ready();
            let now_ms = self.now_ms();
            let deliverable: Vec<&'static str> = {
                let queues = self.queues.lock().expect("no panic");
                QUEUES.into_iter().filter(|name| queues[name].has_visible(now_ms)).collect()
            };
            let free = self.invocations() < CONCURRENCY && !deliverable.is_empty();
            let choice = {
                let mut state = self.shared.lock();
                let pass_ms = state.dice.between(0, 30);
                state.now_ms += pass_ms;
                state.dice.weighted(&[
                    (if ready.is_empty() { 0 } else { 60 }, 0),
                    (if free { 12 } else { 0 }, 1),
                    (if acts > 0 { 2 } else { 0 }, 2),
                    (if deeds > 0 { 2 } else { 0 }, 3),
                    (1, 4),
                    (
                        if !ready.is_empty() {
                            0
                        } else if acts + deeds > 0 {
                            2
                        } else {
                            20
                        },
                        5,
                    ),
                    (if outages > 0 { 1 } else { 0 }, 6),
                    (if revocations > 0 { 1 } else { 0 }, 7),
                ])
            };
            match choice {
                0 => {
                    let at = self.shared.lock().dice.below(ready.len());
                    self.turn(ready[at]);
                }
                1 => {
                    let at = self.shared.lock().dice.below(deliverable.len());
                    self.deliver(deliverable[at]);
                }
                2 => {
                    acts -= 1;
                    let happened = self.chain.advance(&mut self.shared.lock().dice);
                    self.shared.trace(|| format!("chain: {}", happened.what));
                    match happened.depth {
                        0 => {}
                        1..=3 => self.shared.count("reorganisations"),
                        _ => self.shared.count("deep reorganisations"),
                    }
                    self.send(happened.sent);
                }
                3 => {
                    deeds -= 1;
                    self.stir().await;
                }
                4 => {
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
                5 => self.wait(),
                7 => {
                    revocations -= 1;
                    let mut state = self.shared.lock();
                    let for_ms = state.dice.between(MINUTE_MS, 60 * MINUTE_MS);
                    state.grant_revoked_until_ms = state.now_ms + for_ms;
                    drop(state);
                    self.shared.trace(|| format!("the key's grant is revoked for {} s", for_ms / 1000));
                }
                _ => {
                    outages -= 1;
                    let mut state = self.shared.lock();
                    let for_ms = state.dice.between(MINUTE_MS, 60 * MINUTE_MS);
                    state.node_down_until_ms = state.now_ms + for_ms;
                    drop(state);
                    self.shared.trace(|| format!("the node is down for {} s", for_ms / 1000));
                }
            }
            if self.shared.lock().broken.is_some() {
                return;
            }
        }
    }

    fn send(&mut self, sent: Vec<crate::chain::Sent>) {
        for message in sent {
            let (copies, delays) = {
                let mut state = self.shared.lock();
                let copies = if state.dice.happens(150) { 2 } else { 1 };
                let now_ms = state.now_ms;
                let mut delay = || if state.dice.happens(100) { state.dice.between(0, 600_000) } else { 0 };
                (copies, [now_ms + delay(), now_ms + delay()])
            };
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
