//! [`Table`] on Amazon DynamoDB.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_sdk_dynamodb::{
    Client, Config,
    config::{
        interceptors::InterceptorContext,
        retry::{ClassifyRetry, RetryAction, RetryConfig},
    },
    error::{ProvideErrorMetadata, SdkError},
    operation::{
        create_table::CreateTableError, delete_item::DeleteItemError, put_item::PutItemError,
        transact_write_items::TransactWriteItemsError, update_item::UpdateItemError,
    },
    primitives::Blob,
    types::{
        AttributeDefinition, AttributeValue, BillingMode, CancellationReason, ConditionCheck, ConsumedCapacity, Delete,
        GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection, ProjectionType, Put, ReturnConsumedCapacity,
        ReturnValue, ReturnValuesOnConditionCheckFailure, ScalarAttributeType, TransactWriteItem, Update,
    },
};

use crate::{
    expression::Expressions,
    table::{Change, DUE_AT_MS, DUE_SHARD, Item, Key, PK, Query, Reason, SK, Table, TableError, Value, Write},
};

/// The name of the index of due items.
pub const DUE_INDEX: &str = "due";
/// How often a transaction that met another one is tried in all; a cancelled one has written nothing.
const TRANSACTION_ATTEMPTS_MAX: u32 = 5;
/// The longest first pause between two attempts; jittered and doubled by the SDK.
const TRANSACTION_BACKOFF: Duration = Duration::from_millis(50);

/// A DynamoDB table.
#[derive(Debug, Clone)]
pub struct DynamoTable {
    client: Client,
    name: String,
}

impl DynamoTable {
    /// The table `name`, which exists.
    pub fn new(client: Client, name: impl Into<String>) -> Self {
        Self { client, name: name.into() }
    }

    /// The table's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Creates the table with its due index, if it does not exist. For local use: a deployment's table comes from
    /// its template.
    pub async fn create_table(&self) -> Result<(), TableError> {
        let attribute = |name: &str, kind| {
            AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build().map_err(build_failed)
        };
        let key = |name: &str, kind| {
            KeySchemaElement::builder().attribute_name(name).key_type(kind).build().map_err(build_failed)
        };
        let index = GlobalSecondaryIndex::builder()
            .index_name(DUE_INDEX)
            .key_schema(key(DUE_SHARD, KeyType::Hash)?)
            .key_schema(key(DUE_AT_MS, KeyType::Range)?)
            .projection(Projection::builder().projection_type(ProjectionType::KeysOnly).build())
            .build()
            .map_err(build_failed)?;
        let created = self
            .client
            .create_table()
            .table_name(&self.name)
            .billing_mode(BillingMode::PayPerRequest)
            .attribute_definitions(attribute(PK, ScalarAttributeType::S)?)
            .attribute_definitions(attribute(SK, ScalarAttributeType::S)?)
            .attribute_definitions(attribute(DUE_SHARD, ScalarAttributeType::S)?)
            .attribute_definitions(attribute(DUE_AT_MS, ScalarAttributeType::N)?)
            .key_schema(key(PK, KeyType::Hash)?)
            .key_schema(key(SK, KeyType::Range)?)
            .global_secondary_indexes(index)
            .send()
            .await;
        match created {
            Err(SdkError::ServiceError(error))
                if matches!(error.err(), CreateTableError::ResourceInUseException(_)) =>
            {
                Ok(())
            }
            other => other.map(drop).map_err(table_error),
        }
    }

    async fn pages(&self, query: Request<'_>) -> Result<Vec<Item>, TableError> {
        let mut items = Vec::new();
        let mut start = None;
        loop {
            let left = query.limit.map(|limit| limit.saturating_sub(items.len()));
            if left == Some(0) {
                return Ok(items);
            }
            let page = self
                .client
                .query()
                .table_name(&self.name)
                .set_index_name(query.index.map(str::to_owned))
                .consistent_read(query.index.is_none())
                .key_condition_expression(&query.condition)
                .set_expression_attribute_names(query.expressions.names())
                .set_expression_attribute_values(query.expressions.values())
                .set_projection_expression(query.projection.clone())
                .set_limit(left.map(|left| i32::try_from(left).unwrap_or(i32::MAX)))
                .set_exclusive_start_key(start.take())
                .return_consumed_capacity(ReturnConsumedCapacity::Total)
                .send()
                .await
                .map_err(table_error)?;
            consumed("Query", &page.consumed_capacity);
            for item in page.items.unwrap_or_default() {
                items.push(from_attributes(item)?);
            }
            match page.last_evaluated_key {
                Some(last) if !last.is_empty() => start = Some(last),
                _ => return Ok(items),
            }
        }
    }
}

/// One query of the table or its index.
struct Request<'a> {
    index: Option<&'a str>,
    condition: String,
    expressions: Expressions,
    projection: Option<String>,
    limit: Option<usize>,
}

#[async_trait]
impl Table for DynamoTable {
    async fn get(&self, key: &Key) -> Result<Option<Item>, TableError> {
        let found = self
            .client
            .get_item()
            .table_name(&self.name)
            .set_key(Some(key_attributes(key)))
            .consistent_read(true)
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
            .send()
            .await
            .map_err(table_error)?;
        consumed("GetItem", &found.consumed_capacity);
        found.item.map(from_attributes).transpose()
    }

    async fn query(&self, query: &Query) -> Result<Vec<Item>, TableError> {
        let mut e = Expressions::default();
        let condition = format!(
            "{} = {} AND {} BETWEEN {} AND {}",
            e.name(PK),
            e.value(&query.pk.as_str().into()),
            e.name(SK),
            e.value(&query.from.as_str().into()),
            e.value(&query.to.as_str().into()),
        );
        let projection = query.keys_only.then(|| format!("{}, {}", e.name(PK), e.name(SK)));
        self.pages(Request { index: None, condition, expressions: e, projection, limit: query.limit }).await
    }

    async fn due(&self, shard: &str, until_ms: u64, limit: usize) -> Result<Vec<Item>, TableError> {
        let mut e = Expressions::default();
        let condition = format!(
            "{} = {} AND {} <= {}",
            e.name(DUE_SHARD),
            e.value(&shard.into()),
            e.name(DUE_AT_MS),
            e.value(&until_ms.into()),
        );
        let request =
            Request { index: Some(DUE_INDEX), condition, expressions: e, projection: None, limit: Some(limit) };
        self.pages(request).await
    }

    async fn write(&self, write: &Write) -> Result<Item, TableError> {
        let mut e = Expressions::default();
        let condition = write.condition.as_ref().map(|condition| e.condition(condition));
        let old = ReturnValuesOnConditionCheckFailure::AllOld;
        match &write.change {
            Change::Put(item) => {
                let item = with_key(item, &write.key);
                let put = self
                    .client
                    .put_item()
                    .table_name(&self.name)
                    .set_item(Some(to_attributes(&item)))
                    .set_condition_expression(condition)
                    .set_expression_attribute_names(e.names())
                    .set_expression_attribute_values(e.values())
                    .return_values_on_condition_check_failure(old)
                    .return_consumed_capacity(ReturnConsumedCapacity::Total)
                    .send()
                    .await
                    .map_err(|error| match error.as_service_error() {
                        Some(PutItemError::ConditionalCheckFailedException(failed)) => condition_failed(failed.item()),
                        _ => table_error(error),
                    })?;
                consumed("PutItem", &put.consumed_capacity);
                Ok(item)
            }
            Change::Update(steps) => {
                let update = e.update(steps);
                let updated = self
                    .client
                    .update_item()
                    .table_name(&self.name)
                    .set_key(Some(key_attributes(&write.key)))
                    .update_expression(update)
                    .set_condition_expression(condition)
                    .set_expression_attribute_names(e.names())
                    .set_expression_attribute_values(e.values())
                    .return_values(ReturnValue::AllNew)
                    .return_values_on_condition_check_failure(old)
                    .return_consumed_capacity(ReturnConsumedCapacity::Total)
                    .send()
                    .await
                    .map_err(|error| match error.as_service_error() {
                        Some(UpdateItemError::ConditionalCheckFailedException(failed)) => {
                            condition_failed(failed.item())
                        }
                        _ => table_error(error),
                    })?;
                consumed("UpdateItem", &updated.consumed_capacity);
                from_attributes(updated.attributes.unwrap_or_default())
            }
            Change::Delete => {
                let deleted = self
                    .client
                    .delete_item()
                    .table_name(&self.name)
                    .set_key(Some(key_attributes(&write.key)))
                    .set_condition_expression(condition)
                    .set_expression_attribute_names(e.names())
                    .set_expression_attribute_values(e.values())
                    .return_values_on_condition_check_failure(old)
                    .return_consumed_capacity(ReturnConsumedCapacity::Total)
                    .send()
                    .await
                    .map_err(|error| match error.as_service_error() {
                        Some(DeleteItemError::ConditionalCheckFailedException(failed)) => {
                            condition_failed(failed.item())
                        }
                        _ => table_error(error),
                    })?;
                consumed("DeleteItem", &deleted.consumed_capacity);
                Ok(Item::new())
            }
            Change::Check => Err(TableError::Bug("a check outside of a transaction".into())),
        }
    }

    async fn transact(&self, writes: &[Write]) -> Result<(), TableError> {
        let items = writes.iter().map(|write| self.transact_item(write)).collect::<Result<Vec<_>, _>>()?;
        let retries = RetryConfig::standard()
            .with_max_attempts(TRANSACTION_ATTEMPTS_MAX)
            .with_initial_backoff(TRANSACTION_BACKOFF);
        self.client
            .transact_write_items()
            .set_transact_items(Some(items))
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
            .customize()
            .config_override(Config::builder().retry_config(retries).retry_classifier(RetryTransactionConflict))
            .send()
            .await
            .map(|done| consumed("TransactWriteItems", done.consumed_capacity()))
            .map_err(|error| match error.as_service_error() {
                Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => {
                    TableError::Cancelled { reasons: cancelled.cancellation_reasons().iter().map(reason).collect() }
                }
                _ => table_error(error),
            })
    }
}

impl DynamoTable {
    fn transact_item(&self, write: &Write) -> Result<TransactWriteItem, TableError> {
        let mut e = Expressions::default();
        let condition = write.condition.as_ref().map(|condition| e.condition(condition));
        let old = ReturnValuesOnConditionCheckFailure::AllOld;
        let key = Some(key_attributes(&write.key));
        let item = TransactWriteItem::builder();
        let item = match &write.change {
            Change::Put(attributes) => item.put(
                Put::builder()
                    .table_name(&self.name)
                    .set_item(Some(to_attributes(&with_key(attributes, &write.key))))
                    .set_condition_expression(condition)
                    .set_expression_attribute_names(e.names())
                    .set_expression_attribute_values(e.values())
                    .return_values_on_condition_check_failure(old)
                    .build()
                    .map_err(build_failed)?,
            ),
            Change::Update(steps) => {
                let update = e.update(steps);
                item.update(
                    Update::builder()
                        .table_name(&self.name)
                        .set_key(key)
                        .update_expression(update)
                        .set_condition_expression(condition)
                        .set_expression_attribute_names(e.names())
                        .set_expression_attribute_values(e.values())
                        .return_values_on_condition_check_failure(old)
                        .build()
                        .map_err(build_failed)?,
                )
            }
            Change::Delete => item.delete(
                Delete::builder()
                    .table_name(&self.name)
                    .set_key(key)
                    .set_condition_expression(condition)
                    .set_expression_attribute_names(e.names())
                    .set_expression_attribute_values(e.values())
                    .return_values_on_condition_check_failure(old)
                    .build()
                    .map_err(build_failed)?,
            ),
            Change::Check => item.condition_check(
                ConditionCheck::builder()
                    .table_name(&self.name)
                    .set_key(key)
                    .condition_expression(condition.unwrap_or_default())
                    .set_expression_attribute_names(e.names())
                    .set_expression_attribute_values(e.values())
                    .return_values_on_condition_check_failure(old)
                    .build()
                    .map_err(build_failed)?,
            ),
        };
        Ok(item.build())
    }
}

/// Lets the SDK retry, with its own jittered pauses, a transaction cancelled for conflicts alone. The SDK retries
/// throttles and dead connections by itself, but leaves a cancelled transaction to its caller.
#[derive(Debug)]
struct RetryTransactionConflict;

impl ClassifyRetry for RetryTransactionConflict {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let error = context.output_or_error().and_then(Result::err).and_then(|error| error.as_operation_error());
        let Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) =
            error.and_then(|error| error.downcast_ref())
        else {
            return RetryAction::NoActionIndicated;
        };
        let reasons: Vec<_> = cancelled.cancellation_reasons().iter().map(reason).collect();
        let harmless = |reason: &Reason| matches!(reason, Reason::None | Reason::Conflict | Reason::Throttled);
        if !reasons.is_empty() && reasons.iter().all(harmless) {
            RetryAction::transient_error()
        } else {
            RetryAction::NoActionIndicated
        }
    }

    fn name(&self) -> &'static str {
        "transaction conflict"
    }
}

/// Tells what a request cost, in request units: the sum over all requests is the table's bill, but for refused writes.
fn consumed<'a>(operation: &'static str, capacity: impl IntoIterator<Item = &'a ConsumedCapacity>) {
    let units: f64 = capacity.into_iter().filter_map(ConsumedCapacity::capacity_units).sum();
    tracing::debug!(operation, units, "consumed");
}

fn reason(reason: &CancellationReason) -> Reason {
    match reason.code().unwrap_or("None") {
        "None" => Reason::None,
        "ConditionalCheckFailed" => {
            let old = reason.item().filter(|item| !item.is_empty());
            match old.cloned().map(from_attributes).transpose() {
                Ok(old) => Reason::ConditionFailed(old),
                Err(error) => Reason::Other(error.to_string()),
            }
        }
        "TransactionConflict" => Reason::Conflict,
        "ThrottlingError" | "ProvisionedThroughputExceeded" => Reason::Throttled,
        code => Reason::Other(format!("{code}: {}", reason.message().unwrap_or_default())),
    }
}

fn condition_failed(old: Option<&HashMap<String, AttributeValue>>) -> TableError {
    match old.filter(|item| !item.is_empty()).cloned().map(from_attributes).transpose() {
        Ok(old) => TableError::ConditionFailed { old },
        Err(error) => error,
    }
}

fn table_error<E>(error: SdkError<E>) -> TableError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let code = error.as_service_error().and_then(|e| e.code()).map(str::to_owned);
    let server_fault = error.raw_response().is_some_and(|response| response.status().is_server_error());
    match (&error, code.as_deref()) {
        (SdkError::ConstructionFailure(_), _) => TableError::Bug("the request could not be built".into()),
        (
            SdkError::ServiceError(_),
            Some(
                "ProvisionedThroughputExceededException"
                | "ThrottlingException"
                | "RequestLimitExceeded"
                | "LimitExceededException",
            ),
        ) => TableError::Throttled,
        (
            SdkError::ServiceError(_),
            Some(
                "TransactionConflictException" | "TransactionInProgressException" | "ReplicatedWriteConflictException",
            ),
        ) => TableError::Conflict,
        (SdkError::ServiceError(service), Some(code)) if !server_fault && code != "InternalServerError" => {
            TableError::Bug(format!("{code}: {}", service.err().message().unwrap_or_default()))
        }
        // Without the raw answer: errors are logged, items are not.
        _ => error.into_source().map_or_else(
            |_| TableError::Bug("an error of no known kind".into()),
            |source| TableError::Unavailable(Arc::from(source)),
        ),
    }
}

fn build_failed(error: aws_sdk_dynamodb::error::BuildError) -> TableError {
    TableError::Bug(error.to_string())
}

fn with_key(item: &Item, key: &Key) -> Item {
    let mut item = item.clone();
    item.insert(PK.into(), key.pk.clone().into());
    item.insert(SK.into(), key.sk.clone().into());
    item
}

fn key_attributes(key: &Key) -> HashMap<String, AttributeValue> {
    to_attributes(&with_key(&Item::new(), key))
}

fn to_attributes(item: &Item) -> HashMap<String, AttributeValue> {
    item.iter().map(|(name, value)| (name.clone(), to_attribute(value))).collect()
}

pub(crate) fn to_attribute(value: &Value) -> AttributeValue {
    match value {
        Value::Text(text) => AttributeValue::S(text.clone()),
        Value::Number(number) => AttributeValue::N(number.to_string()),
        Value::Bytes(bytes) => AttributeValue::B(Blob::new(bytes.clone())),
    }
}

fn from_attributes(attributes: HashMap<String, AttributeValue>) -> Result<Item, TableError> {
    attributes
        .into_iter()
        .map(|(name, value)| match from_attribute(value) {
            Some(value) => Ok((name, value)),
            None => Err(TableError::Bug(format!("attribute {name} is of a type or size never written"))),
        })
        .collect()
}

fn from_attribute(value: AttributeValue) -> Option<Value> {
    match value {
        AttributeValue::S(text) => Some(Value::Text(text)),
        AttributeValue::N(number) => number.parse().ok().map(Value::Number),
        AttributeValue::B(bytes) => Some(Value::Bytes(bytes.into_inner())),
        _ => None,
    }
}
