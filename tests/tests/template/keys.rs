//! The two KMS keys: who may use them, and for what. Who may administer them may not use them.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    document::{Template, each, texts},
    template,
};

/// What uses a key's secret, of what KMS offers.
const CRYPTOGRAPHY: [&str; 12] = [
    "kms:Encrypt",
    "kms:Decrypt",
    "kms:ReEncryptFrom",
    "kms:ReEncryptTo",
    "kms:GenerateDataKey",
    "kms:GenerateDataKeyPair",
    "kms:GenerateDataKeyWithoutPlaintext",
    "kms:GenerateDataKeyPairWithoutPlaintext",
    "kms:Sign",
    "kms:Verify",
    "kms:GenerateMac",
    "kms:DeriveSharedSecret",
];

fn statements<'a>(template: &'a Template, key: &str) -> &'a [Value] {
    each(&template.properties(key)["KeyPolicy"]["Statement"])
}

/// The name of a role, by its logical name or by its ARN in a key policy.
fn role_name<'a>(template: &'a Template, logical: &str) -> &'a str {
    template.properties(logical)["RoleName"].as_str().expect("key policies name the role")
}

fn role_arn(name: &str) -> String {
    format!("arn:${{AWS::Partition}}:iam::${{AWS::AccountId}}:role/{name}")
}

fn function_roles(template: &Template) -> BTreeSet<String> {
    let functions = template.functions();
    let roles = functions.values().map(|function| function["Role"].as_str().unwrap().trim_end_matches(".Arn"));
    roles.map(|role| role_arn(role_name(template, role))).collect()
}

/// Who may do `action` with `key`: the statement's principals, and its conditions but for theirs.
fn users(template: &Template, key: &str, action: &str) -> (BTreeSet<String>, Value) {
    let grants = |statement: &&Value| texts(&statement["Action"]).contains(&action);
    let granting: Vec<_> = statements(template, key).iter().filter(grants).collect();
    let [statement] = granting[..] else { panic!("one statement grants {action} of {key}: {granting:?}") };
    let mut conditions = statement["Condition"].clone();
    let users = conditions["ArnEquals"]["aws:PrincipalArn"].take();
    conditions.as_object_mut().unwrap().remove("ArnEquals");
    (texts(&users).into_iter().map(str::to_owned).collect(), conditions)
}

#[test]
fn the_data_key_is_used_by_the_functions_and_the_operator_in_a_context() {
    let template = template(&[]);
    let mut expected = function_roles(&template);
    assert_eq!(expected.len(), 4);
    expected.insert(role_arn(role_name(&template, "OperatorRole")));
    let in_context = json!({
        "Null": { "kms:EncryptionContext:deployment": "false", "kms:EncryptionContext:owner": "false" },
        "ForAllValues:StringEquals": { "kms:EncryptionContextKeys": ["deployment", "owner"] },
    });
    for action in ["kms:GenerateDataKey", "kms:Decrypt"] {
        assert_eq!(users(&template, "DataKey", action), (expected.clone(), in_context.clone()), "{action}");
    }
    assert_eq!(template.properties("DataKey")["EnableKeyRotation"], true);
}

#[test]
fn the_wallet_signs_for_the_operator_alone() {
    let template = template(&[]);
    let operator = BTreeSet::from([role_arn(role_name(&template, "OperatorRole"))]);
    let signature = json!({
        "StringEquals": { "kms:MessageType": "DIGEST", "kms:SigningAlgorithm": "ECDSA_SHA_256" },
    });
    assert_eq!(users(&template, "WalletKey", "kms:Sign"), (operator.clone(), signature));
    assert_eq!(users(&template, "WalletKey", "kms:GetPublicKey"), (operator, json!({})));
    let key = template.properties("WalletKey");
    assert_eq!((&key["KeySpec"], &key["KeyUsage"]), (&json!("ECC_SECG_P256K1"), &json!("SIGN_VERIFY")));
}

#[test]
fn who_administers_a_key_does_not_use_it() {
    let template = template(&[]);
    for key in ["DataKey", "WalletKey"] {
        for statement in statements(&template, key) {
            let actions = texts(&statement["Action"]);
            assert_eq!(statement["Effect"], "Allow");
            // The account, so that no role's end locks everybody out; IAM says who.
            let account = json!({ "AWS": "arn:${AWS::Partition}:iam::${AWS::AccountId}:root" });
            assert_eq!(statement["Principal"], account, "{key}");
            assert!(actions.iter().all(|action| !action.contains('*')), "{key}: {actions:?}");
            assert!(!actions.contains(&"kms:CreateGrant"), "{key}: a grant is use by a back door");
            let uses = actions.iter().any(|action| CRYPTOGRAPHY.contains(action) || *action == "kms:GetPublicKey");
            let for_roles = !statement["Condition"]["ArnEquals"]["aws:PrincipalArn"].is_null();
            assert_eq!(uses, for_roles, "{key}: {actions:?}");
        }
        let administered =
            statements(&template, key).iter().any(|it| texts(&it["Action"]).contains(&"kms:PutKeyPolicy"));
        assert!(administered, "{key} could not be mended");
    }
}

/// In any policy of the template, and in the functions' environment.
#[test]
fn functions_do_not_know_the_wallet() {
    let template = template(&[]);
    for (function, properties) in template.functions() {
        let role = properties["Role"].as_str().unwrap().trim_end_matches(".Arn");
        let mut known = vec![properties["Environment"].clone(), template.properties(role).clone()];
        known.extend(
            texts(&template.properties(role)["ManagedPolicyArns"])
                .into_iter()
                .map(|policy| template.properties(policy).clone()),
        );
        let known = json!(known).to_string();
        assert!(!known.contains("WalletKey") && !known.contains("kms:Sign"), "{function}: {known}");
    }
}
