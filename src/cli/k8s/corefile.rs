//! The part of a Corefile that sends names of the clusterset to the gateways: put in and taken out again
//! without touching anything else.

const BEGIN: &str = "# tombolo: names of the clusterset; taken out by `tombolo k8s uninstall`";
const END: &str = "# tombolo: end";

/// The Corefile with the stub, and once only; what was there of it before goes. None where somebody has a block of
/// their own for the zone: with two of them CoreDNS does not start.
pub(super) fn with_stub(corefile: &str, zone: &str, gateways: &str) -> Option<String> {
    let rest = without_stub(corefile);
    if rest.lines().any(|line| begins_block(line, zone)) {
        return None;
    }
    Some(format!("{BEGIN}\n{zone}:53 {{\n    errors\n    forward . {gateways}\n}}\n{END}\n{rest}"))
}

/// Whether a block of the zone begins there, perhaps of others too, or with a port or a scheme.
fn begins_block(line: &str, zone: &str) -> bool {
    let Some((keys, "")) = line.split('#').next().unwrap_or_default().trim_end().rsplit_once('{') else {
        return false;
    };
    keys.split([' ', '\t', ',']).any(|key| {
        let key = key.rsplit_once("//").map_or(key, |(_, key)| key);
        let name = key.split_once(':').map_or(key, |(name, _)| name);
        name.strip_suffix('.').unwrap_or(name) == zone
    })
}

/// The Corefile as it was.
pub(super) fn without_stub(corefile: &str) -> String {
    let Some(begin) = corefile.find(BEGIN) else { return corefile.to_owned() };
    let after = corefile[begin..].find(END).map(|end| begin + end + END.len());
    // Without its end it was edited: what stands there is somebody's, and only our line goes.
    let after = after.unwrap_or(begin + BEGIN.len());
    let rest = corefile[after..].strip_prefix('\n').unwrap_or_else(|| &corefile[after..]);
    format!("{}{rest}", &corefile[..begin])
}

/// Whether names of the zone are sent to the gateways, by our stub or by anybody's.
pub(super) fn asks(corefile: &str, zone: &str, gateways: &str) -> bool {
    let block = corefile.split_once(&format!("{zone}:53")).or_else(|| corefile.split_once(zone));
    let body = block.and_then(|(_, rest)| rest.split_once('}')).map(|(body, _)| body);
    body.is_some_and(|body| body.split_whitespace().any(|word| word == gateways))
}

/// Whether CoreDNS reads a changed Corefile by itself.
pub(super) fn reloads(corefile: &str) -> bool {
    corefile.lines().any(|line| line.split_whitespace().next() == Some("reload"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COREFILE: &str = ".:53 {\n    errors\n    kubernetes cluster.local\n    reload\n}\n";

    fn stub(corefile: &str, gateways: &str) -> String {
        with_stub(corefile, "clusterset.local", gateways).expect("nobody else's block")
    }

    #[test]
    fn a_block_of_somebodys_own_gets_no_second_one() {
        for keys in [
            "clusterset.local:53",
            "clusterset.local.",
            "a.b, dns://clusterset.local:53",
            "\tclusterset.local",
        ] {
            let theirs = format!("{keys} {{ # ours\n    forward . 10.96.0.7\n}}\n{COREFILE}");
            assert_eq!(with_stub(&theirs, "clusterset.local", "10.96.0.8"), None, "{keys}");
        }
        for others in [
            "# clusterset.local {",
            "xclusterset.local:53 {\n}",
            ".:53 {\n    rewrite name clusterset.local x\n}",
        ] {
            let theirs = format!("{others}\n{COREFILE}");
            assert!(with_stub(&theirs, "clusterset.local", "10.96.0.8").is_some(), "{others}");
        }
    }

    #[test]
    fn a_stub_goes_in_once_and_comes_out_without_a_trace() {
        let once = stub(COREFILE, "10.96.0.7");
        assert!(once.ends_with(COREFILE));
        assert!(asks(&once, "clusterset.local", "10.96.0.7"));
        assert!(
            !asks(&once, "clusterset.local", "10.96.0.8") && !asks(COREFILE, "clusterset.local", "10.96.0.7")
        );
        let moved = stub(&once, "10.96.0.8");
        assert_eq!(moved.matches("forward").count(), 1);
        assert_eq!(without_stub(&moved), COREFILE);
        assert_eq!(without_stub(COREFILE), COREFILE);
        assert!(reloads(COREFILE) && !reloads(".:53 {\n}\n"));
    }

    #[test]
    fn what_others_put_around_the_stub_stays() {
        let with = stub(COREFILE, "10.96.0.7");
        let theirs = format!("example.org:53 {{\n}}\n{with}");
        assert_eq!(without_stub(&theirs), format!("example.org:53 {{\n}}\n{COREFILE}"));
        let torn = with.replace(END, "");
        assert!(without_stub(&torn).contains("clusterset.local:53"));
    }
}
