//! Services of both families, and of IPv6 alone. It leaves the clusters as it found them.

use anyhow::{Context as _, Result, ensure};

use super::{
    faults::export,
    kubectl::{Kubectl, SOON, until},
};

/// Services of both families, and of IPv6 alone, of a cluster that has both.
pub(super) fn both_families(from: Kubectl<'_>, west: Kubectl<'_>) -> Result<String> {
    let service = |name: &str, families: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec:\n  {families}\n  selector: {{app: web}}\n  ports: [{{name: http, port: 80, targetPort: 8080}}]\n---\n{}",
            export(name)
        )
    };
    west.apply(&service("both", "ipFamilyPolicy: RequireDualStack\n  ipFamilies: [IPv4, IPv6]"))?;
    west.apply(&service("six", "ipFamilies: [IPv6]"))?;
    for name in ["both", "six"] {
        let url = format!("http://{name}.shop.svc.clusterset.local./");
        let ask = || from.client(&["curl", "-sS", "--max-time", "5", &url]);
        until(SOON, ask, |answer| answer == west.cluster.name)
            .with_context(|| format!("{name} answers not"))?;
        let path = "jsonpath={range .status.conditions[?(@.type==\"tombolo.dev/Carried\")]}{.reason} {.message}{end}";
        let carried = || west.run(&["get", "serviceexport", name, "-n", "shop", "-o", path]);
        until(SOON, carried, |answer| answer.starts_with("NotCarried") && answer.contains("IPv6"))?;
        let path = "jsonpath={.spec.ipFamilies[*]} {.spec.ips[*]}";
        let ips = || from.run(&["get", "serviceimport", name, "-n", "shop", "-o", path]);
        until(SOON, ips, |answer| answer.starts_with("IPv4 10.96."))?;
        let full = format!("{name}.shop.svc.clusterset.local");
        let ask = || from.client(&["dig", "+time=2", "+tries=1", &full, "AAAA"]);
        let (answer, _) = until(SOON, ask, |_| true)?;
        ensure!(answer.contains("NOERROR") && answer.contains("ANSWER: 0"), "{answer}");
    }
    west.run(&[
        "delete",
        "service/both",
        "service/six",
        "serviceexport/both",
        "serviceexport/six",
        "-n",
        "shop",
    ])?;
    Ok("both answer by an IPv4 name, IPv6 endpoints too; no AAAA, and a condition says so".to_owned())
}
