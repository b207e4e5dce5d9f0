//! A CloudFormation template, with its intrinsic functions worked out as far as they can be without AWS.

use std::collections::{BTreeMap, BTreeSet};

use saphyr::{LoadableYamlNode as _, Scalar, Yaml};
use serde_json::{Map, Value, json};

/// A template with its parameters filled in. A reference to a resource has become the resource's logical name, an
/// attribute of it `Name.Attribute`, a pseudo parameter `${AWS::…}`.
#[derive(Debug)]
pub(crate) struct Template {
    resources: BTreeMap<String, Value>,
    outputs: BTreeMap<String, Value>,
    globals: Value,
    parameters: Map<String, Value>,
}

impl Template {
    /// Reads a template as deployed with all defaults but these `chosen` parameters. It panics at what it cannot read:
    /// this is for tests.
    pub(crate) fn read(yaml: &str, chosen: &[(&str, &str)]) -> Self {
        let documents = Yaml::load_from_str(yaml).expect("the template is YAML");
        let [document] = &documents[..] else { panic!("one document: {documents:?}") };
        let raw = long_form(document);
        let declared = raw["Parameters"].as_object().cloned().unwrap_or_default();
        for (name, _) in chosen {
            assert!(declared.contains_key(*name), "there is no parameter {name}");
        }
        let mut values = Map::new();
        for (name, parameter) in &declared {
            let chosen = chosen.iter().find(|(chosen, _)| chosen == name).map(|(_, value)| json!(value));
            let value =
                chosen.or_else(|| parameter.get("Default").cloned()).unwrap_or_else(|| json!(format!("the {name}")));
            let is_list = parameter["Type"] == "CommaDelimitedList";
            let list = || value.as_str().unwrap_or_default().split(',').collect::<Vec<_>>();
            values.insert(name.clone(), if is_list { json!(list()) } else { value.clone() });
        }
        let scope = Scope { raw: &raw, parameters: &values };
        let section = |name: &str| {
            let entries = raw[name].as_object().into_iter().flatten();
            let wanted = entries.filter(|(_, entry)| entry["Condition"].as_str().is_none_or(|name| scope.holds(name)));
            wanted.map(|(name, entry)| (name.clone(), scope.evaluate(entry))).collect()
        };
        Self {
            resources: section("Resources"),
            outputs: section("Outputs"),
            globals: scope.evaluate(&raw["Globals"]),
            parameters: declared,
        }
    }

    /// Everything of a type, by logical name.
    pub(crate) fn all<'a>(&'a self, of_type: &'a str) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.resources.iter().filter(move |(_, it)| it["Type"] == of_type).map(|(name, it)| (name.as_str(), it))
    }

    /// All resources, by logical name.
    pub(crate) fn resources(&self) -> &BTreeMap<String, Value> {
        &self.resources
    }

    /// A resource's properties.
    pub(crate) fn properties(&self, name: &str) -> &Value {
        let resource = self.resources.get(name).unwrap_or_else(|| panic!("there is no resource {name}"));
        &resource["Properties"]
    }

    /// The functions, each with the properties that all share.
    pub(crate) fn functions(&self) -> BTreeMap<&str, Value> {
        let functions = self.all("AWS::Serverless::Function");
        functions.map(|(name, it)| (name, merged(&self.globals["Function"], &it["Properties"]))).collect()
    }

    /// The value of an output.
    pub(crate) fn output(&self, name: &str) -> &Value {
        let output = self.outputs.get(name).unwrap_or_else(|| panic!("there is no output {name}"));
        &output["Value"]
    }

    /// All outputs: their names and values.
    pub(crate) fn outputs(&self) -> impl Iterator<Item = (&str, &str)> {
        let value = |output: &Value| output["Value"].as_str().is_some();
        let texts = self.outputs.iter().filter(move |(_, output)| value(output));
        texts.map(|(name, output)| (name.as_str(), output["Value"].as_str().unwrap_or_default()))
    }

    /// The names of its parameters.
    pub(crate) fn parameters(&self) -> BTreeSet<String> {
        self.parameters.keys().cloned().collect()
    }

    /// What a parameter may be.
    pub(crate) fn allowed_values(&self, parameter: &str) -> Vec<&str> {
        texts(&self.parameters[parameter]["AllowedValues"])
    }
}

/// One or several: CloudFormation takes either in most places.
pub(crate) fn each(value: &Value) -> &[Value] {
    match value {
        Value::Null => &[],
        Value::Array(values) => values,
        one => std::slice::from_ref(one),
    }
}

/// The texts among them.
pub(crate) fn texts(value: &Value) -> Vec<&str> {
    each(value).iter().map(|text| text.as_str().unwrap_or_else(|| panic!("no text: {text}"))).collect()
}

/// What is in every function, with what is in this one on top.
fn merged(shared: &Value, own: &Value) -> Value {
    let (Value::Object(shared), Value::Object(own)) = (shared, own) else { return own.clone() };
    let mut all = shared.clone();
    for (name, value) in own {
        let value = shared.get(name).map_or_else(|| value.clone(), |shared| merged(shared, value));
        all.insert(name.clone(), value);
    }
    Value::Object(all)
}

/// The YAML as JSON, `!Name x` as `{"Fn::Name": x}`.
fn long_form(node: &Yaml<'_>) -> Value {
    match node {
        Yaml::Value(Scalar::Null) => Value::Null,
        Yaml::Value(Scalar::Boolean(value)) => json!(value),
        Yaml::Value(Scalar::Integer(value)) => json!(value),
        Yaml::Value(Scalar::FloatingPoint(value)) => json!(value.into_inner()),
        Yaml::Value(Scalar::String(value)) => json!(value),
        Yaml::Sequence(nodes) => nodes.iter().map(long_form).collect(),
        Yaml::Mapping(entries) => entries.iter().map(|(key, value)| (text(key), long_form(value))).collect(),
        Yaml::Tagged(tag, node) => {
            let value = long_form(node);
            match &*tag.suffix {
                "Ref" => json!({ "Ref": value }),
                "GetAtt" => {
                    let name = value.as_str().and_then(|name| name.split_once('.')).expect("!GetAtt Name.Attribute");
                    json!({ "Fn::GetAtt": [name.0, name.1] })
                }
                function => json!({ format!("Fn::{function}"): value }),
            }
        }
        Yaml::Representation(..) | Yaml::Alias(_) | Yaml::BadValue => panic!("not in a template: {node:?}"),
    }
}

fn text(key: &Yaml<'_>) -> String {
    let Yaml::Value(key) = key else { panic!("not a key of a template: {key:?}") };
    match key {
        Scalar::String(text) => text.to_string(),
        Scalar::Integer(number) => number.to_string(),
        other => panic!("not a key of a template: {other:?}"),
    }
}

/// What expressions are evaluated in.
struct Scope<'a> {
    raw: &'a Value,
    parameters: &'a Map<String, Value>,
}

impl Scope<'_> {
    fn evaluate(&self, value: &Value) -> Value {
        match value {
            Value::Object(fields) => {
                if let Some((function, argument)) = fields.iter().next().filter(|_| fields.len() == 1)
                    && let Some(result) = self.call(function, argument)
                {
                    return result;
                }
                let fields = fields.iter().map(|(name, value)| (name.clone(), self.evaluate(value)));
                fields.filter(|(_, value)| !is_no_value(value)).collect()
            }
            Value::Array(values) => {
                values.iter().map(|value| self.evaluate(value)).filter(|value| !is_no_value(value)).collect()
            }
            other => other.clone(),
        }
    }

    /// The result of an intrinsic function; `None` if this is none.
    fn call(&self, function: &str, argument: &Value) -> Option<Value> {
        let arguments = || argument.as_array().map(|arguments| &arguments[..]).unwrap_or_default();
        Some(match (function, arguments()) {
            ("Ref", _) => self.reference(argument.as_str()?),
            ("Fn::GetAtt", [name, attribute]) => json!(format!("{}.{}", name.as_str()?, attribute.as_str()?)),
            ("Fn::Sub", _) => json!(self.substitute(argument.as_str()?)),
            ("Fn::If", [condition, then, otherwise]) => {
                self.evaluate(if self.holds(condition.as_str()?) { then } else { otherwise })
            }
            ("Fn::FindInMap", [map, key, name]) => {
                let key = self.evaluate(key);
                self.raw["Mappings"][map.as_str()?][key.as_str()?][name.as_str()?].clone()
            }
            ("Fn::Equals", [one, other]) => json!(self.evaluate(one) == self.evaluate(other)),
            ("Fn::Not", [one]) => json!(self.evaluate(one) == json!(false)),
            ("Fn::Join", [separator, parts]) => {
                let parts = self.evaluate(parts);
                json!(texts(&parts).join(separator.as_str()?))
            }
            (unknown, _) if unknown.starts_with("Fn::") => panic!("not understood: {unknown} {argument}"),
            _ => return None,
        })
    }

    fn holds(&self, condition: &str) -> bool {
        let rule = &self.raw["Conditions"][condition];
        assert!(!rule.is_null(), "there is no condition {condition}");
        self.evaluate(rule) == json!(true)
    }

    fn reference(&self, name: &str) -> Value {
        if let Some(value) = self.parameters.get(name) {
            return value.clone();
        }
        if name.starts_with("AWS::") {
            return json!(format!("${{{name}}}"));
        }
        self.must_exist(name);
        json!(name)
    }

    /// `${Name}` and `${Name.Attribute}` in a text.
    fn substitute(&self, text: &str) -> String {
        let mut result = String::new();
        let mut rest = text;
        while let Some((before, (name, after))) =
            rest.split_once("${").and_then(|(before, rest)| Some((before, rest.split_once('}')?)))
        {
            let value = match name.split_once('.') {
                Some((resource, _)) => {
                    self.must_exist(resource);
                    name.to_owned()
                }
                None => self.reference(name).as_str().unwrap_or_else(|| panic!("${{{name}}} is no text")).to_owned(),
            };
            result.extend([before, &value]);
            rest = after;
        }
        result + rest
    }

    fn must_exist(&self, resource: &str) {
        assert!(!self.raw["Resources"][resource].is_null(), "there is no {resource}");
    }
}

fn is_no_value(value: &Value) -> bool {
    value == "${AWS::NoValue}"
}

#[test]
fn a_template_is_worked_out() {
    let yaml = r#"
Parameters:
  Stage: { Type: String, Default: prod }
  People: { Type: CommaDelimitedList, Default: "" }
Mappings: { Nodes: { prod: { Url: there } } }
Conditions:
  HasPeople: !Not [!Equals [!Join ["", !Ref People], ""]]
Globals: { Function: { Timeout: 30, Environment: { Variables: { A: 1 } } } }
Resources:
  Queue: { Type: Q, Properties: { Name: !Sub "usher-${Stage}-${AWS::Region}", Url: !FindInMap [Nodes, !Ref Stage, Url] } }
  Guests: { Type: Q, Condition: HasPeople, Properties: { People: !Ref People } }
  Work:
    Type: AWS::Serverless::Function
    Properties:
      Queue: !GetAtt Queue.Arn
      Index: !Sub ${Queue.Arn}/index
      Maybe: !If [HasPeople, [!Ref Guests], !Ref AWS::NoValue]
      Environment: { Variables: { B: x } }
"#;
    let template = Template::read(yaml, &[]);
    assert_eq!(template.properties("Queue"), &json!({ "Name": "usher-prod-${AWS::Region}", "Url": "there" }));
    assert!(!template.resources().contains_key("Guests"));
    let work = json!({
        "Timeout": 30, "Queue": "Queue.Arn", "Index": "Queue.Arn/index",
        "Environment": { "Variables": { "A": 1, "B": "x" } },
    });
    assert_eq!(template.functions(), BTreeMap::from([("Work", work)]));
    let template = Template::read(yaml, &[("People", "ann,bob")]);
    assert_eq!(template.properties("Guests"), &json!({ "People": ["ann", "bob"] }));
    assert_eq!(template.functions()["Work"]["Maybe"], json!(["Guests"]));
}
