//! What outlives the stack: the table and the keys.

use serde_json::json;
use usher_store::table::{DUE_AT_MS, DUE_SHARD, EXPIRES_AT_S, PK, SK};

use crate::template;

const REMEMBERED: [&str; 3] = ["Table", "DataKey", "WalletKey"];

const EXISTING: [(&str, &str); 3] = [
    ("ExistingTable", "usher-restored"),
    ("ExistingDataKey", "arn:aws:kms:eu-central-1:111122223333:key/aa"),
    ("ExistingWalletKey", "arn:aws:kms:eu-central-1:111122223333:key/bb"),
];

#[test]
fn all_tables_and_keys_are_retained_and_have_generated_names() {
    let template = template(&[]);
    let kinds = ["AWS::DynamoDB::Table", "AWS::KMS::Key"];
    let mut found: Vec<_> = kinds.into_iter().flat_map(|kind| template.all(kind)).collect();
    found.sort_by_key(|(name, _)| REMEMBERED.iter().position(|known| known == name));
    assert_eq!(found.iter().map(|(name, _)| *name).collect::<Vec<_>>(), REMEMBERED);
    for (name, resource) in found {
        for policy in ["DeletionPolicy", "UpdateReplacePolicy"] {
            assert_eq!(resource[policy], "Retain", "{name}: {policy}");
        }
        assert!(resource["Properties"]["TableName"].is_null(), "a replacement could not be made beside it");
    }
}

#[test]
fn the_table_can_be_restored_and_not_deleted_by_accident() {
    let template = template(&[]);
    let table = template.properties("Table");
    assert_eq!(table["PointInTimeRecoverySpecification"], json!({ "PointInTimeRecoveryEnabled": true }));
    assert_eq!(table["DeletionProtectionEnabled"], true);
}

#[test]
fn the_table_is_what_the_store_expects() {
    let template = template(&[]);
    let table = template.properties("Table");
    let keys = |hash: &str, range: &str| json!([{ "AttributeName": hash, "KeyType": "HASH" }, { "AttributeName": range, "KeyType": "RANGE" }]);
    assert_eq!(table["KeySchema"], keys(PK, SK));
    let index = json!([{
        "IndexName": "due", "KeySchema": keys(DUE_SHARD, DUE_AT_MS), "Projection": { "ProjectionType": "KEYS_ONLY" },
    }]);
    assert_eq!(table["GlobalSecondaryIndexes"], index);
    // Which items bear it is looked at where functions have run: in `least_privilege`.
    assert_eq!(table["TimeToLiveSpecification"], json!({ "AttributeName": EXPIRES_AT_S, "Enabled": true }));
}

#[test]
fn what_exists_is_gone_on_with() {
    let template = template(&EXISTING);
    for name in REMEMBERED {
        assert!(!template.resources().contains_key(name), "{name} is not made anew");
    }
    let [(_, table), (_, data_key), (_, wallet_key)] = EXISTING;
    for function in template.functions().values() {
        assert_eq!(function["Environment"]["Variables"]["USHER_TABLE"], table);
        assert_eq!(function["Environment"]["Variables"]["USHER_DATA_KEY_ID"], data_key);
    }
    for (output, value) in [("TableName", table), ("DataKeyArn", data_key), ("WalletKeyArn", wallet_key)] {
        assert_eq!(template.output(output), value);
    }
    let granted = json!([template.properties("WorkPolicy"), template.properties("OperatorRole")]).to_string();
    for (parameter, value) in EXISTING {
        assert!(granted.contains(value), "{parameter}");
    }
    // Nothing refers to what is not made.
    let everything = json!(template.resources()).to_string();
    for name in REMEMBERED {
        assert!(!everything.contains(&format!("\"{name}.")), "{name}");
    }
}
