//! Who is who in XMTP: inboxes, their installations and wallets, and the signed log that says so (XIP-46).

mod association;
mod error;
mod inbox_id;
mod installation_id;
mod installation_key;
mod legacy_signature;
mod member;
mod passkey;
mod signature;
mod signature_text;
mod smart_wallet;
mod update;
mod wallet;

pub use association::AssociationState;
pub use error::{AssociationError, SignatureError};
pub use inbox_id::{InboxId, InvalidAddress, InvalidInboxId};
pub use installation_id::{InstallationId, InvalidInstallationId};
pub use installation_key::InstallationKey;
pub use member::{Member, MemberIdentifier, MemberKind};
pub use signature_text::signature_text;
pub use smart_wallet::{AccountId, NoSmartWallets, SmartWalletVerifier, VerifierError};
pub use update::{add_installation_update, add_wallet_update, create_inbox_update, revoke_update};
pub use wallet::{LocalWallet, SignerError, WalletSigner};
