//! docs/operations.md, infra/alarms.yaml and infra/dashboard.yaml say the same as the code.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use serde_json::Value;
use usher_tests::{
    dev_stack::DevStack,
    haus::{Chain, Event},
    node_sdk::Wallet,
    world::AnyError,
};

fn checkout(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(checkout(path)).expect(path)
}

/// The resources of a template of this type: their names and what they say.
fn resources(template: &str, kind: &str) -> Vec<(String, String)> {
    let (_, resources) = template.split_once("\nResources:\n").expect("there are resources");
    let mut found: Vec<(String, String)> = Vec::new();
    for line in resources.lines().take_while(|line| !line.starts_with("Outputs:")) {
        let name = line.strip_prefix("  ").and_then(|line| line.strip_suffix(':'));
        match (name.filter(|name| name.chars().all(char::is_alphanumeric)), found.last_mut()) {
            (Some(name), _) => found.push((name.to_owned(), String::new())),
            (None, Some((_, body))) => body.push_str(&format!("{line}\n")),
            (None, None) => {}
        }
    }
    found.retain(|(_, body)| body.lines().any(|line| line.trim() == format!("Type: {kind}")));
    found
}

/// The sections on alarms: the alarms of each heading, and its text.
fn sections(page: &str) -> Vec<(BTreeSet<String>, String)> {
    let (_, alarms) = page.split_once("\n## Alarms\n").expect("there is a chapter on alarms");
    let sections = alarms.split("\n### ").skip(1).map(|section| {
        let (heading, text) = section.split_once('\n').expect("a heading has a text");
        (heading.split(", ").map(str::to_owned).collect(), text.to_owned())
    });
    sections.collect()
}

#[test]
fn each_alarm_has_its_section_and_each_section_its_alarm() {
    let alarms = resources(&read("infra/alarms.yaml"), "AWS::CloudWatch::Alarm");
    let names: BTreeSet<_> = alarms.iter().map(|(name, _)| name.clone()).collect();
    assert!(names.len() > 15 && names.contains("KeyDisabled"), "{names:?}");
    let sections = sections(&read("docs/operations.md"));
    let described: BTreeSet<_> = sections.iter().flat_map(|(names, _)| names.clone()).collect();
    assert_eq!(described, names);
    assert_eq!(sections.iter().map(|(names, _)| names.len()).sum::<usize>(), names.len(), "one section each");
    for (names, text) in &sections {
        for part in ["**Means.**", "**Why.**", "**Mend.**"] {
            assert!(text.contains(part), "{names:?} has no {part}");
        }
    }
    for (name, alarm) in &alarms {
        for part in ["AlarmActions: [!Ref Topic]", "TreatMissingData: ", &format!("-{name}\n"), "docs/operations.md#"] {
            assert!(alarm.contains(part), "{name} has no {part}");
        }
    }
}

/// All Rust sources under a folder, in one.
fn sources(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).expect("a folder").map_while(Result::ok) {
        let path = entry.path();
        if path.is_dir() {
            text.push_str(&sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(&path).expect("UTF-8"));
        }
    }
    text
}

/// What stands between this and a quotation mark or a comma, wherever it stands.
fn following<'a>(text: &'a str, before: &str) -> BTreeSet<&'a str> {
    let names = text.split(before).skip(1).filter_map(|rest| rest.split(['"', ',', '\n', ' ']).next());
    names.filter(|name| !name.is_empty()).collect()
}

#[test]
fn alarms_and_dashboard_show_metrics_that_are_told() {
    let code = sources(&checkout("shared/lambda/src"));
    let alarms = resources(&read("infra/alarms.yaml"), "AWS::CloudWatch::Alarm");
    let ours = alarms.iter().filter(|(_, alarm)| alarm.contains("Namespace: usher\n"));
    let mut metrics: BTreeSet<_> = ours.flat_map(|(_, alarm)| following(alarm, "MetricName: ")).collect();
    assert!(metrics.contains("OldestOutboxMs"), "{metrics:?}");
    let dashboard = read("infra/dashboard.yaml");
    metrics.extend(following(&dashboard, "[\"usher\", \""));
    assert!(metrics.contains("RevokedMs"), "{metrics:?}");
    for metric in &metrics {
        assert!(code.contains(&format!("(\"{metric}\"")), "nobody tells {metric}");
        assert!(read("docs/operations.md").contains(&format!("`{metric}`")), "{metric} is not explained");
    }
}

#[test]
fn queries_ask_for_fields_and_messages_that_are_logged() {
    let code = ["shared", "functions"].map(|folder| sources(&checkout(folder))).concat();
    let page = read("docs/operations.md");
    let queries: Vec<_> = page.split("```insights\n").skip(1).filter_map(|query| query.split("```").next()).collect();
    assert!(queries.len() > 10);
    let words = "fields filter sort stats by as asc desc limit like and or in not count max sum latest times last units \
                 commits bytes level message outcome";
    let words: BTreeSet<_> = words.split(' ').collect();
    for query in queries {
        let parts: Vec<&str> = query.split('"').collect();
        // What stands in quotation marks is a value.
        for (index, part) in parts.iter().enumerate() {
            if index % 2 == 1 {
                let is_no_text = part.contains(':') || *part == "ERROR";
                assert!(is_no_text || code.contains(&format!("\"{part}\"")), "nobody says {part:?}");
                continue;
            }
            let part = part.split('/').step_by(2).collect::<Vec<_>>().join(" ");
            let names = part.split(|c: char| !(c.is_alphanumeric() || "_.@".contains(c)));
            for name in names.filter(|name| name.starts_with(char::is_alphabetic) && !words.contains(name)) {
                let known =
                    [format!("{name} ="), format!("(\"{name}\""), format!("%{name}"), format!("\n            {name},")]
                        .iter()
                        .chain([&format!(" {name}, "), &format!(" {name},\n")])
                        .any(|form| code.contains(form.as_str()));
                assert!(known, "nobody logs the field {name} of the query {query}");
            }
        }
    }
}

/// What the functions called `code` of these sources answer, and what rooms are declared lost with besides.
fn codes(sources: &str) -> BTreeSet<&str> {
    let functions = sources.split("code(").skip(1).filter_map(|rest| rest.split("\n    }\n").next());
    let mut codes: BTreeSet<_> = functions.flat_map(|function| following(function, "=> \"")).collect();
    for declared in sources.split("declare_lost(").skip(1).filter_map(|rest| rest.split(')').next()) {
        codes.extend(declared.split('"').nth(1).filter(|word| word.starts_with("room_")));
    }
    codes
}

#[test]
fn each_error_code_is_explained_and_each_explained_one_exists() {
    let sources = ["shared/doorkeeper/src", "shared/store/src"].map(|folder| sources(&checkout(folder))).concat();
    let codes = codes(&sources);
    for known in ["room_given_up", "room_ejected", "snapshot_tampered", "keys_refused", "fence_ahead", "walk"] {
        assert!(codes.contains(known), "{known} is not among {codes:?}");
    }
    let page = read("docs/operations.md");
    let (_, alarms) = page.split_once("\n## Alarms\n").expect("there is a chapter on alarms");
    for code in &codes {
        assert!(alarms.contains(&format!("`{code}`")), "docs/operations.md does not explain {code}");
    }
    let is_code = |word: &&str| ["room_", "snapshot_", "keys_"].iter().any(|start| word.starts_with(start));
    for explained in page.split('`').filter(is_code).filter(|code| !code.ends_with(['_', '…'])) {
        assert!(codes.contains(explained), "no error has the code {explained}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_tell_a_story_by_its_ids_and_in_metrics_on_lines_of_their_own() -> Result<(), AnyError> {
    let said = Arc::new(Mutex::new(Vec::<Value>::new()));
    let note = said.clone();
    let stack = DevStack::start_metered(&["--no-schedule"], "info", "story", move |line| {
        note.lock().expect("nobody panics with it").extend(serde_json::from_str::<Value>(&line).ok());
    })
    .await?;
    let (host, ana) = (stack.person(1).await?, stack.person(2).await?);
    let buyer = Wallet::numbered(2).address();
    let (mut chain, event) = (Chain::default(), Event::new(0, Wallet::numbered(1).address()));
    stack.send(&[chain.mint(&event), chain.purchase(&event, 1, buyer)]).await?;
    stack.until_seated(&event.key(), &[(&host, 1), (&ana, 1)]).await?;
    stack.send(&[chain.refund(&event, 1, buyer)]).await?;
    let room = stack.nudged_until_seated(&event.key(), &[(&host, 1)]).await?;
    let told = |work: &str, name: &str| -> Vec<f64> {
        let lines = said.lock().expect("nobody panics with it");
        let of_work = lines.iter().filter(|line| line["work"] == work && line["Stage"] == "story");
        of_work.filter_map(|line| line[name].as_f64()).collect()
    };
    let sum = |work: &str, name: &str| told(work, name).iter().sum::<f64>();
    // The invocation that the room is in step after may still be about to say so.
    let all = async || {
        let is_told = sum("converge", "Removes") >= 1.0 && sum("converge", "Adds") >= 2.0;
        Ok((is_told && !told("converge", "RevokedMs").is_empty() && sum("batch", "Facts") >= 3.0).then_some(()))
    };
    stack.until("adds and removals are told", all).await?;
    assert!(sum("converge", "Commits") >= 2.0);
    assert!(told("converge", "SnapshotBytes").iter().any(|bytes| *bytes > 1000.0));
    assert!(told("batch", "RequestUnits").iter().all(|units| *units > 0.0) && sum("batch", "RequestUnits") > 3.0);
    assert!(told("converge", "LagMs").iter().chain(&told("converge", "RevokedMs")).all(|ms| *ms < 120_000.0));
    let lines = said.lock().expect("nobody panics with it");
    let batch = lines.iter().find(|line| line["work"] == "batch").expect("there was one");
    assert!(batch["Function"].as_str().is_some_and(|name| name.starts_with("usher-")), "{batch}");
    assert_eq!(batch["_aws"]["CloudWatchMetrics"][0]["Namespace"], "usher");

    // What is done in a message's name says so, and what is done to a room names it and its event.
    let saying = |message: &str| lines.iter().filter(|line| line["message"] == message).collect::<Vec<_>>();
    let is_id = |id: &Value| id.as_str().is_some_and(|id| id.len() >= 32);
    let stored = saying("message stored");
    assert!(stored.len() >= 3 && stored.iter().all(|line| is_id(&line["message.id"])), "{stored:?}");
    let handled = saying("batch handled");
    assert!(!handled.is_empty() && handled.iter().all(|line| is_id(&line["invocation"])), "{handled:?}");
    let saved = saying("room saved");
    assert!(!saved.is_empty() && saved.iter().all(|line| line["room"] == *room), "{saved:?}");
    let key = event.key().to_string();
    let of_event =
        |line: &&Value| line["spans"].as_array().is_some_and(|it| it.iter().any(|span| span["event"] == *key));
    assert!(saved.iter().all(of_event), "{saved:?}");
    assert!(saying("converged").iter().any(of_event));
    Ok(())
}
