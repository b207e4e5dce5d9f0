//! Each command of docs/deploy.md that needs no AWS account runs against `usher dev`, in the page's order.

use std::{fs, path::Path};

use usher_tests::{dev_stack::DevStack, world::AnyError};

const CHECKOUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The commands of the page's blocks that begin like this.
fn commands(page: &str, fence: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        match line.strip_prefix("```") {
            Some(language) => inside = !inside && language == fence,
            None if inside => commands.extend(line.strip_prefix("$ ").map(str::to_owned)),
            None => {}
        }
    }
    commands
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guide_is_followed_on_this_machine() -> Result<(), AnyError> {
    let page = fs::read_to_string(Path::new(CHECKOUT).join("docs/deploy.md"))?;
    let commands = commands(&page, "console");
    assert!(commands.len() >= 8, "{commands:?}");
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

/// What needs an account is at least an existing command with existing options.
#[tokio::test]
async fn commands_for_aws_exist() -> Result<(), AnyError> {
    let page = fs::read_to_string(Path::new(CHECKOUT).join("docs/deploy.md"))?;
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
