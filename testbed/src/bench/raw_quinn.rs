//! The reference for bulk: the QUIC library alone, one stream, one thread for each end, no TCP at either.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use quinn::{ClientConfig, Endpoint, ServerConfig, crypto::rustls::QuicClientConfig};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::runtime::Builder;

use super::{
    gauge,
    pair::{Certificates, NAME},
};

/// Bytes read or written at once.
const PIECE: usize = 64 * 1024;

/// Time from the first byte to the last, and processor time of both ends, for `size` bytes on one stream.
pub(super) fn bulk(certificates: &Certificates, size: u64) -> Result<(Duration, f64)> {
    let chain = vec![CertificateDer::from_pem_slice(&fs::read(&certificates.chain)?)?];
    let key = PrivateKeyDer::from_pem_slice(&fs::read(&certificates.key)?)?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&fs::read(&certificates.authority)?)?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(tls13)?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let server = quinn::crypto::rustls::QuicServerConfig::try_from(server)?;
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(tls13)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = ClientConfig::new(Arc::new(QuicClientConfig::try_from(client)?));
    let (tell, told) = std::sync::mpsc::channel();
    let sending = std::thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(send(ServerConfig::with_crypto(Arc::new(server)), size, &tell))?;
        gauge::thread_seconds()
    });
    let receiving = std::thread::spawn(move || {
        let target = told.recv().context("no server")?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let took = runtime.block_on(receive(client, target, size))?;
        anyhow::Ok((took, gauge::thread_seconds()?))
    });
    let (took, receiver) = receiving.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))??;
    let sender = sending.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
    Ok((took, sender + receiver))
}

async fn send(config: ServerConfig, size: u64, tell: &std::sync::mpsc::Sender<SocketAddr>) -> Result<()> {
    let endpoint = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into())?;
    tell.send(endpoint.local_addr()?)?;
    let connection = endpoint.accept().await.context("no client")?.await?;
    let (mut writer, _reader) = connection.accept_bi().await?;
    let zeros = bytes::Bytes::from(vec![0; PIECE]);
    let mut left = size;
    while left > 0 {
        let piece = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        writer.write_chunk(zeros.slice(..piece)).await?;
        left -= piece as u64;
    }
    writer.finish()?;
    connection.closed().await;
    Ok(())
}

async fn receive(config: ClientConfig, target: SocketAddr, size: u64) -> Result<Duration> {
    let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into())?;
    let connection = endpoint.connect_with(config, target, NAME)?.await?;
    let (mut writer, mut reader) = connection.open_bi().await?;
    writer.write_all(b"go").await?;
    let (mut got, mut began) = (0, None);
    while let Some(chunk) = reader.read_chunk(PIECE, true).await? {
        began.get_or_insert_with(Instant::now);
        got += chunk.bytes.len() as u64;
    }
    ensure!(got == size, "{got} bytes of {size} came");
    let took = began.map_or(Duration::ZERO, |began| began.elapsed());
    connection.close(0_u32.into(), b"");
    endpoint.wait_idle().await;
    Ok(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_brings_every_byte_and_tells_what_it_cost() {
        let folder = tempfile::tempdir().unwrap();
        let certificates = Certificates::make(folder.path()).unwrap();
        let (took, cost) = bulk(&certificates, 3 * PIECE as u64 + 1).unwrap();
        assert!(took < Duration::from_secs(20) && cost > 0.0);
    }
}
