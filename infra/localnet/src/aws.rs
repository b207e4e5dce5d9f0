//! How the AWS SDK reaches the stand-ins: a region, and keys that nobody checks.

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_dynamodb::config::{Credentials, SharedCredentialsProvider};

/// The region every stand-in claims to be in.
pub const REGION: &str = "us-east-1";
/// The account every stand-in claims to belong to.
pub const ACCOUNT: &str = "000000000000";
/// The access key id and the secret key handed out: the emulators check neither.
pub const ACCESS_KEY: &str = "local";

/// An SQS client for `endpoint`, e.g. `http://127.0.0.1:9324`.
pub fn sqs_client(endpoint: &str) -> aws_sdk_sqs::Client {
    aws_sdk_sqs::Client::new(&reaching(endpoint))
}

/// A Secrets Manager client for `endpoint`, e.g. `http://127.0.0.1:4585`.
pub fn secrets_client(endpoint: &str) -> aws_sdk_secretsmanager::Client {
    aws_sdk_secretsmanager::Client::new(&reaching(endpoint))
}

/// A DynamoDB client for `endpoint`, e.g. `http://127.0.0.1:8000`.
pub fn dynamodb_client(endpoint: &str) -> aws_sdk_dynamodb::Client {
    aws_sdk_dynamodb::Client::new(&reaching(endpoint))
}

fn reaching(endpoint: &str) -> SdkConfig {
    let credentials = Credentials::new(ACCESS_KEY, ACCESS_KEY, None, None, "localnet");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static(REGION))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .endpoint_url(endpoint)
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build()
}
