//! A file that goes up and comes back on one connection, both at once. What comes back is held to what went by its
//! SHA-256, so that neither way may lose, repeat, move or change a byte.

use aws_lc_rs::digest::{Context, Digest, SHA256};
use rand::RngExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
};

use super::exchange::{Answer, Trouble, read_head};
use crate::server::{FILE_PATH, ID_HEADER};

/// Bytes written or read at once.
const PIECE: usize = 64 * 1024;

/// Bytes of a number in a piece.
const NUMBER: usize = 8;

/// Sends a file of `size` bytes and hears it.
pub(super) async fn there_and_back(
    stream: &mut TcpStream,
    (size, number): (u64, u64),
    id: &str,
) -> Result<Answer, Trouble> {
    let (mut from, mut to) = stream.split();
    let head = format!(
        "PUT {FILE_PATH}{size} HTTP/1.1\r\nHost: testbed\r\nConnection: close\r\n\
         Content-Length: {size}\r\n{ID_HEADER}{id}\r\n\r\n"
    );
    let (went, (came, cluster)) =
        tokio::try_join!(send(&mut to, &head, (size, number)), hear(&mut from, size))?;
    if went.as_ref() != came.as_ref() {
        return Err(Trouble::Wrong);
    }
    Ok(Answer { cluster, bytes: size })
}

async fn send(to: &mut WriteHalf<'_>, head: &str, (size, number): (u64, u64)) -> Result<Digest, Trouble> {
    to.write_all(head.as_bytes()).await?;
    let mut sum = Context::new(&SHA256);
    // No two pieces are alike, in this file or another one.
    let mut piece = vec![0; usize::try_from(size).unwrap_or(PIECE).clamp(2 * NUMBER, PIECE)];
    rand::rng().fill(&mut piece[..]);
    piece[NUMBER..2 * NUMBER].copy_from_slice(&number.to_be_bytes());
    let mut sent = 0;
    while sent < size {
        piece[..NUMBER].copy_from_slice(&sent.to_be_bytes());
        let part = &piece[..usize::try_from(size - sent).unwrap_or(PIECE).min(piece.len())];
        sum.update(part);
        to.write_all(part).await?;
        sent += part.len() as u64;
    }
    Ok(sum.finish())
}

async fn hear(from: &mut ReadHalf<'_>, size: u64) -> Result<(Digest, String), Trouble> {
    let (length, cluster, mut piece) = read_head(from).await?;
    if length != size {
        return Err(Trouble::Wrong);
    }
    let (mut sum, mut came) = (Context::new(&SHA256), 0);
    loop {
        came += piece.len() as u64;
        sum.update(&piece);
        if came >= size {
            return if came == size { Ok((sum.finish(), cluster)) } else { Err(Trouble::Wrong) };
        }
        piece.clear();
        piece.reserve(PIECE);
        if from.read_buf(&mut piece).await? == 0 {
            return Err(Trouble::Truncated);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// What a client says of a server that sends back what `change` makes of each byte, by its place.
    async fn against(change: fn(usize, u8) -> u8) -> Result<Answer, Trouble> {
        const SIZE: usize = 3 * PIECE + 5;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let target = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut all = Vec::new();
            while !all.windows(4).any(|window| window == b"\r\n\r\n") {
                stream.read_buf(&mut all).await.unwrap();
            }
            let head = all.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
            while all.len() < head + SIZE {
                stream.read_buf(&mut all).await.unwrap();
            }
            let answer = format!("HTTP/1.1 200 OK\r\nX-Cluster: west\r\nContent-Length: {SIZE}\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
            let body: Vec<u8> = all[head..].iter().enumerate().map(|(at, byte)| change(at, *byte)).collect();
            stream.write_all(&body).await.unwrap();
        });
        let mut stream = TcpStream::connect(target).await.unwrap();
        there_and_back(&mut stream, (SIZE as u64, 1), "1").await
    }

    #[tokio::test]
    async fn a_file_that_comes_back_with_one_byte_changed_is_wrong() {
        assert_eq!(against(|_, byte| byte).await.unwrap().bytes, 3 * PIECE as u64 + 5);
        let changed = against(|at, byte| if at == 2 * PIECE { byte ^ 1 } else { byte }).await;
        assert_eq!(changed.err(), Some(Trouble::Wrong));
    }
}
