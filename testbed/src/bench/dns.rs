//! Names: an importing gateway and CoreDNS, each with the same 10,000 names, asked the same questions. CoreDNS has
//! them in its `hosts` plugin, the quickest of those that hold names, without a log; it is as Kubernetes has it,
//! built from the same module.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
};

use anyhow::{Context as _, Result};

use super::{
    Bench, PATIENCE, gauge,
    pair::{Gateways, free_ports},
    questions::{self, Question},
    table::{self, COREDNS, Samples, TOMBOLO, work},
    tombolo, wanted,
};
use crate::interrupt;

/// Services with a name.
const SERVICES: usize = 10_000;
/// The time to live of answers, in seconds: Tombolo's default.
const TTL: u32 = 5;

/// A server of names.
struct Names {
    /// Its processes.
    gateways: Gateways,
    /// The process that answers.
    pid: i32,
    server: SocketAddr,
    questions: Vec<Question>,
}

impl Bench {
    /// Asks both, once.
    pub(super) fn repeat_dns(&self, repetition: usize, samples: &mut Samples) -> Result<()> {
        if !self.args.dns || !self.args.does(work::DNS) {
            return Ok(());
        }
        let mut order = vec![TOMBOLO, COREDNS];
        order.retain(|name| wanted(&self.args, name));
        let turn = repetition % order.len().max(1);
        order.rotate_left(turn);
        let mut servers = Vec::new();
        for name in order {
            interrupt::check()?;
            let folder = self.folder.join(format!("{repetition}-dns-{name}"));
            fs::create_dir_all(&folder)?;
            let names = if name == TOMBOLO { self.imported(&folder) } else { self.coredns(&folder) };
            servers.push((name, names.with_context(|| name.to_owned())?));
        }
        for (name, names) in &servers {
            interrupt::check()?;
            let spent = || gauge::processor_seconds(names.pid);
            let seen = questions::closed_loop(names.server, &names.questions, self.amount.span, spent)?;
            let rate = seen.requests as f64 / seen.span.as_secs_f64();
            let cost = seen.cost / seen.requests as f64 * 1e5;
            samples.add(work::DNS, table::RATE, name, rate);
            samples.add(work::DNS, table::COST, name, cost);
            samples.add(work::DNS, table::P99, name, seen.p99.as_secs_f64() * 1e3);
            let memory = gauge::resident_kib(names.pid)? / 1024.0;
            samples.add(work::DNS, table::RSS, name, memory);
            self.note(&format!("{}: {name} {rate:.0}/s, {cost:.2} CPU s/100k, {memory:.0} MiB", work::DNS));
        }
        Ok(())
    }

    /// A gateway that has imported all of them from another one.
    fn imported(&self, folder: &Path) -> Result<Names> {
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        let exports: Vec<_> = (0..SERVICES).map(|number| (service(number), nowhere)).collect();
        let wanted =
            tombolo::Wanted { binary: &self.binary, congestion: None, limits: "", exports: &exports };
        let joined = tombolo::start(&self.site, wanted, folder, &self.run)?;
        let names = joined.names(SERVICES)?.into_iter();
        let questions = names.map(|(name, address)| Question::new(&name, address)).collect::<Result<_>>()?;
        let (server, pid) = (joined.dns(), joined.near());
        stands(Names { gateways: joined.gateways, pid, server, questions })
    }

    /// CoreDNS with a file of them.
    fn coredns(&self, folder: &Path) -> Result<Names> {
        let [port] = free_ports()?;
        let mut hosts = String::new();
        let mut questions = Vec::new();
        for number in 0..SERVICES {
            let name = format!("{}.default.svc.clusterset.local", service(number));
            let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 244, 64, 0)) + u32::try_from(number)?);
            hosts.push_str(&format!("{address} {name}\n"));
            questions.push(Question::new(&name, address.into())?);
        }
        let (names, config) = (folder.join("hosts"), folder.join("Corefile"));
        fs::write(&names, hosts)?;
        let plugin = format!("hosts {} {{\n    ttl {TTL}\n    no_reverse\n  }}", names.display());
        fs::write(&config, format!(".:{port} {{\n  bind 127.0.0.1\n  {plugin}\n}}\n"))?;
        let mut command = self.programs[COREDNS].words.clone();
        command.extend(["-conf".to_owned(), config.to_string_lossy().into_owned()]);
        let mut gateways = Gateways::default();
        let pid = gateways.start(&self.site.near, command, folder, &self.run)?.pid;
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        stands(Names { gateways, pid, server, questions })
    }
}

/// Waits until the first and the last name are answered.
fn stands(names: Names) -> Result<Names> {
    for question in names.questions.first().into_iter().chain(names.questions.last()) {
        let answered = questions::wait_answer(names.server, question, PATIENCE);
        answered.with_context(|| names.gateways.last_words())?;
    }
    Ok(names)
}

fn service(number: usize) -> String {
    format!("service-{number:05}")
}
