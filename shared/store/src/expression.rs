//! Renders our conditions and updates as DynamoDB expressions.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;

use crate::{
    dynamo::to_attribute,
    table::{Condition, Step, Value},
};

/// Collects the placeholders of one request's expressions. Every name goes through a placeholder, so that no
/// attribute can collide with a reserved word.
#[derive(Debug, Default)]
pub(crate) struct Expressions {
    names: HashMap<String, String>,
    values: HashMap<String, AttributeValue>,
}

impl Expressions {
    /// The placeholder of an attribute's name.
    pub(crate) fn name(&mut self, name: &str) -> String {
        let placeholder = format!("#{name}");
        self.names.insert(placeholder.clone(), name.to_owned());
        placeholder
    }

    /// A placeholder for a value.
    pub(crate) fn value(&mut self, value: &Value) -> String {
        let placeholder = format!(":v{}", self.values.len());
        self.values.insert(placeholder.clone(), to_attribute(value));
        placeholder
    }

    /// A condition expression.
    pub(crate) fn condition(&mut self, condition: &Condition) -> String {
        match condition {
            Condition::Exists(name) => format!("attribute_exists({})", self.name(name)),
            Condition::Absent(name) => format!("attribute_not_exists({})", self.name(name)),
            Condition::Equals(name, value) => format!("{} = {}", self.name(name), self.value(value)),
            Condition::LessThan(name, value) => format!("{} < {}", self.name(name), self.value(value)),
            Condition::And(all) => self.joined(all, " AND "),
            Condition::Or(any) => self.joined(any, " OR "),
        }
    }

    fn joined(&mut self, conditions: &[Condition], operator: &str) -> String {
        // DynamoDB refuses redundant parentheses.
        if let [only] = conditions {
            return self.condition(only);
        }
        let parts: Vec<_> = conditions.iter().map(|c| format!("({})", self.condition(c))).collect();
        parts.join(operator)
    }

    /// An update expression.
    pub(crate) fn update(&mut self, steps: &[Step]) -> String {
        let (mut set, mut add, mut remove) = (Vec::new(), Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Set(name, value) => set.push(format!("{} = {}", self.name(name), self.value(value))),
                Step::SetIfAbsent(name, value) => {
                    let (name, value) = (self.name(name), self.value(value));
                    set.push(format!("{name} = if_not_exists({name}, {value})"));
                }
                Step::Add(name, number) => {
                    add.push(format!("{} {}", self.name(name), self.value(&Value::Number(*number))));
                }
                Step::Remove(name) => remove.push(self.name(name)),
            }
        }
        let clause =
            |keyword, parts: Vec<String>| (!parts.is_empty()).then(|| format!("{keyword} {}", parts.join(", ")));
        let clauses = [clause("SET", set), clause("ADD", add), clause("REMOVE", remove)];
        clauses.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    /// The names, or `None` if there are none: DynamoDB refuses empty maps.
    pub(crate) fn names(&self) -> Option<HashMap<String, String>> {
        (!self.names.is_empty()).then(|| self.names.clone())
    }

    /// The values, or `None` if there are none.
    pub(crate) fn values(&self) -> Option<HashMap<String, AttributeValue>> {
        (!self.values.is_empty()).then(|| self.values.clone())
    }
}
