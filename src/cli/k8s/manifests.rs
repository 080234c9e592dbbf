//! What is applied to a cluster: the files of `deploy/` as objects, with the settings that were asked for.

use serde_json::Value;

use super::args::SettingArgs;
use crate::{
    kubernetes::resources::definition_files,
    model::code::{Code, Problem},
};

/// Where the gateway lives.
pub(super) const NAMESPACE: &str = "tombolo-system";

/// The standard's definitions.
const STANDARD: [&str; 2] = [
    include_str!("../../../deploy/crds/multicluster.x-k8s.io/multicluster.x-k8s.io_serviceexports.yaml"),
    include_str!("../../../deploy/crds/multicluster.x-k8s.io/multicluster.x-k8s.io_serviceimports.yaml"),
];

/// The gateway and its rights.
const GATEWAY: &str = include_str!("../../../deploy/manifests/tombolo.yaml");

/// The definitions of custom resources.
pub(super) fn definitions() -> Vec<Value> {
    let own = definition_files();
    STANDARD.iter().copied().chain(own.iter().map(|(_, text)| text.as_str())).flat_map(objects).collect()
}

/// The gateway and its rights, as they are in `deploy/`.
pub(super) fn gateway() -> Vec<Value> {
    objects(GATEWAY)
}

fn objects(text: &str) -> Vec<Value> {
    let documents = text.split("\n---\n").filter(|document| {
        document.lines().any(|line| !line.trim().is_empty() && !line.starts_with(['#', '-']))
    });
    documents.map(|document| serde_saphyr::from_str(document).expect("our own manifests are YAML")).collect()
}

/// The gateway with its settings. `installed` is the config that stands there now: what is not asked for anew
/// stays.
///
/// # Errors
/// [`Code::FLAG_INVALID`] without a cluster id, asked for or installed.
pub(super) fn configured(setting: &SettingArgs, installed: Option<&str>) -> Result<Vec<Value>, Problem> {
    let mut all = gateway();
    for object in &mut all {
        match object["kind"].as_str() {
            Some("ConfigMap") => {
                object["data"]["tombolo.toml"] = config(object, setting, installed)?.into();
            }
            Some("StatefulSet") => {
                object["spec"]["template"]["spec"]["containers"][0]["image"] = setting.image.clone().into();
            }
            _ => {}
        }
    }
    Ok(all)
}

/// The config file's text.
fn config(shipped: &Value, setting: &SettingArgs, installed: Option<&str>) -> Result<String, Problem> {
    let wrong = |error: toml::de::Error| {
        Problem::new(Code::CONFIG_VALUE_INVALID, format!("the ConfigMap tombolo holds no TOML: {error}"))
    };
    let shipped = shipped["data"]["tombolo.toml"].as_str().unwrap_or_default();
    let mut table: toml::Table = installed.unwrap_or(shipped).parse().map_err(wrong)?;
    match (&setting.cluster, installed) {
        (Some(cluster), _) => drop(table.insert("cluster".to_owned(), cluster.as_str().into())),
        (None, Some(_)) => {}
        (None, None) => {
            let text = "the cluster needs an id in the clusterset";
            return Err(
                Problem::new(Code::FLAG_INVALID, text).with_fix("--cluster NAME, as in `--cluster east`")
            );
        }
    }
    if let Some(locality) = &setting.locality {
        table.insert("locality".to_owned(), locality.to_string().into());
    }
    if !setting.advertise.is_empty() {
        let addresses: toml::Table =
            [("addresses".to_owned(), toml::Value::from(setting.advertise.clone()))].into_iter().collect();
        table.insert("advertise".to_owned(), addresses.into());
    }
    Ok(table.to_string())
}

/// All of them as one text for `kubectl apply`.
///
/// # Errors
/// [`Code::REQUEST_INVALID`], which would be a mistake of ours.
pub(super) fn text(objects: &[Value]) -> Result<String, Problem> {
    let mut documents = Vec::new();
    for object in objects {
        let text = serde_saphyr::to_string(object).map_err(|error| {
            Problem::new(Code::REQUEST_INVALID, format!("an object cannot be written as YAML: {error}"))
        })?;
        documents.push(text);
    }
    Ok(documents.join("---\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, FileText, Overrides};

    fn setting(cluster: Option<&str>) -> SettingArgs {
        SettingArgs {
            cluster: cluster.map(|id| crate::model::ids::ClusterId::parse(id).expect("an id")),
            advertise: vec!["203.0.113.7:30443".to_owned()],
            image: "registry.example/tombolo:1".to_owned(),
            ..SettingArgs::default()
        }
    }

    fn config_of(objects: &[Value]) -> String {
        let map = objects.iter().find(|object| object["kind"] == "ConfigMap").expect("a ConfigMap");
        map["data"]["tombolo.toml"].as_str().expect("a text").to_owned()
    }

    #[test]
    fn what_is_printed_is_deploy_with_the_settings() {
        assert!(configured(&setting(None), None).is_err(), "a cluster has an id");
        let all = configured(&setting(Some("east")), None).expect("objects");
        assert_eq!(all.len(), gateway().len());
        let text = config_of(&all);
        let file = FileText { path: "tombolo.toml", text: &text };
        let config = Config::load(Some(file), [], &Overrides::default()).expect("a config");
        assert_eq!(config.advertise.addresses, ["203.0.113.7:30443"]);
        assert!(config.kubernetes.enabled);
        let again = configured(&SettingArgs { advertise: Vec::new(), ..setting(None) }, Some(&text));
        assert_eq!(config_of(&again.expect("objects")), text, "what is not asked for stays");
        let back: Vec<Value> = objects(&super::text(&all).expect("YAML"));
        assert_eq!(back, all);
    }

    #[test]
    fn all_definitions_are_there() {
        let kinds: Vec<String> = definitions()
            .iter()
            .filter_map(|it| it["spec"]["names"]["kind"].as_str().map(str::to_owned))
            .collect();
        assert_eq!(kinds.len(), 9);
        assert!(kinds.contains(&"ServiceExport".to_owned()) && kinds.contains(&"Peer".to_owned()));
    }
}
