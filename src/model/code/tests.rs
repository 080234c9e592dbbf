//! Laws of the code table: it can be read, it is complete in itself, and it promises nothing that is not there.

use super::{ALL, Code, Problem, reference::RANGES, reference_page};

#[test]
fn numbers_ascend_so_that_none_is_used_twice() {
    assert!(ALL.windows(2).all(|pair| pair[0].code < pair[1].code));
}

#[test]
fn every_code_is_printed_in_exactly_one_range() {
    let page = reference_page();
    for info in ALL {
        assert_eq!(page.matches(&format!("### {}:", info.code)).count(), 1, "{}", info.code);
    }
    assert!(RANGES.windows(2).all(|pair| pair[0].0 < pair[1].0));
}

#[test]
fn every_code_survives_its_text() {
    for info in ALL {
        assert_eq!(Code::parse(&info.code.to_string()), Ok(info.code));
        assert_eq!(info.code.info(), info);
    }
    assert_eq!(Code::parse("tmb-1201"), Ok(Code::TOKEN_EXPIRED));
    assert_eq!(Code::parse("1201"), Ok(Code::TOKEN_EXPIRED));
    for bad in ["", "TMB-", "TMB-1", "TMB-9999", "TMB-12011", "TMB-+201", "ÄÖÜ-1201", "tmb1_abcd"] {
        assert!(Code::parse(bad).is_err(), "{bad:?} was accepted");
    }
}

#[test]
fn every_code_has_a_title_a_cause_and_a_fix_in_their_form() {
    for info in ALL {
        let (title, cause, fix) = (info.title, info.cause, info.fix);
        assert!(!title.is_empty() && title.len() <= 60 && !title.ends_with('.'), "title of {}", info.code);
        assert!(cause.len() > 10 && cause.ends_with('.'), "cause of {}", info.code);
        assert!(fix.len() > 5 && !fix.ends_with('.') && !fix.contains('\n'), "fix of {}", info.code);
    }
}

#[test]
fn advice_names_only_commands_that_exist() {
    const VERBS: &[&str] = &[
        "authz", "ca", "config", "demo", "explain", "export", "join", "k8s", "peer", "peers", "resolve",
        "run", "services", "status", "token", "unexport", "version",
    ];
    for info in ALL {
        for text in [info.fix, info.cause] {
            for quoted in text.split('`').skip(1).step_by(2) {
                let mut words = quoted.split_whitespace();
                if words.next() == Some("tombolo") {
                    let verb = words.next().unwrap_or("");
                    assert!(VERBS.contains(&verb), "{} advises `{quoted}`", info.code);
                }
            }
        }
    }
}

#[test]
fn a_problem_reads_as_code_message_and_advice() {
    let problem = Problem::new(Code::TOKEN_EXPIRED, "token K7QM expired 3 minutes ago");
    assert_eq!(
        problem.to_string(),
        "TMB-1201 token K7QM expired 3 minutes ago\n  try: make a new one there: `tombolo token create`"
    );
    assert_eq!(problem.clone().with_fix("ask east").fix, "ask east");
    let json = serde_json::to_string(&problem).expect("a problem is plain data");
    assert!(json.starts_with(r#"{"code":"TMB-1201","message":"token"#), "{json}");
    assert_eq!(serde_json::from_str::<Problem>(&json).expect("the same again"), problem);
}

#[test]
fn exit_codes_follow_the_kind_of_problem() {
    assert_eq!(Code::FLAG_INVALID.exit_code(), 2);
    assert_eq!(Code::CONFIG_KEY_UNKNOWN.exit_code(), 3);
    assert_eq!(Code::STATE_CORRUPT.exit_code(), 3);
    assert_eq!(Code::JOIN_TIMED_OUT.exit_code(), 4);
    assert_eq!(Code::TOKEN_EXPIRED.exit_code(), 1);
    assert!(ALL.iter().all(|info| info.code.exit_code() != 0));
}
