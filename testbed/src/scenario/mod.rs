//! The scenario file: clusters, link, load, steps, assertions. One format for every backend. Parsing only;
//! nothing here starts anything.

mod assertion;

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

pub(crate) use assertion::Assertion;

use crate::{emulator::link::Shape, fault::Fault, load::Kind, quantity::Span};

/// The most clusters of one testbed: their numbers are part of addresses.
pub(crate) const CLUSTERS: usize = 32;
/// The most gateways or endpoints of one cluster.
pub(crate) const MEMBERS: usize = 16;
/// The shortest time after which a step comes again.
const SOONEST: Span = Span::from_millis(100);
/// The most repetitions.
const REPETITIONS: usize = 1_000;
/// Names given to clusters by `up N`, in this order; more are `c5`, `c6`.
const NAMES: [&str; 4] = ["east", "west", "north", "south"];

/// A scenario, complete.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// What it is called.
    #[serde(default)]
    pub(crate) name: String,
    /// Seed of everything random.
    #[serde(default = "one")]
    pub(crate) seed: u64,
    /// How often the steps are repeated.
    #[serde(default = "reps")]
    pub(crate) reps: usize,
    /// The shape of every link, each direction.
    #[serde(default)]
    pub(crate) link: Shape,
    /// The load; the client sits in `from`.
    #[serde(default)]
    pub(crate) load: Load,
    /// Clusters in the order in which the client's gateways are to use them; empty: as they choose.
    #[serde(default)]
    pub(crate) order: Vec<String>,
    /// What must hold at the end.
    #[serde(default)]
    pub(crate) assertions: Vec<Assertion>,
    /// What its steps do cannot be undone: it is done once, and nothing is restored after it.
    #[serde(default)]
    pub(crate) once: bool,
    /// The clusters.
    pub(crate) clusters: Vec<Cluster>,
    /// What happens when, counted from the first request.
    #[serde(default)]
    pub(crate) steps: Vec<Step>,
}

/// One cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cluster {
    /// Its id.
    pub(crate) name: String,
    /// Gateways it has.
    #[serde(default = "one_member")]
    pub(crate) gateways: usize,
    /// Endpoints of the sample service; with none it does not export it.
    #[serde(default = "one_member")]
    pub(crate) endpoints: usize,
    /// What its endpoints do wrong, as `drop:100`.
    #[serde(default)]
    pub(crate) defects: Vec<String>,
    /// More of its gateways' config file: keys of the top first, then tables that the testbed does not write.
    #[serde(default)]
    pub(crate) config: String,
    /// Whether its export says that a request may be delivered twice.
    #[serde(default = "yes")]
    pub(crate) idempotent: bool,
    /// How long what is open may go on when a gateway is to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) drain: Option<Span>,
}

/// The load of a scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Load {
    /// What a request is.
    pub(crate) kind: Kind,
    /// The client's cluster; empty means the first.
    pub(crate) from: String,
    /// Requests per second.
    pub(crate) rps: f64,
    /// Connections opened before the first request.
    pub(crate) connections: usize,
    /// How long requests are started.
    pub(crate) duration: Span,
    /// When a request is given up.
    pub(crate) deadline: Span,
    /// When an answer is late.
    pub(crate) late: Span,
    /// Size of a bulk body.
    pub(crate) bulk_bytes: u64,
    /// Long TCP streams beside the requests.
    pub(crate) streams: usize,
    /// Bulk bodies fetched beside the requests, so many at a time.
    pub(crate) downloads: usize,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            kind: Kind::HttpKeepalive,
            from: String::new(),
            rps: 500.0,
            connections: 50,
            duration: Span::from_millis(8_000),
            deadline: Span::from_millis(10_000),
            late: Span::from_millis(1_000),
            bulk_bytes: 10_000_000,
            streams: 0,
            downloads: 0,
        }
    }
}

/// A fault at a time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Step {
    /// Counted from the first request.
    pub(crate) at: Span,
    /// Again after each such span, until the load ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) every: Option<Span>,
    /// What happens.
    #[serde(flatten)]
    pub(crate) fault: Fault,
}

impl Step {
    /// When it happens, in a load of that length.
    fn times(&self, duration: Span) -> Vec<Span> {
        let Some(every) = self.every else { return vec![self.at] };
        let times = std::iter::successors(Some(self.at), |at| Some(Span(at.0 + every.0)));
        times.take_while(|at| *at <= duration).collect()
    }
}

/// Everything that happens in a load of that length, in its order.
pub(crate) fn schedule(steps: &[Step], duration: Span) -> Vec<(Span, &Fault)> {
    let mut all: Vec<(Span, &Fault)> =
        steps.iter().flat_map(|step| step.times(duration).into_iter().map(|at| (at, &step.fault))).collect();
    all.sort_by_key(|(at, _)| *at);
    all
}

const fn yes() -> bool {
    true
}

const fn one() -> u64 {
    1
}

const fn one_member() -> usize {
    1
}

const fn reps() -> usize {
    3
}

impl Scenario {
    /// The scenario of `up N --gateways K`: every cluster but the first exports the sample service, and the
    /// client's uses them in that order.
    pub(crate) fn plain(clusters: usize, gateways: usize) -> Result<Self> {
        let clusters = (0..clusters).map(|index| Cluster {
            name: NAMES.get(index).map_or_else(|| format!("c{}", index + 1), |name| (*name).to_owned()),
            gateways,
            endpoints: usize::from(index > 0) * 2,
            defects: Vec::new(),
            config: String::new(),
            idempotent: true,
            drain: None,
        });
        let clusters: Vec<Cluster> = clusters.collect();
        let scenario = Self {
            name: "plain".to_owned(),
            seed: 1,
            reps: reps(),
            link: Shape::default(),
            load: Load::default(),
            order: clusters.iter().skip(1).map(|cluster| cluster.name.clone()).collect(),
            assertions: Vec::new(),
            once: false,
            clusters,
            steps: Vec::new(),
        };
        scenario.check()?;
        Ok(scenario)
    }

    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("the scenario file {} cannot be read", path.display()))?;
        Self::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    /// Parses and checks.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let scenario: Self = toml::from_str(text).map_err(|error| {
            let hint =
                did_you_mean(error.message()).map_or_else(String::new, |hint| format!("\n  try: {hint}"));
            anyhow::anyhow!("{error}{hint}")
        })?;
        scenario.check()?;
        Ok(scenario)
    }

    fn check(&self) -> Result<()> {
        let count = self.clusters.len();
        ensure!((1..=CLUSTERS).contains(&count), "a testbed has 1 to {CLUSTERS} clusters, not {count}");
        ensure!((1..=REPETITIONS).contains(&self.reps), "reps is 1 to {REPETITIONS}, not {}", self.reps);
        ensure!(!self.once || self.reps == 1, "what is done once has reps = 1, not {}", self.reps);
        for (index, cluster) in self.clusters.iter().enumerate() {
            let name = &cluster.name;
            let fits = !name.is_empty()
                && name.len() <= 32
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            ensure!(fits, "`{name}` is no cluster name: lower-case letters, digits and -, at most 32");
            ensure!(name != "wan", "`wan` names what is between the clusters, and can be none of them");
            ensure!(
                !self.clusters[..index].iter().any(|other| other.name == *name),
                "two clusters are `{name}`"
            );
            let (gateways, endpoints) = (cluster.gateways, cluster.endpoints);
            ensure!(
                (1..=MEMBERS).contains(&gateways),
                "`{name}` has 1 to {MEMBERS} gateways, not {gateways}"
            );
            ensure!(endpoints <= MEMBERS, "`{name}` has at most {MEMBERS} endpoints, not {endpoints}");
            for defect in &cluster.defects {
                defect.parse::<crate::server::Defect>().map_err(anyhow::Error::msg)?;
            }
        }
        self.client()?;
        for name in &self.order {
            self.cluster(name)?;
        }
        for step in &self.steps {
            step.fault.check(self)?;
            let often = step.every.is_some_and(|every| every < SOONEST);
            ensure!(!often, "a step comes again after {SOONEST} at the soonest");
            ensure!(step.at <= self.load.duration, "a step at {} is after the load has ended", step.at);
        }
        Ok(())
    }

    /// Index of a cluster.
    pub(crate) fn cluster(&self, name: &str) -> Result<usize> {
        if let Some(index) = self.clusters.iter().position(|cluster| cluster.name == name) {
            return Ok(index);
        }
        let names: Vec<&str> = self.clusters.iter().map(|cluster| cluster.name.as_str()).collect();
        match closest(name, &names) {
            Some(near) => bail!("no cluster is called `{name}`; did you mean `{near}`?"),
            None => bail!("no cluster is called `{name}`; there are {}", names.join(", ")),
        }
    }

    /// Index of the cluster the client sits in.
    pub(crate) fn client(&self) -> Result<usize> {
        if self.load.from.is_empty() { Ok(0) } else { self.cluster(&self.load.from) }
    }
}

/// The closest of some names, if it is close enough for a typing error.
pub(crate) fn closest<'a>(word: &str, names: &[&'a str]) -> Option<&'a str> {
    let scored = names.iter().map(|name| (strsim::damerau_levenshtein(word, name), *name));
    scored.min().filter(|(distance, _)| *distance <= 1 + word.len() / 4).map(|(_, name)| name)
}

/// Reads serde's "unknown field `x`, expected one of `a`, `b`" and names the closest.
fn did_you_mean(message: &str) -> Option<String> {
    let (before, expected) = message.split_once("expected")?;
    let word = before.split('`').nth(1)?;
    let names: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
    closest(word, &names).map(|near| format!("did you mean `{near}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
        assertions = ["gap_p99<1s", "failed==0"]
        steps = [{ at = "2s", fault = "kill", target = "west/1" }]
        [link]
        delay = "20ms"
        [[clusters]]
        name = "east"
        [[clusters]]
        name = "west"
        gateways = 2
    "#;

    #[test]
    fn a_scenario_reads_back_what_it_writes() {
        let scenario = Scenario::parse(SMALL).unwrap();
        assert_eq!(scenario.clusters[1].gateways, 2);
        assert_eq!(Scenario::parse(&toml::to_string(&scenario).unwrap()).unwrap(), scenario);
    }

    #[test]
    fn a_typing_error_is_named_with_the_word_that_was_meant() {
        let error = Scenario::parse(&SMALL.replace("gateways", "gatways")).unwrap_err().to_string();
        assert!(error.contains("did you mean `gateways`?"), "{error}");
        let error = Scenario::parse(&SMALL.replace("west/1", "wets/1")).unwrap_err().to_string();
        assert!(error.contains("did you mean `west`?"), "{error}");
    }

    #[test]
    fn impossible_scenarios_are_refused_with_the_reason() {
        for (from, to, why) in [
            ("gateways = 2", "gateways = 99", "1 to 16"),
            ("\"2s\"", "\"20s\"", "after the load has ended"),
            ("name = \"west\"", "name = \"east\"", "two clusters"),
            ("west/1", "west/7", "no gateway"),
            ("gap_p99<1s", "gap_p98<1s", "gap_p99"),
        ] {
            let error = format!("{:#}", Scenario::parse(&SMALL.replace(from, to)).unwrap_err());
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_step_comes_again_until_the_load_ends_and_all_keep_their_order() {
        let every =
            r#"{ at = "1s", every = "3s", fault = "partition", from = "east", to = "west", for = "1s" }, "#;
        let scenario = Scenario::parse(&SMALL.replace("[{ at", &format!("[{every}{{ at"))).unwrap();
        let times = schedule(&scenario.steps, scenario.load.duration);
        let times: Vec<String> = times.iter().map(|(at, fault)| format!("{at} {fault}")).collect();
        let cut = "partition east <-> west";
        assert_eq!(
            times,
            [format!("1s {cut}"), "2s kill west/1".to_owned(), format!("4s {cut}"), format!("7s {cut}")]
        );
        assert_eq!(Scenario::parse(&toml::to_string(&scenario).unwrap()).unwrap(), scenario);
    }

    #[test]
    fn the_steps_of_the_manual_are_valid() {
        let manual =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/testbed.md")).unwrap();
        let steps = manual.split("```").find(|block| block.trim_start().starts_with("steps = [")).unwrap();
        let scenario = Scenario::parse(&SMALL.replace(SMALL.lines().nth(2).unwrap(), steps)).unwrap();
        assert_eq!(scenario.steps.len(), 7);
    }

    #[test]
    fn the_shipped_scenarios_are_valid() {
        for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios")).unwrap() {
            Scenario::read(&entry.unwrap().path()).unwrap();
        }
    }
}
