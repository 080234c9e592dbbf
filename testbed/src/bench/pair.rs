//! Two gateways of one make between the clients and the server, started fresh and taken away again.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{gauge, place::Place};
use crate::process::{Identity, Member, Role};

/// Two gateways that run.
#[derive(Debug)]
pub(super) struct Pair {
    /// Where clients connect.
    pub(super) target: SocketAddr,
    /// Their resident memory before anything was asked of them, in KiB each; the larger one.
    pub(super) empty_kib: f64,
    /// The client's, then the server's.
    pub(super) gateways: Gateways,
}

/// The processes, ended when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Gateways(Vec<Member>);

impl Gateways {
    /// Starts one more.
    pub(super) fn start(
        &mut self,
        place: &Place,
        command: Vec<String>,
        folder: &Path,
        run: &str,
    ) -> Result<Identity> {
        let number = self.0.len() + 1;
        let log = folder.join(format!("gateway-{number}.log"));
        let role = Role::Gateway(number);
        let mut member = Member { role, cluster: String::new(), command, log, identity: None };
        let identity = place.run(|| member.start_bare(run))?;
        self.0.push(member);
        Ok(identity)
    }

    /// The last words of all of them, for an error.
    pub(super) fn last_words(&self) -> String {
        self.0.iter().map(Member::last_words).collect::<Vec<_>>().join("\n")
    }

    fn sum(&self, gauge: impl Fn(i32) -> Result<f64>) -> Result<f64> {
        self.0.iter().filter_map(|member| member.identity).map(|identity| gauge(identity.pid)).sum()
    }

    /// Processor time of all, in seconds.
    pub(super) fn processor_seconds(&self) -> Result<f64> {
        self.sum(gauge::processor_seconds)
    }

    /// Resident memory of all, in KiB.
    pub(super) fn resident_kib(&self) -> Result<f64> {
        self.sum(gauge::resident_kib)
    }

    /// The largest resident memory of one, in KiB.
    pub(super) fn largest_kib(&self) -> Result<f64> {
        let all = self.0.iter().filter_map(|member| member.identity);
        all.map(|identity| gauge::resident_kib(identity.pid)).try_fold(0.0, |most, one| Ok(one?.max(most)))
    }
}

impl Drop for Gateways {
    fn drop(&mut self) {
        for identity in self.0.iter().filter_map(|member| member.identity) {
            // What does not end in five seconds is left to the system; there is nobody to tell here.
            let _ = identity.kill();
        }
    }
}

/// Free ports of 127.0.0.1, all different.
pub(super) fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut held = Vec::new();
    while held.len() < N {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        // Some are used for both.
        if let Ok(socket) = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)) {
            held.push((port, listener, socket));
        }
    }
    let ports: Vec<u16> = held.iter().map(|(port, ..)| *port).collect();
    ports.try_into().ok().context("as many ports as were asked for")
}

/// Certificates for mutual TLS between the two, made for this run: P-256, as Tombolo's own.
#[derive(Debug)]
pub(crate) struct Certificates {
    /// Whom both believe.
    pub(super) authority: PathBuf,
    /// What both show.
    pub(super) chain: PathBuf,
    /// Its key.
    pub(super) key: PathBuf,
    /// Chain and key in one file.
    pub(super) both: PathBuf,
}

impl Certificates {
    /// Those of a folder, made when they are first asked for.
    pub(crate) fn once(folder: &Path) -> Result<Self> {
        let [authority, chain, key, both] =
            ["authority.pem", "chain.pem", "key.pem", "both.pem"].map(|name| folder.join(name));
        if both.exists() {
            return Ok(Self { authority, chain, key, both });
        }
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        Self::make(folder)
    }

    /// Envoy's settings for either end.
    pub(crate) fn common_tls(&self) -> Value {
        json!({
            "tls_params": {
                "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3",
            },
            "tls_certificates": [{
                "certificate_chain": {"filename": self.chain},
                "private_key": {"filename": self.key},
            }],
            "validation_context": {"trusted_ca": {"filename": self.authority}},
        })
    }

    /// Makes them in a folder.
    pub(super) fn make(folder: &Path) -> Result<Self> {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        // Two equal names would look like a certificate that signed itself.
        params.distinguished_name.push(rcgen::DnType::CommonName, "authority.bench.test");
        let key = rcgen::KeyPair::generate()?;
        let authority = params.self_signed(&key)?;
        let issuer = rcgen::Issuer::new(params, key);
        let leaf_key = rcgen::KeyPair::generate()?;
        let mut leaf = rcgen::CertificateParams::new(vec![NAME.to_owned()])?;
        leaf.distinguished_name.push(rcgen::DnType::CommonName, NAME);
        leaf.use_authority_key_identifier_extension = true;
        let leaf = leaf.signed_by(&leaf_key, &issuer)?;
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| path.display().to_string())?;
            Ok::<_, anyhow::Error>(path)
        };
        Ok(Self {
            authority: write("authority.pem", authority.pem())?,
            chain: write("chain.pem", leaf.pem())?,
            key: write("key.pem", leaf_key.serialize_pem())?,
            both: write("both.pem", leaf.pem() + &leaf_key.serialize_pem())?,
        })
    }
}

/// The name in the certificates.
pub(super) const NAME: &str = "gateway.bench.test";
