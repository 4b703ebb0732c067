//! A definition as lines of text: its steps in the order in which a run comes to them.

use crate::engine::{
    Definition,
    definition::{Retry, Step},
    steps,
};
use serde_json::Value;
use std::{collections::BTreeMap, time::Duration};

/// What is drawn of a step.
struct Drawn<'a> {
    id: &'a str,
    name: &'a str,
    kind: &'a str,
    remarks: String,
    /// The outcome and the step of each edge.
    edges: Vec<(&'a str, &'a str)>,
}

/// A line for each step, and below it one for each edge. An edge that leads back, to a step that stands above, is marked
/// with `↑`; steps that no edge leads to come last.
pub fn draw(definition: &Definition, document: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    let category = definition.category.as_deref().map(|category| format!(" ({category})")).unwrap_or_default();
    lines.push(format!("{}{category}", definition.name));
    for variable in &definition.variables {
        let required = if variable.required { ", required" } else { "" };
        lines.push(format!("  {}: {}{required}", variable.name, variable.kind.name()));
    }
    let boxes = boxes(definition, document);
    let (order, reached) = order(&boxes);
    let place: BTreeMap<&str, usize> = order.iter().enumerate().map(|(place, step)| (boxes[*step].id, place)).collect();
    let widest = boxes.iter().map(|step| step.id.chars().count()).max().unwrap_or(0);
    for (here, index) in order.iter().enumerate() {
        let step = &boxes[*index];
        lines.push(String::new());
        if here == reached && reached > 0 {
            lines.push("no way leads to these:".to_string());
        }
        let name = if step.name == step.id { String::new() } else { format!("  {}", step.name) };
        lines.push(format!("{:widest$}  {}{name}{}", step.id, step.kind, step.remarks));
        for (number, (on, to)) in step.edges.iter().enumerate() {
            let branch = if number + 1 == step.edges.len() { '└' } else { '├' };
            let back = match place.get(to) {
                Some(there) if *there <= here => "  ↑",
                Some(_) => "",
                None => "  (there is no such step)",
            };
            lines.push(format!("  {branch}─ {on} → {to}{back}"));
        }
    }
    lines
}

/// All steps that have an id, in the order of the document: those that could be read, and what the document says of others.
fn boxes<'a>(definition: &'a Definition, document: &'a Value) -> Vec<Drawn<'a>> {
    let raw = document.get("steps").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut ids = definition.ids.iter().peekable();
    let mut read = definition.steps.iter().peekable();
    let one = |(index, raw): (usize, &'a Value)| {
        let place = format!("steps[{index}]");
        let step = read.next_if(|step| step.place.to_string() == place).map(known);
        ids.next_if(|(_, id)| id.to_string().strip_suffix(".id") == Some(&place))
            .and_then(|(id, _)| step.or(Some(unread(id, raw))))
    };
    raw.iter().enumerate().filter_map(one).collect()
}

fn known(step: &Step) -> Drawn<'_> {
    let edges = step.transitions.iter().map(|transition| (transition.on.as_str(), transition.to.as_str())).collect();
    Drawn { id: &step.id, name: &step.name, kind: step.kind.name(), remarks: remarks(step), edges }
}

/// A step that could not be read, most of all one of a type that there is elsewhere.
fn unread<'a>(id: &'a str, raw: &'a Value) -> Drawn<'a> {
    let text = |value: &'a Value, name: &str| value.get(name).and_then(Value::as_str);
    let kind = text(raw, "type").unwrap_or("(no type)");
    let remarks = if steps::find(kind).is_ok() { "  [cannot be read]" } else { "  [not executed here]" };
    let edges = raw.get("transitions").and_then(Value::as_array).into_iter().flatten();
    let edges = edges.filter_map(|edge| Some((text(edge, "on")?, text(edge, "to")?))).collect();
    Drawn { id, name: text(raw, "name").unwrap_or(id), kind, remarks: remarks.to_string(), edges }
}

/// What else is said of a step: how long it may take, and how often it is tried.
fn remarks(step: &Step) -> String {
    let mut remarks = Vec::new();
    if step.kind.waits(&step.config) {
        remarks.push("waits".to_string());
    }
    if let Some(Retry { attempts, .. }) = step.retry {
        remarks.push(format!("at most {attempts} tries"));
    }
    if let Some(timeout) = step.timeout {
        remarks.push(format!("timeout {}", span(timeout)));
    }
    if remarks.is_empty() { String::new() } else { format!("  [{}]", remarks.join(", ")) }
}

/// A span of time as definitions write it.
fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    for (unit, length) in [("d", 86_400), ("h", 3600), ("m", 60)] {
        if seconds > 0 && seconds.is_multiple_of(length) && span.subsec_nanos() == 0 {
            return format!("{}{unit}", seconds / length);
        }
    }
    format!("{}s", span.as_secs_f64())
}

/// The steps in the order of a walk along the edges, each as soon as all before it are told, as far as loops allow; and how
/// many of them a way leads to. Without recursion: a chain may be as long as a definition.
fn order(steps: &[Drawn<'_>]) -> (Vec<usize>, usize) {
    let number: BTreeMap<&str, usize> = steps.iter().enumerate().rev().map(|(index, step)| (step.id, index)).collect();
    let mut order = Vec::with_capacity(steps.len());
    let mut seen = vec![false; steps.len()];
    let starts = (0..steps.len()).filter(|index| steps[*index].kind == "start");
    let mut reached = 0;
    for root in starts.chain(0..steps.len()) {
        if std::mem::replace(&mut seen[root], true) {
            continue;
        }
        // A step is put down when everything behind it is: read backwards, it stands before all of that. Edges are walked
        // from the last to the first, so that the first one's way comes first.
        let (mut path, mut done) = (vec![(root, steps[root].edges.len())], Vec::new());
        while let Some((step, left)) = path.last_mut() {
            if *left == 0 {
                done.push(*step);
                path.pop();
                continue;
            }
            *left -= 1;
            let to = number.get(steps[*step].edges[*left].1);
            if let Some(to) = to.copied().filter(|to| !seen[*to]) {
                seen[to] = true;
                path.push((to, steps[to].edges.len()));
            }
        }
        order.extend(done.into_iter().rev());
        if steps[root].kind == "start" {
            reached = order.len();
        }
    }
    (order, reached)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::validate;
    use serde_json::json;

    fn drawn(steps: serde_json::Value) -> Vec<String> {
        let document = json!({"name": "x", "steps": steps});
        draw(&validate(&document).0, &document).split_off(2)
    }

    #[test]
    fn branches_and_loops_are_drawn_in_the_order_of_a_run() {
        let lines = drawn(json!([
            {"id": "end", "type": "end"},
            {"id": "lost", "type": "end"},
            {"id": "wait", "type": "connector", "config": {"connectorId": "delay", "command": "wait", "params": {"duration": "1m"}},
             "timeout": "90m", "retry": {"attempts": 3}, "transitions": [{"on": "success", "to": "ask"}]},
            {"id": "ask", "name": "Is it there?", "type": "condition", "config": {"if": {"variable": "n", "exists": true}},
             "transitions": [{"on": "true", "to": "end"}, {"on": "false", "to": "wait"}, {"on": "error", "to": "nowhere"}]},
            {"id": "start", "type": "start", "transitions": [{"on": "success", "to": "ask"}]},
        ]));
        let text = lines.join("\n");
        let expected = "start  start
  └─ success → ask

ask    condition  Is it there?
  ├─ true → end
  ├─ false → wait
  └─ error → nowhere  (there is no such step)

end    end

wait   connector  [waits, at most 3 tries, timeout 90m]
  └─ success → ask  ↑

no way leads to these:
lost   end";
        assert_eq!(text, expected);
    }

    #[test]
    fn steps_that_cannot_be_read_are_drawn_as_the_document_says() {
        let lines = drawn(json!([
            {"id": "start", "type": "start", "transitions": [{"on": "success", "to": "sub"}]},
            {"id": "sub", "type": "subworkflow", "name": "All of it", "transitions": [{"on": "success", "to": "end"}]},
            {"type": "end"},
            {"id": "end", "type": "end", "transitions": 7},
            {"id": "not an id", "type": "end"},
        ]));
        let expected = "start      start
  └─ success → sub

sub        subworkflow  All of it  [not executed here]
  └─ success → end

end        end

no way leads to these:
not an id  end  [cannot be read]";
        assert_eq!(lines.join("\n"), expected);
    }

    #[test]
    fn anything_can_be_drawn() {
        assert_eq!(draw(&validate(&json!([])).0, &json!([])), [""]);
        assert_eq!(drawn(json!([{"id": "a", "type": "end"}])), ["a  end"]);
        let long: Vec<_> = (0..1000)
            .map(|number| {
                let next = format!("s{}", number + 1);
                json!({"id": format!("s{number}"), "type": "start", "transitions": [{"on": "success", "to": next}]})
            })
            .collect();
        assert_eq!(drawn(json!(long)).len(), 2999);
    }
}
