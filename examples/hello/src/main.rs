//! Both programs of the example pod: `hello serve` answers one request on localhost:8080, `hello fetch` asks
//! until it is answered.
//!
//! That the client finds the server on localhost is the point: the containers of a pod share one network.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is there to be read")]

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

const ADDRESS: &str = "127.0.0.1:8080";
const PAUSE: Duration = Duration::from_millis(20);
const TRIES: u32 = 500;

fn main() -> ExitCode {
    let done = match std::env::args().nth(1).as_deref() {
        Some("serve") => serve(),
        Some("fetch") => fetch(),
        _ => Err(io::Error::other("say `serve` or `fetch`")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hello: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Answers one client and ends, so that the pod does.
fn serve() -> io::Result<()> {
    let listener = TcpListener::bind(ADDRESS)?;
    println!("listening on {ADDRESS}");
    let (mut client, peer) = listener.accept()?;
    println!("answering {peer}");
    let greeting = std::env::var("GREETING").unwrap_or_else(|_| "hello".to_owned());
    writeln!(client, "{greeting}, from {} as process {}", hostname(), std::process::id())?;
    client.shutdown(Shutdown::Write)
}

/// Asks until somebody answers: nothing says which container starts first.
fn fetch() -> io::Result<()> {
    let mut last = io::Error::other("nobody was asked");
    for attempt in 1..=TRIES {
        match TcpStream::connect(ADDRESS) {
            Ok(mut server) => {
                let mut answer = String::new();
                server.read_to_string(&mut answer)?;
                print!("try {attempt} was answered: {answer}");
                return Ok(());
            }
            Err(error) => last = error,
        }
        std::thread::sleep(PAUSE);
    }
    Err(last)
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "?".to_owned(), |name| name.trim().to_owned())
}
