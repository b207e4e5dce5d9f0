//! Welcomes of a version that this client does not know.

use usher_fuzz::{cast, room::Room};
use usher_xmtp::{Identities, Welcomed, proto::mls_api::WelcomeMessage};

#[test]
fn a_full_page_of_them_is_read_once() {
    let Room { network, mut bob, .. } = Room::open();
    for _ in 0..100 {
        network.post_welcome(bob.installation().as_bytes(), WelcomeMessage { version: None });
    }
    cast::run(async {
        let mut welcomed = Welcomed::default();
        let received = bob.receive_welcomes(&network, &mut Identities::default(), &mut welcomed, |_| true).await;
        received.expect("the network answers");
        assert!(welcomed.joined.is_empty());
    });
}
