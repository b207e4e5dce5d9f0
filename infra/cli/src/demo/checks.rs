//! What must be true at the end.

use std::{collections::BTreeSet, time::Duration};

use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use serde::Serialize;
use usher_localnet::person::Person;

use super::{
    LAST_WORDS, MALFORMED,
    cast::{Cast, Who, has_read, is_in},
    deployment::Deployment,
    witness::Invocations,
};
use crate::Failure;

#[derive(Debug, Serialize)]
struct Check {
    check: &'static str,
    passed: bool,
    detail: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Checks {
    checks: Vec<Check>,
}

impl Checks {
    /// Looks at everybody's client, at the ledger and at the node.
    pub(super) async fn look(deployment: &Deployment, cast: &mut Cast) -> Result<Self, Failure> {
        let rooms: BTreeSet<_> = cast.people().flat_map(|(_, person)| person.groups()).collect();
        let known = deployment.rooms().await?;
        let last_words = |person: &Person| has_read(person, LAST_WORDS);
        let seated = |person: &Person| person.groups().any(|room| is_in(person, room));
        let of = |wanted: &dyn Fn(Who) -> bool, wrong: &dyn Fn(&Person) -> bool| -> Vec<String> {
            cast.people()
                .filter(|(who, person)| wanted(*who) && wrong(person))
                .map(|(who, _)| format!("{who:?}"))
                .collect()
        };
        let holder = |who: Who| matches!(who, Who::Erin | Who::Extra(_));
        let gone = |who: Who| matches!(who, Who::Alice | Who::Bob | Who::Carol | Who::Dave);
        let outsider = |who: Who| who == Who::Outsider;
        let creator = |who: Who| who == Who::Creator;
        let mut overheard = Vec::new();
        for (who, person) in cast.people().filter(|(who, _)| gone(*who)) {
            if cast.overhears(person, LAST_WORDS).await? || last_words(person) {
                overheard.push(format!("{who:?}"));
            }
        }
        let parked = deployment.parked().await?;
        let deaf = |person: &Person| !seated(person) || !last_words(person);
        let checks = vec![
            Check {
                check: "one room",
                passed: rooms.len() == 1 && known == 1,
                detail: format!("{} seen by members, {known} in the ledger", rooms.len()),
            },
            nobody("holders are in and read", of(&holder, &deaf)),
            nobody("the creator is in", of(&creator, &|person| !seated(person))),
            nobody("seller, refunded, burned and reorganised are out", of(&gone, &|person| seated(person))),
            nobody("and blind to what follows, with all keys they ever had", overheard),
            nobody("the outsider was never in", of(&outsider, &|person| person.groups().next().is_some())),
            rebuilt(&deployment.invocations(), deployment.installations().await?),
            Check {
                check: "junk is kept for a person to look at",
                passed: parked == MALFORMED,
                detail: format!("{parked} parked"),
            },
        ];
        Ok(Self { checks })
    }

    pub(super) fn all_passed(&self) -> bool {
        self.checks.iter().all(|check| check.passed)
    }

    pub(super) fn json(&self) -> Result<String, Failure> {
        Ok(serde_json::to_string(self)?)
    }

    pub(super) fn table(&self, elapsed: Duration) -> String {
        let mut table = Table::new();
        table.load_preset(UTF8_FULL_CONDENSED).set_header(["check", "", "seen"]);
        for check in &self.checks {
            table.add_row([check.check, if check.passed { "passed" } else { "FAILED" }, &check.detail]);
        }
        let failed = self.checks.iter().filter(|check| !check.passed).count();
        let passed = self.checks.len() - failed;
        format!("\n{table}\n{passed} passed, {failed} failed in {:.1} s", elapsed.as_secs_f64())
    }
}

/// Whoever worked on the room had read all it knew from the table just before, and none became an installation.
fn rebuilt(Invocations { sent, opened, .. }: &Invocations, installations: usize) -> Check {
    let plural = if installations == 1 { "" } else { "s" };
    Check {
        check: "usher was rebuilt from DynamoDB",
        passed: *sent > 0 && opened == sent && installations == 1,
        detail: format!("{opened} of {sent} times, {installations} installation{plural}"),
    }
}

fn nobody(check: &'static str, wrong: Vec<String>) -> Check {
    let detail = if wrong.is_empty() { "everybody".to_owned() } else { format!("not so: {}", wrong.join(", ")) };
    Check { check, passed: wrong.is_empty(), detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usher_that_registers_again_or_works_from_memory_was_not_rebuilt() {
        let invocations = |sent, opened| Invocations { all: 9, sent, opened };
        assert!(rebuilt(&invocations(7, 7), 1).passed);
        assert!(!rebuilt(&invocations(7, 7), 2).passed);
        assert!(!rebuilt(&invocations(7, 6), 1).passed);
        assert!(!rebuilt(&invocations(0, 0), 1).passed, "nothing was seen");
    }
}
