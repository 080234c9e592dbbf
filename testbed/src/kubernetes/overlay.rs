//! What is applied to a cluster: the manifests of `deploy/`, with the cluster's own name and address, and the
//! objects of the story that is verified.

use std::fs;

use anyhow::Result;

use super::cluster::Cluster;

/// The cluster's DNS.
pub(super) const COREDNS: &str = include_str!("../../kubernetes/manifests/coredns.yaml");

/// Files of `deploy/`, by their names there.
macro_rules! deploy {
    ($($name:literal),* $(,)?) => { [$(($name, include_str!(concat!("../../../deploy/", $name)))),*] };
}

/// The files of `deploy/` that its kustomization names, and itself.
const DEPLOY: [(&str, &str); 11] = deploy![
    "kustomization.yaml",
    "manifests/tombolo.yaml",
    "crds/multicluster.x-k8s.io/multicluster.x-k8s.io_serviceexports.yaml",
    "crds/multicluster.x-k8s.io/multicluster.x-k8s.io_serviceimports.yaml",
    "crds/tombolo.dev/tombolo.dev_clustersets.yaml",
    "crds/tombolo.dev/tombolo.dev_peers.yaml",
    "crds/tombolo.dev/tombolo.dev_jointokens.yaml",
    "crds/tombolo.dev/tombolo.dev_exportgrants.yaml",
    "crds/tombolo.dev/tombolo.dev_importpolicies.yaml",
    "crds/tombolo.dev/tombolo.dev_guardrails.yaml",
    "crds/tombolo.dev/tombolo.dev_failoverpolicies.yaml",
];

/// The standard's definition of ServiceImports.
pub(super) const SERVICE_IMPORTS: &str =
    include_str!("../../../deploy/crds/multicluster.x-k8s.io/multicluster.x-k8s.io_serviceimports.yaml");

/// Writes a kustomization that is `deploy/` for this cluster, and returns its folder.
pub(super) fn write(cluster: &Cluster) -> Result<String> {
    let folder = cluster.folder.join("apply");
    for (name, text) in DEPLOY {
        let path = folder.join("deploy").join(name);
        fs::create_dir_all(path.parent().unwrap_or(&folder))?;
        fs::write(path, text)?;
    }
    let (region, _) = cluster.zone.split_once('-').unwrap_or((&cluster.zone, ""));
    let config = format!(
        "cluster = \"{}\"\nlocality = \"{region}/{}\"\n[advertise]\naddresses = [\"{}:30443\"]\n\
         [listen]\ndns = \"0.0.0.0:5533\"\nadmin = \"0.0.0.0:7070\"\n[kubernetes]\nenabled = true\n",
        cluster.name, cluster.zone, cluster.address
    );
    let indented: String = config.lines().map(|line| format!("          {line}\n")).collect();
    let kustomization = format!(
        "resources: [deploy]\npatches:\n  - target: {{kind: ConfigMap, name: tombolo}}\n    patch: |\n      \
         - op: replace\n        path: /data/tombolo.toml\n        value: |\n{indented}"
    );
    fs::write(folder.join("kustomization.yaml"), kustomization)?;
    Ok(folder.to_string_lossy().into_owned())
}

/// The part of the Corefile that sends `clusterset.local` to the gateways.
pub(super) fn corefile(gateways: &str) -> String {
    format!("clusterset.local:53 {{\n    errors\n    forward . {gateways}\n}}\n")
}

/// Pods that answer with their cluster's name, and the Service in front of them.
pub(super) fn server(cluster: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: web, namespace: shop}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - name: web
          image: testbed
          args: [backend, --cluster, {cluster}, --http, '[::]:8080']
          readinessProbe: {{tcpSocket: {{port: 8080}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop}}
spec:
  selector: {{app: web}}
  ports:
    - {{name: http, port: 80, targetPort: 8080}}
"
    )
}

/// The export of that Service.
pub(super) const EXPORT: &str = "apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\nmetadata: {name: web, namespace: shop}\n";

/// A pod to ask from.
pub(super) const CLIENT: &str = "apiVersion: v1
kind: Pod
metadata: {name: client, namespace: default}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - {name: client, image: shell, command: [sleep, infinity]}
";
