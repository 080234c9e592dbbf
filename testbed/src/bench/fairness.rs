//! Somebody misbehaves on one service while another one is used: is that one hurt by more than the processor
//! time that the attack takes from everybody? So each attack has a control, in which as much time as the attackers
//! and their server spent is burnt beside the same gateways, without a word to them.

use std::{fs, net::SocketAddr, time::Instant};

use anyhow::{Context as _, Result};

use super::{
    Bench, PATIENCE, SETTLE,
    apart::Apart,
    load, open,
    table::{self, CONTROL, Samples, TOMBOLO, work},
    tombolo, wanted,
};
use crate::interrupt;

/// The service that is attacked, and the other one.
const ATTACKED: &str = "attacked";
const OTHER: &str = "other";

/// An attack and the part that does it.
const ATTACKS: [(&str, &[&str]); 3] =
    [(work::SLOW, &["slow", "1"]), (work::MANY_SLOW, &["slow", "64"]), (work::FLOOD, &["flood", "64"])];

impl Bench {
    /// A pair of each attack, once: beside it, then beside its control.
    pub(super) fn repeat_fairness(&self, repetition: usize, samples: &mut Samples) -> Result<()> {
        if !self.args.fairness || !wanted(&self.args, TOMBOLO) {
            return Ok(());
        }
        for (name, words) in ATTACKS.into_iter().filter(|(name, _)| self.args.does(name)) {
            interrupt::check()?;
            self.attack((name, words), repetition, samples).context(name)?;
        }
        Ok(())
    }

    fn attack(
        &self,
        (name, words): (&'static str, &[&str]),
        repetition: usize,
        samples: &mut Samples,
    ) -> Result<()> {
        let mut server = Apart::start(&["serve"])?;
        let attacked: SocketAddr = server.hear()?.parse().context("a server without an address")?;
        let folder = self.folder.join(format!("{repetition}-{}", words.join("-")));
        fs::create_dir_all(&folder)?;
        let exports = [(ATTACKED.to_owned(), attacked), (OTHER.to_owned(), self.server)];
        // With the limits that people have.
        let wanted =
            tombolo::Wanted { binary: &self.binary, congestion: None, limits: "", exports: &exports };
        let joined = tombolo::start(&self.site, wanted, &folder, &self.run)?;
        let (target, other) = (joined.target(ATTACKED)?, joined.target(OTHER)?);
        for target in [target, other] {
            load::wait_through(target, PATIENCE)?;
        }
        let target = target.to_string();
        let attacker = Apart::start(&[&[words[0], &target], &words[1..]].concat())?;
        let (beside, shares, said) = self.beside(other, vec![attacker, server])?;
        std::thread::sleep(SETTLE);
        let burners = shares.iter().map(|share| Apart::start(&["burn", &share.to_string()]));
        let (alone, ..) = self.beside(other, burners.collect::<Result<_>>()?)?;
        let [p50, p99] = [50, 99].map(|of_100| {
            let [beside, alone] = [&beside, &alone].map(|seen| seen.quantile_ms(of_100, self.amount.span));
            (beside, alone)
        });
        for (figure, (beside, alone)) in [(table::P50, p50), (table::P99, p99)] {
            samples.add(name, figure, TOMBOLO, beside);
            samples.add(name, figure, CONTROL, alone);
        }
        samples.add(name, table::P99_PARTS, TOMBOLO, p99.0 / p99.1);
        let burnt: f64 = shares.iter().sum();
        self.note(&format!(
            "{name}: p99 {:.2} ms, control {:.2} ms with {burnt:.2} processors burnt; {} and {}; {said}",
            p99.0,
            p99.1,
            unanswered(&beside),
            unanswered(&alone)
        ));
        Ok(())
    }

    /// Small requests beside processes that are told to begin when the connections stand: what was seen, how many
    /// processors each of them took, and what the first one says at the end.
    fn beside(&self, target: SocketAddr, mut parts: Vec<Apart>) -> Result<(open::Seen, Vec<f64>, String)> {
        let spent = |parts: &[Apart]| parts.iter().map(Apart::spent).collect::<Result<Vec<f64>>>();
        let mut began = None;
        let seen = open::run_beside(target, self.amount.span, || {
            parts.iter_mut().try_for_each(Apart::tell)?;
            began = Some((Instant::now(), spent(&parts)?));
            Ok(())
        })?;
        let (began, before) = began.context("nothing was begun")?;
        let took = began.elapsed().as_secs_f64();
        let shares = spent(&parts)?.into_iter().zip(before).map(|(after, before)| (after - before) / took);
        let shares = shares.collect();
        let first = parts.first_mut().context("nobody attacks")?;
        first.tell()?;
        Ok((seen, shares, first.hear()?))
    }
}

fn unanswered(seen: &open::Seen) -> String {
    let lost = match &seen.lost {
        (lost, Some(cause)) => format!(", {lost} ends of connections lost ({cause})"),
        _ => String::new(),
    };
    format!("{} unanswered{lost}", seen.unanswered())
}
