//! `template.yaml` and what it nests: rules that nobody may break unnoticed, and that its permissions are what an
//! end-to-end run needs, no more and no less.

#![expect(clippy::unwrap_used, reason = "a helper that panics fails its test")]

mod alarms;
mod deployment;
mod disclosure;
mod document;
mod keys;
mod least_privilege;
mod queues;
mod recorder;
mod remembered;
mod rules;

use std::{
    fs,
    path::{Path, PathBuf},
};

use document::Template;

/// A file of the checkout.
fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// `template.yaml` as deployed with all defaults but these.
fn template(parameters: &[(&str, &str)]) -> Template {
    Template::read(&read("template.yaml"), parameters)
}
