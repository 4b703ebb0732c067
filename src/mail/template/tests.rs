//! What templates say and refuse, and that no template and no value is too much for the worker.

use super::*;
use nix::time::{ClockId, clock_gettime};
use proptest::prelude::*;
use serde_json::json;
use std::time::Duration;

fn values() -> Value {
    json!({
        "user": {"displayName": "Ada <ada>", "email": "ada@example.org", "manager": null, "tags": ["a", 1]},
        "items": [{"name": "Laptop", "price": 1000}, {"name": "Desk", "price": 0}],
        "rows": [[1, 2], [3]],
        "counts": {"one": 1, "two": 2},
        "none": null, "empty": [], "zero": 0, "yes": true, "blank": "", "n": 5,
        "sly": "{{user.email}}", "at": "2026-03-09T23:05:07Z",
    })
}

fn filled(text: &str, kind: Kind) -> Result<String, String> {
    Template::parse(text, kind).and_then(|template| template.fill(&values())).map_err(|error| error.to_string())
}

fn text(text: &str) -> Result<String, String> {
    filled(text, Kind::Text)
}

fn is(template: &str, expected: &str) {
    let shown: String = template.chars().take(100).collect();
    assert_eq!(text(template), Ok(expected.to_string()), "{shown}");
}

fn fails(template: &str, word: &str) {
    let shown: String = template.chars().take(100).collect();
    let why = text(template).expect_err(&shown);
    assert!(why.contains(word), "{shown}: {why}");
}

#[test]
fn values_are_put_in_and_stay_data() {
    is("Dear {{user.displayName}}, {{n}} {{ yes }}", "Dear Ada <ada>, 5 true");
    is("{{sly}}", "{{user.email}}");
    is("{{user.tags}} {{counts}}", "[\"a\",1] {\"one\":1,\"two\":2}");
    is("{{items.[0].name}} {{items.1.name}} {{items.length}} {{[n]}} {{this.n}} {{@root.n}}", "Laptop Desk 2 5 5 5");
    is("\\{{n}} {! {{! a }} comment }} {{!-- {{n}} --}}.", "{{n}} {!  comment }} .");
    is("", "");
}

#[test]
fn html_is_escaped_and_text_is_not() {
    assert_eq!(filled("{{user.displayName}}", Kind::Html), Ok("Ada &lt;ada&gt;".to_string()));
    assert_eq!(filled("{{{user.displayName}}}{{&user.displayName}}", Kind::Html), Ok("Ada <ada>Ada <ada>".to_string()));
    assert_eq!(filled("<b>{{default none \"<i>\"}}", Kind::Html), Ok("<b>&lt;i&gt;".to_string()));
    is("{{user.displayName}}", "Ada <ada>");
}

#[test]
fn a_path_that_leads_nowhere_is_an_error_that_names_it() {
    fails("a\nb {{user.mail}}", "line 2: `user.mail` has no value: `user` is an object without `mail`");
    fails("{{usr.email}}", "`usr.email` has no value: there is no variable `usr`");
    fails("{{none}}", "`none` has no value: it is null");
    fails("{{user.manager.email}}", "`user.manager` is null without `email`");
    fails("{{#each items}}\n{{nome}}{{/each}}", "line 2: `nome` has no value: the value of the block is an object");
    fails("{{#each gone}}{{/each}}", "`gone` has no value");
    fails("{{#each n}}{{/each}}", "`n` is not a list or an object; write an {{else}}");
    fails("{{#with none}}{{/with}}", "`none` is not a value");
    fails("{{items.[2].name}}", "`items` is a list without `2`");
    fails("{{#if (eq user.mail 1)}}{{/if}}", "`user.mail` has no value");
    fails("{{../n}}", "fewer blocks");
    fails("{{@index}}", "no block around it");
    fails("{{lookup counts \"three\"}}", "finds no `three` in an object");
}

#[test]
fn blocks_ask_repeat_and_go_into_values() {
    is("{{#if user.manager}}a{{else if gone}}b{{else if yes}}c{{else}}d{{/if}}", "c");
    is("{{#if zero}}a{{/if}}{{#if zero includeZero=true}}b{{/if}}{{#if blank}}c{{/if}}{{#if empty}}d{{/if}}", "b");
    is("{{#unless gone}}a{{/unless}}{{#unless yes}}b{{else}}c{{/unless}}", "ac");
    is(
        "{{#each items}}{{@index}} {{name}} {{../n}} {{@root.n}}{{#unless @last}}, {{/unless}}{{/each}}",
        "0 Laptop 5 5, 1 Desk 5 5",
    );
    is("{{#each counts}}{{@key}}={{this}}{{#if @first}};{{/if}}{{/each}}", "one=1;two=2");
    is("{{#each items as |item i|}}{{i}}{{item.name}}{{/each}}", "0Laptop1Desk");
    is("{{#each counts as |v k|}}{{k}}{{v}}{{/each}}", "one1two2");
    is("{{#each rows}}{{#each this}}{{@../index}}{{@index}}{{this}} {{/each}}{{/each}}", "001 012 103 ");
    is(
        "{{#each empty}}a{{else}}none{{/each}}{{#each gone}}a{{else}}gone{{/each}}{{#each empty}}a{{/each}}",
        "nonegone",
    );
    is("{{#with user}}{{email}}{{/with}} {{#with user as |u|}}{{u.email}}{{/with}}", "ada@example.org ada@example.org");
    is("{{#with none}}a{{else}}b{{/with}}", "b");
    is("a\n{{#if yes}}\nb\n{{/if}}\nc {{~n~}} d", "a\nb\nc5d");
}

#[test]
fn helpers_compare_and_stand_in() {
    is("{{#if (eq n 5.0)}}a{{/if}}{{#if (ne n \"5\")}}b{{/if}}{{#if (eq user.tags user.tags)}}c{{/if}}", "abc");
    is("{{#if (and yes (gt n 4) (not (lt n 4)))}}a{{/if}}{{#if (or gone none yes)}}b{{/if}}", "ab");
    is("{{#if (and (gte n 5) (lte \"a\" \"b\"))}}a{{/if}}", "a");
    is("{{default user.manager \"nobody\"}} {{default gone blank n}} {{default gone ''}}.", "nobody 5 .");
    is("{{lookup counts \"two\"}} {{lookup items.[0] \"name\"}} {{lookup rows.[0] 1}}", "2 Laptop 2");
    is("{{#each items}}{{lookup ../rows.[0] @index}}{{/each}}", "12");
    is(
        "{{formatDate at \"DD.MM.YYYY HH:mm\" zone=\"Europe/Berlin\"}} {{formatDate at}}",
        "10.03.2026 00:05 2026-03-09",
    );
    fails("{{gt n \"a\"}}", "compares two numbers or two texts, not a number and a text");
    fails("{{formatDate n.x}}", "`n` is a number without `x`");
    fails("\n{{formatDate user}}", "line 2: `formatDate`: an object is no date");
}

#[test]
fn what_is_no_template_says_so_with_its_line() {
    for (template, word) in [
        ("a\n\n{{n", "line 3: `{{` has no `}}`"),
        ("{{#if yes}}a", "no Handlebars"),
        ("{{#if yes}}a{{/each}}", "`{{#if}}` is closed by `{{/each}}`"),
        ("a\n{{/if}}", "no Handlebars"),
        ("{{}}", "no Handlebars"),
        ("{{a b}}", "no helper `a`; known are: eq, ne"),
        ("\n{{log user}}", "line 2: there is no helper `log`"),
        ("{{#items}}{{/items}}", "no block `#items`"),
        ("{{#if}}{{/if}}", "takes one value, and has 0"),
        ("{{#loop items}}{{/loop}}", "no block `#loop`; known are: #if"),
        ("{{#eq n 5}}{{/eq}}", "`eq` is no block"),
        ("{{#if n yes}}{{/if}}", "takes one value, and has 2"),
        ("{{eq n}}", "`eq` takes 2 values, and has 1"),
        ("{{eq n 5 at=1}}", "takes no `at=`"),
        ("{{#if n as |x|}}{{/if}}", "gives its value no 1 names"),
        ("{{> header}}", "cannot include others"),
        ("{{#> layout}}{{/layout}}", "include templates"),
        ("{{* inline}}", "decorators"),
        ("{{{{raw}}}} {{{{/raw}}}}", "four braces"),
        ("{{@root.x}}{{@depth}}", "`@depth` is not known"),
        ("{{elsewhere}}", "begins with `else`"),
        ("{{eq n [1,\"a\"]}}", "lists cannot be written"),
        ("{{eq n {\"a\":1}}}", "objects cannot be written"),
        ("{{n \"a}}", "does not end"),
    ] {
        let why = Template::parse(template, Kind::Text).expect_err(template).to_string();
        assert!(why.contains(word), "{template}: {why}");
    }
}

#[test]
fn the_variables_of_a_template_are_known_with_their_lines() {
    let template = "{{user.email}}\n{{#each items as |item|}}{{item.x}}{{name}}{{../title}}{{@root.n}}{{@index}}{{/each}}\
                    \n{{#if (eq a b)}}{{formatDate at zone=z}}{{/if}}{{#with user}}{{email}}{{else}}{{other}}{{/with}}";
    let template = Template::parse(template, Kind::Text).unwrap();
    assert_eq!(
        template.variables(),
        [("user", 1), ("items", 2), ("title", 2), ("n", 2), ("a", 3), ("b", 3), ("at", 3), ("z", 3), ("other", 3)]
    );
}

/// What this thread has computed so far: how busy the machine is says nothing about a template.
fn worked() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

/// The longest that reading and filling in a text may take; a debug build is about ten times as slow as a release.
const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn size_work_and_depth_have_an_end() {
    let begun = worked();
    fails(&"a".repeat(LONGEST_TEMPLATE + 1), "more than the 65536");
    fails(&"{{n}}".repeat(1001), "too many for a template");
    fails(&"{{#if yes}}".repeat(30), "blocks within each other");
    fails(&format!("{{{{#if yes}}}}{}{{{{/if}}}}", "{{else if yes}}".repeat(30)), "blocks within each other");
    fails(&format!("{{{{eq n {}", "(eq n ".repeat(5000)), "brackets within each other");
    fails(&format!("{{{{eq n {}", "[".repeat(60_000)), "`[` has no `]`");
    let many: Vec<u32> = (0..100).collect();
    let loops = "{{#each l}}{{#each @root.l}}{{#each @root.l}}{{#each @root.l}}{{/each}}{{/each}}{{/each}}{{/each}}";
    let fill = |text: &str, values: &Value| Template::parse(text, Kind::Html).unwrap().fill(values).unwrap_err();
    assert!(fill(loops, &json!({"l": many})).why.contains("more than 200000 steps"));
    let long = json!({"l": many, "t": "<".repeat(LONGEST_TEXT / 2)});
    assert!(fill("{{#each l}}{{../t}}{{/each}}", &long).why.contains("longer than 1048576 bytes"));
    assert!(fill("{{#each l}}{{#if (eq @root @root)}}{{/if}}{{/each}}", &long).why.contains("steps"));
    assert!((worked() - begun) < PATIENCE, "{:?}", (worked() - begun));
}

#[test]
fn the_largest_template_is_read_in_time() {
    let within = |template: &str| {
        let begun = worked();
        let outcome = text(template);
        assert!((worked() - begun) < PATIENCE, "{:?}: {template:.100}", (worked() - begun));
        outcome
    };
    let padding = "x".repeat(LONGEST_TEMPLATE / 1000 - 6);
    assert!(within(&format!("{{{{n}}}}{padding}").repeat(1000)).is_ok());
    assert!(within(&format!("{{{{#if n}}}}{{{{/if}}}}{padding}").repeat(500)).is_ok());
    assert!(within(&format!("{{{{{}n}}}}", "a.".repeat(LONGEST_TEMPLATE / 2 - 10))).is_err());
    assert!(within(&format!("{{{{{}n}}}}", "../".repeat(LONGEST_TEMPLATE / 3 - 10))).is_err());
    assert!(within(&format!("{{{{#if (and {}n)}}}}a{{{{/if}}}}", "n ".repeat(LONGEST_TEMPLATE / 2 - 20))).is_ok());
    assert!(within(&format!("{{{{default {}n}}}}", "(eq n 1)".repeat(LONGEST_TEMPLATE / 8 - 10))).is_ok());
    assert!(within(&format!("{{{{#if n {}}}}}a{{{{/if}}}}", "x=1 ".repeat(LONGEST_TEMPLATE / 4 - 10))).is_err());
    assert!(within(&format!("{{{{n}}}}{}", "\\{{".repeat(LONGEST_TEMPLATE / 3 - 10))).is_ok());
    assert!(within(&"{{!}}".repeat(1000)).is_ok());
    assert!(within(&format!("{}{{{{n}}}}{}", "{{#if yes}}".repeat(24), "{{/if}}".repeat(24))).is_ok());
    assert!(within(&format!("{}{{{{n}}}}", "{{#if yes}}".repeat(24))).is_err());
    let brackets = format!("{}n 1{}", "(eq ".repeat(8), ")".repeat(8));
    assert!(within(&format!("{{{{not {brackets}}}}}")).is_err());
    assert!(within(&format!("{{{{not {}", brackets.trim_end_matches(')'))).is_err());
}

/// Pieces that mean something, so that random texts are often nearly templates.
const PIECES: [&str; 44] = [
    "{{",
    "}}",
    "{{{",
    "}}}",
    "{",
    "}",
    "{{#if ",
    "{{#each ",
    "{{#with ",
    "{{#unless ",
    "{{/if}}",
    "{{/each}}",
    "{{/with}}",
    "{{else}}",
    "{{else if ",
    "{{^}}",
    "{{~",
    "~}}",
    "{{!",
    "--}}",
    "{{!--",
    "(",
    ")",
    "[",
    "]",
    "\"",
    "'",
    "\\",
    "..",
    "/",
    "@root.",
    "@index",
    "this",
    "user",
    "items",
    "n",
    " ",
    "\n",
    ".",
    "eq ",
    "lookup ",
    "as |x y|",
    "é",
    "a=1",
];

fn nearly_a_template() -> impl Strategy<Value = String> {
    proptest::collection::vec(proptest::sample::select(&PIECES[..]), 0..40).prop_map(|pieces| pieces.concat())
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-z]{0,3}|name|email", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hostile_templates_and_values_end_in_a_text_or_a_sentence(
        template in nearly_a_template(), other in ".{0,60}", user in json(), items in json(), n in json(),
    ) {
        let values = json!({"user": user, "items": items, "n": n});
        for text in [template, other] {
            for kind in [Kind::Text, Kind::Html] {
                let begun = worked();
                if let Ok(template) = Template::parse(&text, kind) {
                    let _ = template.variables();
                    if let Ok(filled) = template.fill(&values) {
                        prop_assert!(filled.len() <= LONGEST_TEXT);
                    }
                }
                prop_assert!((worked() - begun) < PATIENCE);
            }
        }
    }

    #[test]
    fn hostile_values_come_through_as_they_are(value in ".{0,40}") {
        let values = json!({"value": value});
        let template = Template::parse("<{{value}}|{{#each @root}}{{this}}{{/each}}>", Kind::Text).unwrap();
        prop_assert_eq!(template.fill(&values), Ok(format!("<{value}|{value}>")));
        let template = Template::parse("{{value}}", Kind::Html).unwrap();
        let html = template.fill(&values).unwrap();
        prop_assert!(!html.contains(['<', '>', '"', '\'']));
    }
}
