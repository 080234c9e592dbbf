//! `testbed status`: what stands, what runs, how the gateways see each other, and how to get at them.

use anyhow::Result;
use serde_json::{Value, json};

use crate::{emulator::control::Request, gateway, ground::ground, process::Role, screen, standing::Standing};

/// Prints it.
pub(crate) fn status(standing: &Standing, as_json: bool) -> Result<()> {
    let members: Vec<Value> = standing
        .members
        .iter()
        .map(|member| {
            let (kind, number) = match member.role {
                Role::Gateway(number) => ("gateway", number),
                Role::Endpoint(number) => ("endpoint", number),
                Role::Wan => ("wan", 1),
            };
            let view = if let Role::Gateway(number) = member.role {
                view(standing, &member.cluster, number)
            } else {
                Value::Null
            };
            json!({ "cluster": member.cluster, "kind": kind, "number": number, "alive": member.alive(),
            "pid": member.identity.map(|identity| identity.pid), "gateway": view, "log": member.log })
        })
        .collect();
    let links = standing.wan().ask(&Request::Status).map(|reply| reply.links).unwrap_or_default();
    let blocks = ground(standing.backend).blocks(standing);
    if as_json {
        let whole = json!({ "schema": "testbed/status/1", "run": standing.run, "backend": standing.backend,
            "complete": standing.complete, "namespaces": standing.namespaces, "members": members, "links": links, "blocks": blocks });
        screen::say(&serde_json::to_string_pretty(&whole)?);
        return Ok(());
    }
    let complete = if standing.complete { "" } else { ", incomplete: `up` did not end\n  try: testbed down" };
    screen::say(&format!("run {} in {}{complete}", standing.run, standing.folder.display()));
    let mut rows = Vec::new();
    for member in &members {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let state = if member["alive"] == false {
            "gone"
        } else if member["gateway"]["ready"] == false {
            "not ready"
        } else {
            "runs"
        };
        let or_dash = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        rows.push(vec![
            or_dash(&member["cluster"]),
            format!("{} {}", text(&member["kind"]), member["number"]),
            text(&member["pid"]),
            state.to_owned(),
            or_dash(&member["gateway"]["dns"]),
            or_dash(&member["gateway"]["peers"]),
        ]);
    }
    screen::say(&screen::table(&["CLUSTER", "PROCESS", "PID", "STATE", "DNS", "PEERS"], &rows));
    for link in &links {
        let (c, shape) = (link.counts, serde_json::to_string(&link.shape)?);
        screen::say(&format!(
            "{} -> {}: offered {} passed {} lost {} cut {}  {shape}",
            link.from, link.to, c.offered, c.passed, c.lost, c.cut
        ));
    }
    for block in &blocks {
        screen::say(&format!("blocked by a router: {block}"));
    }
    for (index, namespace) in standing.namespaces.iter().step_by(2).enumerate() {
        let name = &standing.scenario.clusters[index].name;
        screen::say(&format!("a shell in {name}: ip netns exec {namespace} bash"));
    }
    Ok(())
}

/// How one gateway sees the world.
fn view(standing: &Standing, cluster: &str, number: usize) -> Value {
    let Ok(index) = standing.scenario.cluster(cluster) else { return Value::Null };
    let dns = ground(standing.backend).listens(standing, index, number - 1).dns.to_string();
    let admin = gateway::admin(standing, index, number - 1);
    let ready = admin.as_ref().is_ok_and(|admin| admin.status().is_ok_and(|status| status["ready"] == true));
    let peers = admin.and_then(|admin| admin.peers()).unwrap_or_default();
    let peers: Vec<String> =
        peers.iter().map(|peer| format!("{} {}/{}", peer.cluster, peer.state, peer.link)).collect();
    json!({ "dns": dns, "ready": ready, "peers": peers.join(", ") })
}
