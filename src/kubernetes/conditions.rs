//! What a ServiceExport is told of itself: the standard's conditions, with the standard's reasons. Pure.

use serde_json::{Value, json};

use super::exporting::Invalid;
use crate::model::{ids::Timestamp, import::Import};

/// Whether all that a Service asks for is done for other clusters too; there only when it is not.
const CARRIED: &str = "tombolo.dev/Carried";

/// One condition without its times.
struct Condition {
    kind: &'static str,
    holds: bool,
    reason: String,
    message: String,
}

/// The conditions of a ServiceExport. `invalid` says why it exports nothing; `import` is what its name is in
/// the whole clusterset; what of the Service is `not_carried` has a condition beside those of the standard. A
/// condition that says what it said keeps its time.
pub(super) fn of_export(
    invalid: Option<&Invalid>,
    import: Option<&Import>,
    not_carried: &[String],
    generation: i64,
    known: &[Value],
    now: Timestamp,
) -> Vec<Value> {
    let mut conditions = match invalid {
        Some(invalid) => vec![refused(invalid), ready(false), no_conflict()],
        None => vec![
            Condition {
                kind: "Valid",
                holds: true,
                reason: "Valid".to_owned(),
                message: "the Service can be exported".to_owned(),
            },
            ready(import.is_some()),
            import.map_or_else(no_conflict, conflict),
        ],
    };
    if invalid.is_none() && !not_carried.is_empty() {
        conditions.push(Condition {
            kind: CARRIED,
            holds: false,
            reason: "NotCarried".to_owned(),
            message: format!("other clusters do without: {}", not_carried.join(", ")),
        });
    }
    conditions.iter().map(|condition| dated(condition, generation, known, now)).collect()
}

fn refused(invalid: &Invalid) -> Condition {
    let (reason, message) = match invalid {
        Invalid::NoService => ("NoService", "there is no Service of this name".to_owned()),
        Invalid::ServiceType => {
            ("InvalidServiceType", "a Service of type ExternalName cannot be exported".to_owned())
        }
        Invalid::Refused(reason) => ("NotAllowed", reason.to_string()),
        Invalid::Name(error) => ("NotAllowed", error.clone()),
    };
    Condition { kind: "Valid", holds: false, reason: reason.to_owned(), message }
}

fn ready(exported: bool) -> Condition {
    let (reason, message) = if exported {
        ("Exported", "the Service is offered to the clusterset")
    } else {
        ("Pending", "the Service is not offered")
    };
    Condition { kind: "Ready", holds: exported, reason: reason.to_owned(), message: message.to_owned() }
}

fn no_conflict() -> Condition {
    let (reason, message) = ("NoConflicts".to_owned(), "all exports of this name agree".to_owned());
    Condition { kind: "Conflict", holds: false, reason, message }
}

fn conflict(import: &Import) -> Condition {
    if import.conflicts.is_empty() {
        return no_conflict();
    }
    let messages: Vec<&str> = import.conflicts.iter().map(|conflict| conflict.message.as_str()).collect();
    Condition {
        kind: "Conflict",
        holds: true,
        reason: import.conflict_reason(),
        message: messages.join("; "),
    }
}

fn dated(condition: &Condition, generation: i64, known: &[Value], now: Timestamp) -> Value {
    let status = if condition.holds { "True" } else { "False" };
    let before = known.iter().find(|value| value["type"] == condition.kind);
    let since = before
        .filter(|before| before["status"] == status)
        .and_then(|before| before["lastTransitionTime"].as_str())
        .map_or_else(|| time(now), str::to_owned);
    json!({
        "type": condition.kind,
        "status": status,
        "reason": condition.reason,
        "message": condition.message,
        "observedGeneration": generation,
        "lastTransitionTime": since,
    })
}

/// What of an export's conditions a person should hear of: whether it is good, the reason and the message.
pub(super) fn news<'a>(old: &[Value], new: &'a [Value]) -> Vec<(bool, &'a str, &'a str)> {
    let text = |value: &'a Value| value.as_str().unwrap_or_default();
    let mut told = Vec::new();
    for condition in new {
        let same = |old: &&Value| ["type", "status", "reason"].iter().all(|key| old[key] == condition[key]);
        let holds = condition["status"] == "True";
        let (bad, good) = match condition["type"].as_str() {
            Some("Valid" | CARRIED) => (!holds, false),
            Some("Conflict") => (holds, false),
            Some("Ready") => (false, holds),
            _ => (false, false),
        };
        if (bad || good) && !old.iter().any(|old| same(&old)) {
            told.push((good, text(&condition["reason"]), text(&condition["message"])));
        }
    }
    told
}

/// A moment as the API server writes it.
pub(super) fn time(at: Timestamp) -> String {
    let seconds = i64::try_from(at.0 / 1_000).unwrap_or(i64::MAX);
    k8s_openapi::jiff::Timestamp::from_second(seconds).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_an_export_is_told_once() {
        let wrong = of_export(Some(&Invalid::NoService), None, &[], 1, &[], Timestamp(1_000_000));
        let told = news(&[], &wrong);
        assert_eq!(told.iter().map(|it| (it.0, it.1)).collect::<Vec<_>>(), [(false, "NoService")]);
        assert!(news(&wrong, &wrong).is_empty());
        let mended = of_export(None, None, &[], 1, &wrong, Timestamp(9_000_000));
        assert!(news(&wrong, &mended).is_empty(), "it is not offered yet");
    }

    #[test]
    fn what_is_not_carried_is_told_and_an_event_says_it() {
        let lacks = ["port 53/UDP".to_owned(), "sessionAffinity ClientIP".to_owned()];
        let all = of_export(None, None, &lacks, 1, &[], Timestamp(1_000_000));
        let told = all.iter().find(|it| it["type"] == CARRIED).expect("a condition");
        assert_eq!((told["status"].as_str(), told["reason"].as_str()), (Some("False"), Some("NotCarried")));
        assert!(told["message"].as_str().is_some_and(|text| text.contains("port 53/UDP, sessionAffinity")));
        assert!(news(&[], &all).iter().any(|(good, reason, _)| !good && *reason == "NotCarried"));
        let none = of_export(None, None, &[], 1, &all, Timestamp(1_000_000));
        assert!(none.iter().all(|it| it["type"] != CARRIED));
    }

    #[test]
    fn a_condition_that_stays_keeps_its_time() {
        let first = of_export(Some(&Invalid::NoService), None, &[], 1, &[], Timestamp(1_000_000));
        let (valid, again) =
            (&first[0], of_export(Some(&Invalid::NoService), None, &[], 1, &first, Timestamp(9_000_000)));
        assert_eq!((valid["status"].as_str(), valid["reason"].as_str()), (Some("False"), Some("NoService")));
        assert_eq!(valid["lastTransitionTime"], "1970-01-01T00:16:40Z");
        assert_eq!(first, again);
        let mended = of_export(None, None, &[], 1, &first, Timestamp(9_000_000));
        assert_eq!(mended[0]["lastTransitionTime"], "1970-01-01T02:30:00Z");
        assert_eq!(mended[1]["lastTransitionTime"], valid["lastTransitionTime"], "not ready before or after");
    }
}
