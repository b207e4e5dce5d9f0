//! Commits of ours that members refuse. Nobody says so; it shows in who goes on in the old epoch, and for how long.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use usher_doorkeeper::Converged;
use usher_localnet::person::Person;
use usher_tests::world::{AnyError, World};
use usher_xmtp::{GroupId, Lost, policy::Policies};

use crate::{
    alarms::Alarms,
    story::{
        ALICE, CREATOR, NodeClock, Outcome, Story, assert_nothing_overwritten, cold_look, dump, heir, newest, world,
    },
};

const HOUR: Duration = Duration::from_secs(60 * 60);

/// The creator's and Alice's clients have rules of their own and step over the commit that adds Bob.
#[tokio::test]
async fn a_room_whose_members_refuse_a_commit_is_lost() -> Outcome {
    let mut story = Story::new().await?;
    let alarms = Alarms::listen();
    for who in [CREATOR, ALICE] {
        story.people[who].send_text_unsynced(story.room, "we do not see Bob").await?;
    }
    let ended = cold_look(&story.world).await?;
    assert!(
        matches!(ended, Converged::Done { commits: 0, .. }),
        "who sends late may just have been offline: {ended:?}"
    );
    assert_eq!(alarms.take(), []);

    story.clock.advance(HOUR);
    for who in [CREATOR, ALICE] {
        story.people[who].send_text_unsynced(story.room, "and still do not").await?;
    }
    let world = story.world.fork().await?;
    let (before, sent) = (dump(&world), newest(&world, story.room).await?);
    let ended = cold_look(&world).await?;
    assert!(matches!(ended, Converged::Done { .. }), "{ended:?}");
    alarms.assert_lost("room_refused", "refused by two");
    let after = dump(&world);
    let lost = story.assert_succeeded(&world, "refused").await?;
    assert_nothing_overwritten(&before, &after, Some(&lost), heir(&world).await?.as_ref());
    assert_eq!(newest(&world, story.room).await?, sent);
    Ok(())
}

/// A group of the first person's with others, and a way to make time pass for the node.
struct Scene {
    _world: World,
    clock: Arc<NodeClock>,
    people: Vec<Person>,
}

const US: usize = 0;

impl Scene {
    async fn new(people: usize) -> Result<Self, AnyError> {
        let clock = Arc::new(NodeClock::default());
        let world = world(clock.clone()).await?;
        let mut all = Vec::new();
        for n in 0..people {
            all.push(world.person(n).await?);
        }
        Ok(Self { _world: world, clock, people: all })
    }

    /// A new group with these people, who all are up to date.
    async fn group(&mut self, others: &[usize]) -> Result<GroupId, AnyError> {
        let inboxes = others.iter().map(|who| self.people[*who].inbox()).collect::<Result<_, _>>()?;
        let room = self.people[US].create_group("room", Policies::admin_only(), &inboxes).await?;
        for who in others {
            self.people[*who].sync().await?;
        }
        Ok(room)
    }

    async fn late(&mut self, room: GroupId, people: &[usize]) -> Outcome {
        for who in people {
            self.people[*who].send_text_unsynced(room, "late").await?;
        }
        Ok(())
    }

    /// What we make of the log.
    async fn verdict(&mut self, room: GroupId) -> Result<Option<Lost>, AnyError> {
        self.people[US].sync().await?;
        Ok(self.people[US].group(room)?.lost().cloned())
    }
}

#[tokio::test]
async fn what_may_have_other_reasons_is_not_taken_for_a_refusal() -> Outcome {
    let mut scene = Scene::new(5).await?;

    // Each once, however late: they were offline.
    let room = scene.group(&[1, 2]).await?;
    scene.people[US].update_keys(room).await?;
    scene.late(room, &[1]).await?;
    scene.clock.advance(2 * HOUR);
    scene.late(room, &[2]).await?;
    assert_eq!(scene.verdict(room).await?, None, "once each");

    // Twice, but within the hour: a replica of the node may lag.
    let room = scene.group(&[1, 2]).await?;
    scene.people[US].update_keys(room).await?;
    scene.late(room, &[1, 2]).await?;
    scene.clock.advance(HOUR - Duration::from_secs(60));
    scene.late(room, &[1, 2]).await?;
    assert_eq!(scene.verdict(room).await?, None, "within the hour");

    // One of three: a modified client, or a broken one.
    let room = scene.group(&[1, 2, 3]).await?;
    scene.people[US].update_keys(room).await?;
    scene.late(room, &[1]).await?;
    scene.clock.advance(2 * HOUR);
    scene.late(room, &[1]).await?;
    assert_eq!(scene.verdict(room).await?, None, "one member alone");

    // Somebody has followed: then the commit is good, and the two are on their own.
    let room = scene.group(&[1, 2, 3]).await?;
    scene.people[US].update_keys(room).await?;
    scene.people[3].send_text(room, "in the new epoch").await?;
    scene.late(room, &[1, 2]).await?;
    scene.clock.advance(2 * HOUR);
    scene.late(room, &[1, 2]).await?;
    assert_eq!(scene.verdict(room).await?, None, "followed before");
    scene.people[US].update_keys(room).await?;
    scene.people[3].update_keys(room).await?;
    scene.clock.advance(2 * HOUR);
    assert_eq!(scene.verdict(room).await?, None, "followed by a commit");

    // Whom the commit removed goes on without it.
    let room = scene.group(&[1, 2, 3]).await?;
    let out = [scene.people[1].inbox()?, scene.people[2].inbox()?].into();
    scene.people[US].change_members(room, &BTreeSet::new(), &out).await?;
    scene.late(room, &[1, 2]).await?;
    scene.clock.advance(2 * HOUR);
    scene.late(room, &[1, 2]).await?;
    assert_eq!(scene.verdict(room).await?, None, "removed");
    Ok(())
}

#[tokio::test]
async fn a_refusal_is_noticed_in_these_cases_too() -> Outcome {
    let mut scene = Scene::new(5).await?;

    // A room of two: there is nobody else to ask.
    let room = scene.group(&[1]).await?;
    scene.people[US].update_keys(room).await?;
    scene.late(room, &[1]).await?;
    assert_eq!(scene.verdict(room).await?, None);
    scene.clock.advance(HOUR);
    scene.late(room, &[1]).await?;
    assert_eq!(scene.verdict(room).await?, Some(Lost::Refused), "a room of two");
    assert!(scene.people[US].send_text(room, "to nobody").await.is_err());

    // Whom the refused commit added follows it, of course.
    let room = scene.group(&[1, 2]).await?;
    let guest = scene.people[4].inbox()?;
    scene.people[US].change_members(room, &[guest].into(), &BTreeSet::new()).await?;
    scene.people[4].sync().await?;
    scene.people[4].send_text(room, "hello?").await?;
    scene.late(room, &[1, 2]).await?;
    scene.clock.advance(HOUR);
    scene.people[4].send_text(room, "anybody?").await?;
    scene.late(room, &[1, 2]).await?;
    assert_eq!(scene.verdict(room).await?, Some(Lost::Refused), "a newcomer's voice");

    // We have gone on committing meanwhile, as far as old messages still open.
    for (more, expected) in [(2, Some(Lost::Refused)), (3, None)] {
        let room = scene.group(&[1, 2]).await?;
        for _ in 0..=more {
            scene.people[US].update_keys(room).await?;
        }
        scene.late(room, &[1, 2]).await?;
        scene.clock.advance(HOUR);
        scene.late(room, &[1, 2]).await?;
        assert_eq!(scene.verdict(room).await?, expected, "{more} more commits");
    }
    Ok(())
}
