//! Reads what a script returned. A value that JSON does not have is a failure that names it, where `JSON.stringify` would
//! leave it out or write null.

use super::{Kind, LARGEST_RESULT, wire::Failure};
use rquickjs::{
    Ctx, Error, Function, Object, Result as JsResult, String as JsString, Value as JsValue, function::This,
    object::Filter,
};
use serde_json::{Map, Number, Value};

/// How deep results may nest.
const DEEPEST: usize = 64;

/// Beyond this a number of JavaScript is no exact whole number.
const LARGEST_WHOLE: f64 = 9_007_199_254_740_992.0;

/// The kinds that JSON has, with a proxy of an array among them.
const ARRAY: &str = "an Array";
const OBJECT: &str = "an Object";

/// What went wrong: something that the script threw meanwhile, or what it returned.
#[derive(Debug)]
pub enum Trouble {
    /// In QuickJS; an exception of the script is with the context.
    Js(Error),
    /// A value that cannot be kept.
    Failure(Failure),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble::Js(error)
    }
}

fn refused(message: String) -> Trouble {
    Trouble::Failure(Failure::new(Kind::Refused, message))
}

/// The text of a string. Half a surrogate pair becomes U+FFFD, as in every text that leaves JavaScript in UTF-8.
pub fn text<'js>(ctx: &Ctx<'js>, string: &JsString<'js>) -> JsResult<String> {
    match string.to_string() {
        Err(Error::Utf8(_)) => {
            let object = ctx.globals().get::<_, Object<'_>>("String")?.get::<_, Object<'_>>("prototype")?;
            let well_formed: Function<'_> = object.get("toWellFormed")?;
            well_formed.call::<_, JsString<'_>>((This(string.clone()),))?.to_string()
        }
        other => other,
    }
}

/// Reads values; made before the script runs, because a script may change every object that it can reach.
pub struct Reader<'js> {
    ctx: Ctx<'js>,
    /// `Object.prototype.toString`: the kind of an object.
    to_string: Function<'js>,
    /// `Object.getOwnPropertyDescriptor`.
    descriptor: Function<'js>,
    /// Bytes of JSON that are left.
    left: usize,
    /// The objects that the value is within.
    around: Vec<JsValue<'js>>,
}

impl<'js> Reader<'js> {
    /// For one result.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn new(ctx: &Ctx<'js>) -> JsResult<Reader<'js>> {
        let class: Object<'_> = ctx.globals().get("Object")?;
        let to_string = class.get::<_, Object<'_>>("prototype")?.get("toString")?;
        let descriptor = class.get("getOwnPropertyDescriptor")?;
        Ok(Reader { ctx: ctx.clone(), to_string, descriptor, left: LARGEST_RESULT, around: Vec::new() })
    }

    /// The declared outputs of what a script returned.
    ///
    /// # Errors
    /// It is no object, lacks an output, or an output is nothing that can be kept.
    pub fn outputs(&mut self, result: &JsValue<'js>, names: &[String]) -> Result<Map<String, Value>, Trouble> {
        let Some(object) = self.plain_object(result)? else {
            let kind = self.kind(result)?;
            return Err(refused(match kind.as_str() {
                "a Promise" => "the script returned a Promise: a transform cannot wait for anything, \
                                so take `async` and `await` out"
                    .to_string(),
                "undefined" => "the script returned nothing; it has to return an object with the outputs".to_string(),
                kind => format!("the script returned {kind}; it has to return an object with the outputs"),
            }));
        };
        let mut values = Map::new();
        for name in names {
            let missing = || refused(format!("the script returned no `{name}`, which is one of its outputs"));
            // What every object inherits (`constructor`) is no output.
            if !self.owns(&object, name)? {
                return Err(missing());
            }
            let value: JsValue<'_> = object.get(name.as_str())?;
            if value.is_undefined() {
                return Err(missing());
            }
            values.insert(name.clone(), self.read(&value, name)?);
        }
        Ok(values)
    }

    fn owns(&self, object: &Object<'js>, name: &str) -> Result<bool, Trouble> {
        Ok(!self.descriptor.call::<_, JsValue<'_>>((object.clone(), name))?.is_undefined())
    }

    /// The value if it is an object that is nothing more special.
    fn plain_object(&self, value: &JsValue<'js>) -> Result<Option<Object<'js>>, Trouble> {
        match value.as_object() {
            Some(object) if self.kind(value)? == OBJECT => Ok(Some(object.clone())),
            _ => Ok(None),
        }
    }

    /// What a value is, with its article.
    fn kind(&self, value: &JsValue<'js>) -> Result<String, Trouble> {
        let simple = match () {
            () if value.is_undefined() => "undefined",
            () if value.is_null() => "null",
            () if value.is_bool() => "a boolean",
            () if value.is_number() => "a number",
            () if value.is_string() => "a string",
            () if value.is_symbol() => "a symbol",
            () if value.is_big_int() => "a BigInt",
            () if value.is_function() => "a function",
            () if value.is_promise() => "a Promise",
            () if value.is_error() => "an Error",
            () if value.is_array() => ARRAY,
            () => "",
        };
        if !simple.is_empty() {
            return Ok(simple.to_string());
        }
        let tag: JsString<'_> = self.to_string.call((This(value.clone()),))?;
        let tag = text(&self.ctx, &tag)?;
        let name: String = tag.trim_start_matches("[object ").trim_end_matches(']').chars().take(40).collect();
        let article = if name.starts_with(['A', 'E', 'I', 'O']) { "an" } else { "a" };
        Ok(format!("{article} {name}"))
    }

    /// A value that JSON has. `place` says for messages where it was found.
    fn read(&mut self, value: &JsValue<'js>, place: &str) -> Result<Value, Trouble> {
        if value.is_null() {
            self.spend(4, place)?;
            return Ok(Value::Null);
        }
        if let Some(flag) = value.as_bool() {
            self.spend(5, place)?;
            return Ok(Value::Bool(flag));
        }
        if let Some(number) = value.as_number() {
            return self.number(number, place);
        }
        if let Some(string) = value.as_string() {
            let text = text(&self.ctx, string)?;
            self.spend(text.len() + 2, place)?;
            return Ok(Value::String(text));
        }
        self.object(value, place)
    }

    fn number(&mut self, number: f64, place: &str) -> Result<Value, Trouble> {
        self.spend(8, place)?;
        if number.fract() == 0.0 && number.abs() < LARGEST_WHOLE {
            // 3.0 is 3 in JavaScript, and so it is in what is kept.
            #[expect(clippy::cast_possible_truncation, reason = "it is whole and small enough")]
            return Ok(Value::from(number as i64));
        }
        Number::from_f64(number).map(Value::Number).ok_or_else(|| {
            refused(format!(
                "`{place}` is {number}, which JSON does not have",
                number = if number.is_nan() { "NaN" } else { "Infinity" }
            ))
        })
    }

    /// An array, an object, or what an object says of itself by `toJSON`, as a Date does.
    fn object(&mut self, value: &JsValue<'js>, place: &str) -> Result<Value, Trouble> {
        let kind = self.kind(value)?;
        let Some(object) = value.as_object().filter(|_| !value.is_function()) else {
            return Err(refused(format!("`{place}` is {kind}, which JSON does not have")));
        };
        if self.around.iter().any(|outer| outer == value) {
            return Err(refused(format!("`{place}` is an object that it is within: JSON has no cycles")));
        }
        if self.around.len() >= DEEPEST {
            return Err(refused(format!("`{}` nests deeper than {DEEPEST} levels", short(place))));
        }
        self.around.push(value.clone());
        let read = match object.get::<_, JsValue<'_>>("toJSON")?.into_function() {
            Some(to_json) => self.by_to_json(&to_json, value, &kind, place),
            None if kind == ARRAY => self.array(object, place),
            None if kind == OBJECT => self.members(object, place),
            None => Err(refused(format!("`{place}` is {kind}, which JSON does not have"))),
        };
        self.around.pop();
        read
    }

    fn by_to_json(
        &mut self,
        to_json: &Function<'js>,
        value: &JsValue<'js>,
        kind: &str,
        place: &str,
    ) -> Result<Value, Trouble> {
        let said: JsValue<'_> = to_json.call((This(value.clone()), place))?;
        if kind == "a Date" && said.is_null() {
            return Err(refused(format!("`{place}` is a Date without a time")));
        }
        // As JSON.stringify, which asks once.
        if said.is_object() && !said.is_function() {
            return self.object_as_it_is(&said, place);
        }
        self.read(&said, place)
    }

    fn object_as_it_is(&mut self, value: &JsValue<'js>, place: &str) -> Result<Value, Trouble> {
        let kind = self.kind(value)?;
        match value.as_object() {
            Some(object) if kind == ARRAY => self.array(object, place),
            Some(object) if kind == OBJECT => self.members(object, place),
            _ => Err(refused(format!("`{place}` is {kind}, which JSON does not have"))),
        }
    }

    fn array(&mut self, object: &Object<'js>, place: &str) -> Result<Value, Trouble> {
        self.spend(2, place)?;
        // Not Array::len, which trusts that the length is a small number: a proxy may say anything.
        let length = object.get::<_, JsValue<'_>>("length")?.as_number().unwrap_or(0.0);
        let mut list = Vec::new();
        let mut index = 0u32;
        while f64::from(index) < length {
            self.spend(1, place)?;
            let here = format!("{place}[{index}]");
            let value: JsValue<'_> = object.get(index)?;
            if value.is_undefined() {
                return Err(refused(format!("`{here}` is undefined, which JSON does not have")));
            }
            list.push(self.read(&value, &here)?);
            index += 1;
        }
        Ok(Value::Array(list))
    }

    fn members(&mut self, object: &Object<'js>, place: &str) -> Result<Value, Trouble> {
        self.spend(2, place)?;
        let mut members = Map::new();
        for key in object.own_keys::<JsString<'_>>(Filter::new().string().enum_only()) {
            let key = key?;
            let value: JsValue<'_> = object.get(key.clone())?;
            // As JSON.stringify: `{name: undefined}` is how a member is left out.
            if value.is_undefined() {
                continue;
            }
            let key = text(&self.ctx, &key)?;
            self.spend(key.len() + 4, place)?;
            let value = self.read(&value, &format!("{place}.{}", short(&key)))?;
            members.insert(key, value);
        }
        Ok(Value::Object(members))
    }

    fn spend(&mut self, bytes: usize, place: &str) -> Result<(), Trouble> {
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(refused(format!("the results are larger than {LARGEST_RESULT} bytes, at `{}`", short(place)))),
        }
    }
}

/// So much of a place or a name as fits into a message.
fn short(text: &str) -> String {
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
