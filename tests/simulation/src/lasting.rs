//! What only grows in the table, and what never goes or changes once it is there.

use usher_store::table::{Attributes as _, DUE_AT_MS, Item, Key};

/// What must hold of an item's next form.
struct Rules {
    grows: &'static [&'static str],
    stays: &'static [&'static str],
}

fn rules(key: &Key) -> Option<Rules> {
    let kind = key.pk.split('#').next().unwrap_or_default();
    let (grows, stays): (&[&str], &[&str]) = match (kind, key.sk.split('#').next().unwrap_or_default()) {
        ("account" | "room", "head") => (&["fence", "version"], &[]),
        ("account", "lease") => (&["fence"], &[]),
        ("event", "event") if key.sk == "event" => {
            (&["fence", "generation", "converged_generation", "mint_version", "marks"], &[])
        }
        ("event", "event") => (&[], &[]),
        ("event" | "ticket", "fact") => (&["retracted"], &["fact"]),
        ("kiosk", "ticket") => (&["version"], &[]),
        ("kiosk" | "events", _) => (&[], &[]),
        ("budget", _) => (&["version"], &[]),
        ("parked", _) => (&["at_ms"], &["id", "reason", "excerpt", "at_ms"]),
        ("deployment", _) => (&[], &["id"]),
        _ => return None,
    };
    Some(Rules { grows, stays })
}

/// What is wrong with an item's next form, if anything is.
pub(crate) fn broken(key: &Key, old: &Item, new: Option<&Item>) -> Option<String> {
    let rules = rules(key)?;
    let Some(new) = new else { return Some(format!("{key:?} has vanished")) };
    let shrunk = rules.grows.iter().find(|name| new.number(name) < old.number(name));
    let changed = rules.stays.iter().find(|name| new.get(**name) != old.get(**name));
    let name = shrunk.or(changed)?;
    Some(format!("{name} of {key:?} went from {:?} to {:?}", old.get(*name), new.get(*name)))
}

/// An event whose rooms are behind the ledger and that nobody would look at now.
pub(crate) fn forgotten(key: &Key, new: &Item, now_ms: u64) -> Option<String> {
    let behind = new.number("generation") > new.number("converged_generation");
    let due = new.number(DUE_AT_MS).is_some_and(|at_ms| at_ms <= now_ms);
    let forgotten = key.pk.starts_with("event#") && key.sk == "event" && behind && !due;
    forgotten.then(|| format!("{key:?} is behind the ledger and not due"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shrinks_or_vanishes_is_told() {
        let item = |numbers: &[(&str, u64)]| -> Item {
            numbers.iter().map(|(name, number)| ((*name).to_owned(), (*number).into())).collect()
        };
        let event = Key::new("event#1", "event");
        let old = item(&[("fence", 3), ("generation", 7)]);
        for fine in [item(&[("fence", 3), ("generation", 7)]), item(&[("fence", 4), ("generation", 9), ("due", 1)])] {
            assert_eq!(broken(&event, &old, Some(&fine)), None);
        }
        for bad in [item(&[("fence", 2), ("generation", 7)]), item(&[("fence", 3)])] {
            assert!(broken(&event, &old, Some(&bad)).is_some(), "{bad:?}");
        }
        for kept in [event, Key::new("room#1", "head"), Key::new("ticket#1", "fact#1"), Key::new("parked", "log#1")] {
            assert!(broken(&kept, &old, None).is_some(), "{kept:?}");
        }
        for gone in [Key::new("room#1", "chunk#1"), Key::new("standing#1", "inbox#1"), Key::new("waiting#1", "fact#1")]
        {
            assert_eq!(broken(&gone, &old, None), None);
        }
        let fact = |text: &str| Item::from([("fact".to_owned(), text.into())]);
        assert!(broken(&Key::new("event#1", "fact#1"), &fact("a"), Some(&fact("b"))).is_some());
    }

    #[test]
    fn who_is_behind_is_due() {
        let item = |numbers: &[(&str, u64)]| -> Item {
            numbers.iter().map(|(name, number)| ((*name).to_owned(), (*number).into())).collect()
        };
        let event = Key::new("event#1", "event");
        for fine in [
            item(&[("generation", 7), (DUE_AT_MS, 1000)]),
            item(&[("generation", 7), ("converged_generation", 7)]),
            item(&[("generation", 7), ("converged_generation", 7), (DUE_AT_MS, 1001)]),
            item(&[]),
        ] {
            assert_eq!(forgotten(&event, &fine, 1000), None);
        }
        for bad in
            [item(&[("generation", 1)]), item(&[("generation", 7), ("converged_generation", 6), (DUE_AT_MS, 1001)])]
        {
            assert!(forgotten(&event, &bad, 1000).is_some(), "{bad:?}");
        }
        assert_eq!(forgotten(&Key::new("event#1", "room#1"), &item(&[("generation", 1)]), 1000), None);
    }
}
