//! The texts of a message: their templates, and what they are for each recipient.

use super::{super::question, TEMPLATES, recipients::Recipient};
use crate::{
    engine::run::Visit,
    mail::{Template, message::one_line},
};
use serde_json::{Map, Value};

/// What templates may ask for beside the run's variables: the person that is told.
pub const RECIPIENT: &str = "recipient";

/// The templates of a message.
pub struct Texts([Option<Template>; 3]);

/// A message's texts: subject, text, HTML.
pub type Filled = [Option<String>; 3];

/// What one person is shown in the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The subject, in one line.
    pub title: String,
    /// The text, else the HTML.
    pub body: Option<String>,
}

impl Texts {
    /// Reads the templates.
    ///
    /// # Errors
    /// A sentence that names the one which is none, and the line.
    pub fn read(config: &Map<String, Value>) -> Result<Texts, String> {
        let mut templates = [None, None, None];
        for ((name, kind), template) in TEMPLATES.into_iter().zip(&mut templates) {
            if let Some(text) = config.get(name).and_then(Value::as_str) {
                *template = Some(Template::parse(text, kind).map_err(|wrong| format!("`{name}`, {wrong}"))?);
            }
        }
        Ok(Texts(templates))
    }

    /// To be filled in with the variables of a visit.
    #[must_use]
    pub fn of_visit(&self, visit: &Visit<'_>) -> Filler<'_> {
        Filler::new(self, visit.variables)
    }

    /// What each of them is shown in the application, before anybody is told anything. `more` is how many bytes each of them
    /// is shown beside that.
    ///
    /// # Errors
    /// A sentence that says which text cannot be filled in, or that all of them are too large to be written at once.
    pub fn shown(&self, visit: &Visit<'_>, recipients: &[Recipient], more: usize) -> Result<Vec<Shown>, String> {
        let mut filler = self.of_visit(visit);
        let (mut all, mut bytes) = (Vec::with_capacity(recipients.len()), 0);
        for recipient in recipients {
            let [subject, text, html] = filler.fill(recipient)?;
            let title = one_line(&subject.unwrap_or_else(|| visit.step.name.clone()));
            let body = text.or(html);
            bytes += title.len() + body.as_ref().map_or(0, String::len) + more;
            question::fits(bytes)?;
            all.push(Shown { title, body });
        }
        Ok(all)
    }
}

/// Fills in the texts, for one recipient after the other.
pub struct Filler<'a> {
    texts: &'a Texts,
    /// The run's variables, with the recipient among them.
    values: Value,
    /// Whether the run has a variable of the recipient's name. It stays what it is.
    own: bool,
}

impl<'a> Filler<'a> {
    fn new(texts: &'a Texts, variables: &Map<String, Value>) -> Filler<'a> {
        Filler { texts, values: Value::Object(variables.clone()), own: variables.contains_key(RECIPIENT) }
    }

    /// For this recipient.
    ///
    /// # Errors
    /// A sentence that names the text and the line.
    pub fn fill(&mut self, recipient: &Recipient) -> Result<Filled, String> {
        if let Some(members) = self.values.as_object_mut().filter(|_| !self.own) {
            members.insert(RECIPIENT.to_string(), recipient.person.clone());
        }
        let mut filled = [None, None, None];
        for (((name, _), template), text) in TEMPLATES.into_iter().zip(&self.texts.0).zip(&mut filled) {
            if let Some(template) = template {
                *text = Some(template.fill(&self.values).map_err(|wrong| format!("`{name}`, {wrong}"))?);
            }
        }
        Ok(filled)
    }
}
