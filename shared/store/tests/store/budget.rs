//! The budget of calls to XMTP.

use usher_store::{
    Store,
    budget::{Bucket, Class, PORTION_LIFE_MS, Purpose, RateLimits, Reserved},
};

use crate::support::{NOW_MS, Seeded, TestClock, on_each};

const LIMITS: RateLimits = RateLimits {
    publish: Bucket { max_tokens: 100, per_minute: 30 },
    default: Bucket { max_tokens: 1000, per_minute: 200 },
};
const MINUTE_MS: u64 = 60_000;

#[tokio::test]
async fn the_last_fifth_is_for_removals_and_silence_alone_refills() {
    on_each(|table| async move {
        let clock = TestClock::at(NOW_MS);
        let store = Store::new(table, clock.clone(), Seeded::new(1));
        let reserve = async |purpose, needed, wanted| {
            store.reserve(&LIMITS, Class::Publish, purpose, needed, wanted).await.unwrap()
        };
        assert_eq!(reserve(Purpose::Any, 1, 50).await, Reserved::Granted(50));
        assert_eq!(reserve(Purpose::Any, 10, 50).await, Reserved::Granted(30), "what is left of the share");
        // 10 tokens need one minute of silence, and the last portion may be spent until it has run out.
        let more_at_ms = NOW_MS + PORTION_LIFE_MS + MINUTE_MS;
        assert_eq!(reserve(Purpose::Any, 10, 50).await, Reserved::Spent(more_at_ms));
        assert_eq!(reserve(Purpose::Any, 40, 40).await, Reserved::Spent(more_at_ms + MINUTE_MS));
        assert_eq!(reserve(Purpose::Removal, 1, 5).await, Reserved::Granted(5));

        clock.set(more_at_ms - 1);
        assert_eq!(reserve(Purpose::Any, 6, 6).await, Reserved::Spent(more_at_ms));
        clock.set(more_at_ms);
        assert_eq!(reserve(Purpose::Any, 1, 50).await, Reserved::Granted(25), "85 were spent, 30 came back");
        clock.set(more_at_ms + 2 * (MINUTE_MS + PORTION_LIFE_MS) - 1);
        assert_eq!(reserve(Purpose::Any, 80, 80).await, Reserved::Spent(more_at_ms + PORTION_LIFE_MS + 3 * MINUTE_MS));
        clock.set(more_at_ms + 60 * MINUTE_MS);
        assert_eq!(reserve(Purpose::Removal, 100, 500).await, Reserved::Granted(100), "full again, and not fuller");
        assert_eq!(store.reserve(&LIMITS, Class::Default, Purpose::Any, 1, 7).await.unwrap(), Reserved::Granted(7));
    })
    .await;
}

#[tokio::test]
async fn a_refusal_quiets_everybody_and_empties_the_bucket() {
    on_each(|table| async move {
        let clock = TestClock::at(NOW_MS);
        let store = |seed| Store::new(table.clone(), clock.clone(), Seeded::new(seed));
        let (one, other) = (store(1), store(2));
        assert!(other.quiet_until_ms().await.unwrap() <= NOW_MS);
        let quiet_ms = one.refused(&LIMITS, Class::Publish).await.unwrap();
        assert!((NOW_MS + MINUTE_MS..=NOW_MS + MINUTE_MS + PORTION_LIFE_MS).contains(&quiet_ms));
        assert_eq!(other.quiet_until_ms().await.unwrap(), quiet_ms);
        for class in [Class::Publish, Class::Default] {
            let reserved = other.reserve(&LIMITS, class, Purpose::Removal, 1, 1).await.unwrap();
            assert_eq!(reserved, Reserved::Quiet(quiet_ms));
        }
        clock.set(quiet_ms);
        // The node has put back one minute's worth, and the last fifth of the bucket is not for everybody.
        let reserve = async |purpose| other.reserve(&LIMITS, Class::Publish, purpose, 1, 100).await.unwrap();
        assert_eq!(reserve(Purpose::Any).await, Reserved::Granted(10));
        assert_eq!(reserve(Purpose::Removal).await, Reserved::Granted(20));
        assert!(matches!(reserve(Purpose::Removal).await, Reserved::Spent(_)));
        assert_eq!(other.reserve(&LIMITS, Class::Default, Purpose::Any, 1, 5).await.unwrap(), Reserved::Granted(5));
    })
    .await;
}

#[tokio::test]
async fn no_token_is_lent_twice() {
    on_each(|table| async move {
        let reserved = (0..16).map(|seed| {
            let store = Store::new(table.clone(), TestClock::at(NOW_MS), Seeded::new(seed));
            async move { store.reserve(&LIMITS, Class::Publish, Purpose::Any, 1, 7).await.unwrap() }
        });
        let reserved = futures::future::join_all(reserved).await;
        let granted: u64 =
            reserved.iter().map(|one| if let Reserved::Granted(tokens) = one { *tokens } else { 0 }).sum();
        assert_eq!(granted, 80, "{reserved:?}");
    })
    .await;
}
