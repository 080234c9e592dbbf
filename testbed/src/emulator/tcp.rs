//! The TCP side of the loopback relay: connections to a front are carried to its gateway; while a direction
//! is cut, its bytes wait, as behind a black hole. Delay, loss and rate are for datagrams only.

use std::{
    collections::BTreeSet,
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

/// Connections at a time; more are closed at once.
const CONNECTIONS: usize = 256;

/// Which directions are cut now.
#[derive(Debug, Default)]
pub(super) struct Gate {
    cut: Mutex<BTreeSet<(usize, usize)>>,
    changed: Condvar,
}

impl Gate {
    /// Cuts or mends a direction.
    pub(super) fn set(&self, from: usize, to: usize, up: bool) {
        let mut cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        if up {
            cut.remove(&(from, to));
        } else {
            cut.insert((from, to));
        }
        self.changed.notify_all();
    }

    fn wait(&self, direction: (usize, usize)) {
        let cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_while(cut, |cut| cut.contains(&direction)));
    }
}

/// Listens on a front; `from_of` tells the cluster of a sender.
pub(super) fn serve(
    listen: SocketAddr,
    to: (usize, SocketAddr),
    gate: &Arc<Gate>,
    from_of: impl Fn(SocketAddr) -> usize + Send + 'static,
) -> Result<()> {
    let listener =
        TcpListener::bind(listen).with_context(|| format!("the relay cannot listen on {listen} (TCP)"))?;
    let (gate, open) = (Arc::clone(gate), Arc::new(AtomicUsize::new(0)));
    thread::spawn(move || {
        loop {
            let Ok((client, source)) = listener.accept() else {
                thread::sleep(Duration::from_millis(10));
                continue;
            };
            if open.load(Ordering::Relaxed) >= CONNECTIONS {
                continue;
            }
            open.fetch_add(1, Ordering::Relaxed);
            let (gate, open, from) = (Arc::clone(&gate), Arc::clone(&open), from_of(source));
            thread::spawn(move || {
                // What ends a connection ends it for both sides; there is nobody to tell.
                let _ = carry(&client, (from, to.0), to.1, &gate);
                open.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    Ok(())
}

fn carry(client: &TcpStream, direction: (usize, usize), to: SocketAddr, gate: &Gate) -> io::Result<()> {
    gate.wait(direction);
    let gateway = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
    client.set_nodelay(true)?;
    gateway.set_nodelay(true)?;
    thread::scope(|scope| {
        scope.spawn(|| copy(client, &gateway, gate, direction));
        copy(&gateway, client, gate, (direction.1, direction.0));
    });
    Ok(())
}

fn copy(mut from: &TcpStream, mut to: &TcpStream, gate: &Gate, direction: (usize, usize)) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut buffer).unwrap_or(0);
        gate.wait(direction);
        if length == 0 || to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    // The end travels on; a side that has gone needs no telling.
    let _ = to.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_wait_while_their_direction_is_cut_and_arrive_when_it_is_mended() {
        let gateway = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let gate = Arc::new(Gate::default());
        serve(listen, (1, gateway.local_addr().unwrap()), &gate, |_| 0).unwrap();
        let mut client = TcpStream::connect(listen).unwrap();
        client.write_all(b"one").unwrap();
        let (mut served, _) = gateway.accept().unwrap();
        let mut three = [0; 3];
        served.read_exact(&mut three).unwrap();
        gate.set(0, 1, false);
        client.write_all(b"two").unwrap();
        served.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert!(served.read(&mut three).is_err(), "nothing passes a cut");
        served.write_all(b"abc").unwrap();
        client.read_exact(&mut three).unwrap();
        assert_eq!(&three, b"abc", "the other direction is not cut");
        gate.set(0, 1, true);
        served.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        served.read_exact(&mut three).unwrap();
        assert_eq!(&three, b"two");
    }
}
