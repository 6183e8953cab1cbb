//! A server that can be stopped and started again on the same address.

use std::{future::Future, net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpListener, TcpSocket},
    sync::oneshot,
    task::JoinHandle,
};

/// How long a server may take to stop.
const STOP: Duration = Duration::from_secs(10);

/// A running server.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Part {
    /// Starts `serve` with a listener and a future that ends it.
    pub(crate) fn start<F, Fut>(listener: TcpListener, serve: F) -> Self
    where
        F: FnOnce(TcpListener, oneshot::Receiver<()>) -> Fut,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let addr = listener
            .local_addr()
            .expect("a bound listener has an address");
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(serve(listener, stopped));
        Self {
            addr,
            stop: Some(stop),
            task,
        }
    }

    /// Asks it to stop and waits until it has.
    pub(crate) async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            _ = stop.send(());
        }
        _ = tokio::time::timeout(STOP, &mut self.task).await;
        self.task.abort();
    }

    /// Ends it at once: connections break without a goodbye.
    pub(crate) fn kill(self) {
        self.task.abort();
    }
}

/// A listener on a free port of the loopback address.
pub(crate) async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0")
        .await
        .expect("loopback has free ports")
}

/// A listener on an address that a server has just left.
pub(crate) async fn listen_again(addr: SocketAddr) -> TcpListener {
    for _ in 0..100 {
        let socket = TcpSocket::new_v4().expect("sockets can be made");
        socket.set_reuseaddr(true).expect("the option is known");
        if socket.bind(addr).is_ok() {
            return socket.listen(1024).expect("a bound socket can listen");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{addr} does not become free");
}
