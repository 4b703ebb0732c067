//! Ticks that were missed, and changes of clocks, at times that the test chooses.

use super::{Asked, Table, at};

const DAILY: (&str, &str) = ("cron", "0 2 * * *");

#[tokio::test]
async fn each_policy_makes_up_for_what_it_says_whoever_comes_first() {
    let table = Table::start().await;
    for (policy, limit, late, in_time) in [
        ("skip", "100", vec![], vec!["05-06T02:00Z"]),
        ("one", "100", vec!["05-05T02:00Z"], vec!["05-06T02:00Z"]),
        (
            "all",
            "3",
            vec!["05-03T02:00Z", "05-04T02:00Z", "05-05T02:00Z"],
            vec!["05-03T02:00Z", "05-04T02:00Z", "05-05T02:00Z", "05-06T02:00Z"],
        ),
        (
            "all",
            "100",
            vec!["05-02T02:00Z", "05-03T02:00Z", "05-04T02:00Z", "05-05T02:00Z"],
            vec!["05-02T02:00Z", "05-03T02:00Z", "05-04T02:00Z", "05-05T02:00Z", "05-06T02:00Z"],
        ),
    ] {
        let fields = [DAILY, ("catch_up", policy), ("catch_up_limit", limit)];
        // The job of the first of them comes days later, or nobody comes and a worker looks.
        for asked in [Asked::Tick(at("2026-05-02T02:00:00Z")), Asked::Overdue] {
            let id = table.add(&fields, "2026-05-01T02:00:00Z").await;
            table.fire(id, "2026-05-05T09:00:00Z", asked).await.unwrap();
            assert_eq!(table.started(id).await, late, "{policy} {asked:?}");
            // Again, and by the other way: nothing more.
            for again in
                [Asked::Tick(at("2026-05-02T02:00:00Z")), Asked::Overdue, Asked::Tick(at("2026-05-05T02:00:00Z"))]
            {
                table.fire(id, "2026-05-05T09:01:00Z", again).await.unwrap();
            }
            assert_eq!(table.started(id).await, late, "{policy} {asked:?}");
        }
        // The next tick comes in time, and finds what was missed.
        let id = table.add(&fields, "2026-05-01T02:00:00Z").await;
        table.fire(id, "2026-05-06T02:00:00.5Z", Asked::Tick(at("2026-05-06T02:00:00Z"))).await.unwrap();
        assert_eq!(table.started(id).await, in_time, "{policy}");
    }
}

#[tokio::test]
async fn what_came_due_before_the_schedule_was_made_resumed_or_changed_is_not_missed() {
    let table = Table::start().await;
    let fields = [("cron", "* * * * * *"), ("catch_up", "all")];
    for change in ["enabled = false", "zone = 'Europe/Berlin'", "cron = '*/2 * * * * *'"] {
        let id = table.add(&fields, "2026-05-01T00:00:00Z").await;
        table.sql(&format!("UPDATE workflow_schedule SET {change} WHERE id = '{id}'")).await;
        table.sql(&format!("UPDATE workflow_schedule SET enabled = true WHERE id = '{id}'")).await;
        let query = format!("SELECT now() - ticked_until < '10 s' FROM workflow_schedule WHERE id = '{id}'");
        assert_eq!(table.sql(&query).await, [["t"]], "{change}");
    }
    // Anything else leaves it as it is, and a tick is no change of the schedule.
    let id = table.add(&fields, "2026-05-01T00:00:00Z").await;
    table.sql(&format!("UPDATE workflow_schedule SET variables = '{{\"a\": 1}}' WHERE id = '{id}'")).await;
    let before = table.sql(&format!("SELECT updated_at, ticked_until FROM workflow_schedule WHERE id = '{id}'")).await;
    table.fire(id, "2026-05-01T00:00:01.2Z", Asked::Tick(at("2026-05-01T00:00:01Z"))).await.unwrap();
    let after = table.sql(&format!("SELECT updated_at, ticked_until FROM workflow_schedule WHERE id = '{id}'")).await;
    assert_eq!((&before[0][0], before[0][1] != after[0][1]), (&after[0][0], true));
    let run = table.sql(&format!("SELECT variables, queue, status FROM workflow_run WHERE schedule_id = '{id}'")).await;
    assert_eq!(run, [["{\"a\": 1}", "bull:workflow-scheduler", "pending"]]);
}

#[tokio::test]
async fn a_paused_schedule_starts_nothing_and_one_without_an_active_version_loses_nothing() {
    let table = Table::start().await;
    let id = table.add(&[DAILY, ("enabled", "false")], "2026-05-01T02:00:00Z").await;
    let (tick, now) = (Asked::Tick(at("2026-05-02T02:00:00Z")), "2026-05-02T02:00:01Z");
    for asked in [tick, Asked::Now, Asked::Overdue] {
        let value = table.fire(id, now, asked).await.unwrap();
        assert_eq!(
            (value["skipped"].as_str(), &value["runs"]),
            (Some("the schedule is paused"), &serde_json::json!([]))
        );
    }
    let id = table.add(&[DAILY], "2026-05-01T02:00:00Z").await;
    table.sql("UPDATE workflow_definition SET status = 'deprecated'").await;
    let why = table.fire(id, now, tick).await.unwrap_err();
    assert!(why.contains("no version of the definition tiny is active"), "{why}");
    assert!(table.started(id).await.is_empty());
    table
        .sql("INSERT INTO workflow_definition (name, version, status, definition) VALUES ('tiny', 2, 'active', '{}')")
        .await;
    table.fire(id, "2026-05-02T08:00:00Z", Asked::Overdue).await.unwrap();
    assert_eq!(table.started(id).await, ["05-02T02:00Z"]);
    let version = "SELECT version FROM workflow_run r JOIN workflow_definition d ON d.id = r.definition_id";
    assert_eq!(table.sql(version).await, [["2"]], "with the version that is active now");
}

#[tokio::test]
async fn each_day_of_a_change_of_clocks_has_one_run_in_three_zones() {
    let table = Table::start().await;
    // Cron, zone, the evening before, and every time at which a scheduler might announce the hour.
    let cases = [
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2026-03-28T12:00:00Z",
            ["2026-03-29T01:30:00Z", "2026-03-29T01:30:00Z"],
            "03-29T01:30Z",
        ),
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2026-10-24T12:00:00Z",
            ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"],
            "10-25T00:30Z",
        ),
        (
            "30 2 * * *",
            "America/New_York",
            "2026-03-07T12:00:00Z",
            ["2026-03-08T07:30:00Z", "2026-03-08T07:30:00Z"],
            "03-08T07:30Z",
        ),
        (
            "30 1 * * *",
            "America/New_York",
            "2026-10-31T12:00:00Z",
            ["2026-11-01T05:30:00Z", "2026-11-01T06:30:00Z"],
            "11-01T05:30Z",
        ),
        (
            "15 2 * * *",
            "Australia/Lord_Howe",
            "2026-10-03T06:00:00Z",
            ["2026-10-03T15:45:00Z", "2026-10-03T15:45:00Z"],
            "10-03T15:45Z",
        ),
        (
            "45 1 * * *",
            "Australia/Lord_Howe",
            "2026-04-04T06:00:00Z",
            ["2026-04-04T14:45:00Z", "2026-04-04T15:15:00Z"],
            "04-04T14:45Z",
        ),
    ];
    for (cron, zone, before, announced, started) in cases {
        let day = at(before) + 86_400_000;
        let end = chrono::DateTime::from_timestamp_millis(day).unwrap().to_rfc3339();
        let first = format!("{started}, {zone} {cron}");
        let add = async || table.add(&[("cron", cron), ("zone", zone), ("catch_up", "all")], before).await;
        // Both jobs come, each twice.
        let id = add().await;
        for tick in [announced[0], announced[0], announced[1], announced[1]] {
            table.fire(id, tick, Asked::Tick(at(tick))).await.unwrap();
        }
        table.fire(id, &end, Asked::Overdue).await.unwrap();
        assert_eq!(table.started(id).await, [started], "{first}");
        // Nobody comes on that day; the next day's tick or a look finds it.
        let id = add().await;
        table.fire(id, &end, Asked::Overdue).await.unwrap();
        assert_eq!(table.started(id).await, [started], "{first}");
        let id = add().await;
        let next = floh_worker::cron::Timetable::parse(cron, zone).unwrap().next_after(day).unwrap();
        let now = chrono::DateTime::from_timestamp_millis(next).unwrap().to_rfc3339();
        table.fire(id, &now, Asked::Tick(next)).await.unwrap();
        assert_eq!(table.started(id).await.len(), 2, "{first}");
    }
    // An hourly one follows the real hours: 23 of one day, 25 of the other.
    for (before, after, hours) in
        [("2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z", 23), ("2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z", 25)]
    {
        let id = table.add(&[("cron", "0 * * * *"), ("zone", "Europe/Berlin"), ("catch_up", "all")], before).await;
        table.fire(id, after, Asked::Overdue).await.unwrap();
        assert_eq!(table.started(id).await.len(), hours);
    }
}
