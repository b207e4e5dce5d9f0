//! docs/deploy.md is true as far as it can be seen without an AWS account: each command that needs none runs against
//! `usher dev`, in the page's order; those that do exist as they are written; and what it costs adds up.

use std::{collections::BTreeMap, fs, path::Path};

use usher_tests::{dev_stack::DevStack, world::AnyError};

const CHECKOUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn page(name: &str) -> Result<String, AnyError> {
    Ok(fs::read_to_string(Path::new(CHECKOUT).join(name))?)
}

/// The lines of the page's blocks that begin like this.
fn blocks(page: &str, fence: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut language = None;
    for line in page.lines() {
        match (line.strip_prefix("```"), language) {
            (Some(_), Some(_)) => language = None,
            (Some(begun), None) => {
                language = Some(begun);
                blocks.extend((begun == fence).then(String::new));
            }
            (None, Some(begun)) if begun == fence => {
                let block = blocks.last_mut().expect("one was begun");
                block.push_str(line);
                block.push('\n');
            }
            (None, _) => {}
        }
    }
    blocks
}

/// The commands in them.
fn commands(page: &str, fence: &str) -> Vec<String> {
    let blocks = blocks(page, fence).concat();
    blocks.lines().filter_map(|line| line.strip_prefix("$ ")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guide_is_followed_on_this_machine() -> Result<(), AnyError> {
    let page = page("docs/deploy.md")?;
    let commands = commands(&page, "console");
    assert!(commands.len() >= 11, "{commands:?}");
    for step in ["init --config", "recover --begin"] {
        assert!(commands.iter().any(|command| command.contains(step)), "{step} is done here, too");
    }
    let stack = DevStack::start().await?;
    for command in &commands {
        let mut words = command.split_whitespace();
        assert_eq!(words.next(), Some("usher"), "{command}");
        let output = stack.command().args(words).current_dir(CHECKOUT).output().await?;
        let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{command}: {told}");
        if command.contains("events/logs/01-mint.json") {
            assert!(told.contains("sent 7: 1 to mint, 6 to purchase"), "{told}");
            // The page's next words are about what has come of it.
            stack.until_handled().await?;
        }
    }
    let report = stack.rooms().await?;
    let event = "31337:0x5fbdb2315678afecb367f032d93f642f64180aa3:0".parse()?;
    assert!(report.event(&event).is_some(), "the guide ends with a room");
    Ok(())
}

/// The document to begin with can be used, and does not turn pacing off.
#[tokio::test]
async fn the_configuration_to_copy_is_good() -> Result<(), AnyError> {
    let blocks = blocks(&page("docs/deploy.md")?, "json");
    let [document] = &blocks[..] else { return Err(format!("one document: {blocks:?}").into()) };
    for document in [document, &page("docs/config.sample.json")?] {
        assert!(!document.contains("rate_limits"), "whoever copies this turns pacing off");
        let file = tempfile::NamedTempFile::new()?;
        fs::write(file.path(), document)?;
        let usher = usher_tests::dev_stack::binaries()?.join("usher");
        let checked = tokio::process::Command::new(usher).args(["config", "check"]).arg(file.path()).output().await?;
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    }
    Ok(())
}

/// What needs an account is at least an existing command with existing options.
#[tokio::test]
async fn commands_for_aws_exist() -> Result<(), AnyError> {
    let page = page("docs/deploy.md")?;
    let usher = usher_tests::dev_stack::binaries()?.join("usher");
    let commands = commands(&page, "console aws");
    let ours: Vec<_> = commands.iter().filter(|command| command.starts_with("usher ")).collect();
    assert!(ours.len() >= 2, "{commands:?}");
    for command in ours {
        // With --help nothing is done, and what does not exist is still refused.
        let words = command.split_whitespace().skip(1).chain(["--help"]);
        let output = tokio::process::Command::new(&usher).args(words).output().await?;
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// The same for those of AWS's own command line, by the models that it is made from.
#[tokio::test]
async fn commands_of_aws_exist() -> Result<(), AnyError> {
    let python = Path::new(CHECKOUT).join(".venv/bin/python");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/aws_commands.py");
    let pages = ["docs/deploy.md", "docs/operations.md"].map(|page| Path::new(CHECKOUT).join(page));
    let output = tokio::process::Command::new(python).arg(script).args(pages).output().await?;
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    let looked_at: usize = told.trim().parse()?;
    assert!(looked_at >= 25, "{looked_at} commands were found");
    Ok(())
}

/// Rows of a page's tables: what stands first, and the number that stands last.
fn rows(page: &str) -> Vec<(Vec<String>, f64)> {
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let rows = page.lines().filter(|line| line.starts_with('|')).map(cells);
    rows.filter_map(|cells| Some((cells.clone(), cells.last()?.parse().ok()?))).collect()
}

/// DynamoDB's price for a unit, on demand in `us-east-1`, in dollars.
const READ: f64 = 0.125e-6;
const WRITE: f64 = 0.625e-6;
/// A purchase is a transfer and an announcement.
const FACTS_OF_A_TICKET: f64 = 2.0;
const SWEEPS_OF_A_MONTH: f64 = 30.0 * 24.0 * 60.0;

/// The page's prices follow from what was measured, and from each other.
#[test]
fn costs_add_up() -> Result<(), AnyError> {
    let measured: BTreeMap<String, f64> =
        rows(&page("docs/performance.md")?).into_iter().map(|(cells, number)| (cells[0].clone(), number)).collect();
    let figure = |name: &str| measured.get(name).copied().ok_or(format!("docs/performance.md has no row {name:?}"));
    let guide = page("docs/deploy.md")?;
    let (_, costs) = guide.split_once("\n## What it costs\n").ok_or("there is a chapter on costs")?;
    let (costs, _) = costs.split_once("\n## ").ok_or("another chapter follows")?;
    let priced = rows(costs);
    let price = |start: &str| {
        let row = priced.iter().find(|(cells, _)| cells.get(1).is_some_and(|what| what.contains(start)));
        row.map(|(_, price)| *price).ok_or(format!("no row about {start:?}: {priced:?}"))
    };
    let is_about = |told: f64, computed: f64| (told - computed).abs() <= 0.005;

    let units = [figure("read units per fact")?, figure("write units per fact")?];
    let of_tickets = 1000.0 * FACTS_OF_A_TICKET * (units[0] * READ + units[1] * WRITE);
    assert!(costs.contains(&format!("{:.1} read and {:.1} write units per fact", units[0], units[1])), "{units:?}");
    assert!(is_about(price("units per fact")?, of_tickets), "1000 tickets cost {of_tickets}");
    let of_sweep = figure("read units per idle sweep")?;
    assert!(costs.contains(&format!("43 200 sweeps of {of_sweep} read units")), "{of_sweep}");
    assert!(is_about(price("sweeps of")?, SWEEPS_OF_A_MONTH * of_sweep * READ), "{of_sweep}");
    let alarms = page("infra/alarms.yaml")?.matches("Type: AWS::CloudWatch::Alarm\n").count();
    assert!(costs.contains(&format!("{alarms} alarms")), "{alarms} alarms");
    #[expect(clippy::cast_precision_loss, reason = "a few")]
    let of_alarms = alarms as f64 * 0.10;
    assert!(is_about(price("alarms")?, of_alarms), "{alarms} alarms");

    let together = priced.iter().position(|(cells, _)| cells[0] == "together").ok_or("there is a sum")?;
    let sum: f64 = priced[..together].iter().map(|(_, price)| price).sum();
    assert!(together >= 8 && is_about(priced[together].1, sum), "together {sum:.2}");
    Ok(())
}
