//! SQS's errors as its AWS JSON protocol tells them.

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::queues::Refused;

/// A request that is refused. SDKs know it by the code of the older query protocol, which a header carries.
#[derive(Debug)]
pub(super) struct Refusal {
    /// The error's shape in the model, e.g. `QueueDoesNotExist`.
    shape: &'static str,
    /// Its code in the query protocol, e.g. `AWS.SimpleQueueService.NonExistentQueue`.
    code: &'static str,
    message: String,
}

impl Refusal {
    pub(super) fn new(shape: &'static str, code: &'static str, message: impl Into<String>) -> Self {
        Self { shape, code, message: message.into() }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new("InvalidParameterValueException", "InvalidParameterValue", message)
    }

    pub(super) fn code(&self) -> &'static str {
        self.code
    }

    pub(super) fn is_senders_fault(&self) -> bool {
        self.code != "InternalError"
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        let (shape, code) = match &refused {
            Refused::NoSuchQueue => ("QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue"),
            Refused::NoSuchDeadLetterQueue(_) => return Self::invalid(refused.to_string()),
            Refused::OtherAttributes => ("QueueNameExists", "QueueAlreadyExists"),
            Refused::NoSuchReceipt => ("ReceiptHandleIsInvalid", "ReceiptHandleIsInvalid"),
            Refused::Database(_) => ("InternalError", "InternalError"),
        };
        Self::new(shape, code, refused.to_string())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, fault) = if self.is_senders_fault() {
            (StatusCode::BAD_REQUEST, "Sender")
        } else {
            (StatusCode::INTERNAL_SERVER_ERROR, "Receiver")
        };
        let headers = [
            ("content-type", "application/x-amz-json-1.0".to_owned()),
            ("x-amzn-query-error", format!("{};{fault}", self.code)),
        ];
        let body = json!({ "__type": format!("com.amazonaws.sqs#{}", self.shape), "message": self.message });
        (status, headers, body.to_string()).into_response()
    }
}
