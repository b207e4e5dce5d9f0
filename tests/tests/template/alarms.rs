//! Alarms: one for each thing that a person must act on, about what `template.yaml` makes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::{
    document::{Template, each, texts},
    read, template,
};

/// A nested template, with what `template.yaml` passes to it.
fn nested(name: &str) -> Template {
    let outer = template(&[("AlarmEmail", "ops@example.org")]);
    let stack = outer.properties(name);
    let passed = stack["Parameters"].as_object().expect("parameters are passed");
    let passed: Vec<_> = passed.iter().map(|(name, value)| (name.as_str(), value.as_str().unwrap())).collect();
    let nested = Template::read(&read(stack["TemplateURL"].as_str().unwrap()), &passed);
    let names: BTreeSet<_> = passed.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names, nested.parameters(), "{name}: every parameter is passed");
    nested
}

fn alarms(of: &Template) -> BTreeMap<&str, &Value> {
    of.all("AWS::CloudWatch::Alarm").map(|(name, alarm)| (name, &alarm["Properties"])).collect()
}

/// The alarms on a metric, each with its only dimension's value.
fn on_metric<'a>(alarms: &BTreeMap<&str, &'a Value>, namespace: &str, metric: &str) -> Vec<(&'a str, &'a Value)> {
    let about = alarms.values().filter(|alarm| alarm["Namespace"] == namespace && alarm["MetricName"] == metric);
    about
        .map(|alarm| {
            let [dimension] = each(&alarm["Dimensions"]) else { panic!("one dimension: {alarm}") };
            (dimension["Value"].as_str().unwrap(), *alarm)
        })
        .collect()
}

/// It goes off at the least above `threshold`.
fn goes_off_above(alarm: &Value, threshold: u64) {
    assert_eq!(alarm["ComparisonOperator"], "GreaterThanThreshold", "{alarm}");
    assert_eq!(alarm["Threshold"], threshold, "{alarm}");
    assert!(["Maximum", "Sum"].contains(&alarm["Statistic"].as_str().unwrap()), "an average hides it: {alarm}");
}

#[test]
fn each_queue_is_watched_for_dead_letters_and_for_age() {
    let (outer, inner) = (template(&[]), nested("Alarms"));
    let alarms = alarms(&inner);
    let queues = |is_dead: bool| {
        let named = outer
            .all("AWS::SQS::Queue")
            .filter(move |(_, queue)| queue["Properties"]["RedrivePolicy"].is_null() == is_dead);
        named.map(|(name, _)| format!("{name}.QueueName")).collect::<BTreeSet<_>>()
    };
    let watched = |metric: &str| on_metric(&alarms, "AWS/SQS", metric);
    let names =
        |watched: &[(&str, &Value)]| watched.iter().map(|(queue, _)| (*queue).to_owned()).collect::<BTreeSet<_>>();
    // What a redrive policy moves is in no count of sent messages.
    let dead = watched("ApproximateNumberOfMessagesVisible");
    assert_eq!(names(&dead), queues(true));
    dead.iter().for_each(|(_, alarm)| goes_off_above(alarm, 0));
    let old = watched("ApproximateAgeOfOldestMessage");
    assert_eq!(names(&old), queues(false));
    for (queue, alarm) in old {
        // Not before a message has been tried twice, and long before it is dropped.
        let threshold = alarm["Threshold"].as_u64().unwrap();
        assert!((360..24 * 3600).contains(&threshold), "{queue}: {threshold} s");
        assert_eq!(alarm["Statistic"], "Maximum", "{queue}");
    }
}

#[test]
fn what_only_usher_sees_is_watched() {
    let inner = nested("Alarms");
    let alarms = alarms(&inner);
    let code = ["metrics.rs", "sweep.rs"].map(|file| read(&format!("shared/lambda/src/{file}"))).concat();
    for (metric, threshold) in
        [("OldestDueMs", None), ("OldestOutboxMs", None), ("ParkedCount", Some(0)), ("RoomsLost", Some(0))]
    {
        let [(stage, alarm)] = on_metric(&alarms, "usher", metric)[..] else { panic!("{metric} has one alarm") };
        assert_eq!(stage, "prod");
        match threshold {
            Some(threshold) => goes_off_above(alarm, threshold),
            // Unfinished work is tried every minute.
            None => assert!((2 * 60_000..3_600_000).contains(&alarm["Threshold"].as_u64().unwrap()), "{alarm}"),
        }
        assert!(code.contains(&format!("\"{metric}\"")), "nothing tells {metric}");
    }
}

#[test]
fn a_key_that_is_disabled_is_told() {
    let inner = nested("Alarms");
    let [(name, rule)] = inner.all("AWS::Events::Rule").collect::<Vec<_>>()[..] else { panic!("one rule") };
    let detail = &rule["Properties"]["EventPattern"]["detail"];
    for act in ["DisableKey", "ScheduleKeyDeletion"] {
        assert!(texts(&detail["eventName"]).contains(&act), "{act}");
    }
    assert_eq!(texts(&detail["resources"]["ARN"]), ["DataKey.Arn", "WalletKey.Arn"]);
    assert_eq!(rule["Properties"]["Targets"][0]["Arn"], "Topic");
    let alarms = alarms(&inner);
    let [(watched, alarm)] = on_metric(&alarms, "AWS/Events", "TriggeredRules")[..] else { panic!("one alarm") };
    assert_eq!(watched, name);
    goes_off_above(alarm, 0);
}

#[test]
fn every_alarm_reaches_a_person_who_can_read_what_to_do() {
    let inner = nested("Alarms");
    let operations = read("docs/operations.md");
    // Kin share a section.
    let headings = operations.lines().filter_map(|line| line.strip_prefix("### "));
    let sections: BTreeSet<_> = headings.flat_map(|heading| heading.split(", ")).collect();
    let alarms = alarms(&inner);
    assert!(alarms.len() >= 13);
    for (name, alarm) in alarms {
        assert_eq!(alarm["AlarmActions"], json!(["Topic"]), "{name}");
        let says_what_silence_means =
            ["breaching", "notBreaching"].contains(&alarm["TreatMissingData"].as_str().unwrap_or_default());
        assert!(says_what_silence_means, "{name}");
        assert!(sections.contains(name), "docs/operations.md has no section {name}");
        let link = format!("docs/operations.md#{}", name.to_lowercase());
        assert!(alarm["AlarmDescription"].as_str().is_some_and(|text| text.contains(&link)), "{name}");
    }
    let subscription = json!({ "TopicArn": "Topic", "Protocol": "email", "Endpoint": "ops@example.org" });
    assert_eq!(inner.properties("Subscription"), &subscription);
}

#[test]
fn the_dashboard_is_passed_what_it_shows() {
    let dashboard = nested("Dashboard");
    assert_eq!(dashboard.all("AWS::CloudWatch::Dashboard").count(), 1);
    let body = dashboard.properties("Dashboard")["DashboardBody"].as_str().unwrap().to_owned();
    let body: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error} in {body}"));
    assert!(!each(&body["widgets"]).is_empty());
}

/// Nobody is forgotten: a metric of one function or one queue is shown of all of their kind.
#[test]
fn the_dashboard_shows_all_functions_and_all_queues_alike() {
    let (outer, dashboard) = (template(&[]), nested("Dashboard"));
    let functions: BTreeSet<_> = outer.functions().into_keys().map(str::to_owned).collect();
    let (live, dead): (Vec<_>, Vec<_>) =
        outer.all("AWS::SQS::Queue").partition(|(_, queue)| !queue["Properties"]["RedrivePolicy"].is_null());
    let names = |queues: Vec<(&str, &Value)>| queues.iter().map(|(name, _)| format!("{name}.QueueName")).collect();
    let kinds: [BTreeSet<String>; 3] = [functions, names(live), names(dead)];
    let body: Value =
        serde_json::from_str(dashboard.properties("Dashboard")["DashboardBody"].as_str().unwrap()).unwrap();
    let mut shown: BTreeMap<(String, usize), BTreeSet<String>> = BTreeMap::new();
    for metric in each(&body["widgets"]).iter().flat_map(|widget| each(&widget["properties"]["metrics"])) {
        let words: Vec<_> = each(metric).iter().filter_map(Value::as_str).collect();
        for (kind, name) in words.iter().filter_map(|word| {
            kinds.iter().position(|names| names.contains(*word)).map(|kind| (kind, (*word).to_owned()))
        }) {
            shown.entry((format!("{} {}", words[0], words[1]), kind)).or_default().insert(name);
        }
    }
    assert!(shown.keys().any(|(metric, _)| metric == "usher RequestUnits") && shown.len() >= 6, "{shown:?}");
    for ((metric, kind), names) in shown {
        assert_eq!(names, kinds[kind], "{metric}");
    }
}
