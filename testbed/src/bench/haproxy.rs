//! HAProxy: a TLS connection for each client connection, as many threads as cores, which is its default.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use super::{
    pair::{Certificates, NAME},
    place::Ends,
};

/// The arguments of both, the clients' gateway's first.
pub(super) fn configure(
    Ends { enter, between, server }: Ends,
    certificates: &Certificates,
    folder: &Path,
) -> Result<Vec<Vec<String>>> {
    let common = "global\n  maxconn 9000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  \
                  timeout server 1h\n";
    let show = format!(
        "crt {} ca-file {} verify required ssl-min-ver TLSv1.3",
        certificates.both.display(),
        certificates.authority.display()
    );
    let near = format!(
        "{common}listen in\n  bind 127.0.0.1:{enter}\n  server far {between} ssl {show} verifyhost {NAME}\n"
    );
    let far = format!("{common}listen in\n  bind {between} ssl {show}\n  server server {server}\n");
    let mut arguments = Vec::new();
    for (number, config) in [near, far].iter().enumerate() {
        let path = folder.join(format!("gateway-{}.cfg", number + 1));
        fs::write(&path, config).with_context(|| path.display().to_string())?;
        arguments.push(vec!["-db".to_owned(), "-f".to_owned(), path.to_string_lossy().into_owned()]);
    }
    Ok(arguments)
}
