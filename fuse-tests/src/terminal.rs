//! A program on a terminal of its own, for editors: keys go in, the screen comes out.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};

use crate::{eventually, until};

pub struct Terminal {
    process: Child,
    master: File,
    screen: Arc<Mutex<String>>,
}

impl Terminal {
    /// Starts the command on a terminal of 80 by 24 characters.
    #[track_caller]
    pub fn start(command: &mut Command) -> Terminal {
        let (mut master, mut slave) = (-1, -1);
        let size = libc::winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: both numbers and the size outlive the call; no name and no attributes are asked for.
        let opened = unsafe { libc::openpty(&mut master, &mut slave, std::ptr::null_mut(), std::ptr::null(), &size) };
        assert_eq!(opened, 0, "a terminal: {}", std::io::Error::last_os_error());
        // SAFETY: openpty has just opened both, and nothing else knows them.
        let (master, slave) = unsafe { (File::from_raw_fd(master), File::from_raw_fd(slave)) };
        let copy = || slave.try_clone().expect("a descriptor");
        command.env("TERM", "xterm").stdin(copy()).stdout(copy()).stderr(copy());
        // SAFETY: setsid and ioctl are async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let process = command.spawn().unwrap_or_else(|e| panic!("{command:?} cannot be run: {e}"));
        let screen = Arc::new(Mutex::new(String::new()));
        let (mut reader, shown) = (master.try_clone().expect("a descriptor"), Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // The end of the program shows as EIO.
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                shown.lock().expect("the screen").push_str(&String::from_utf8_lossy(&buffer[..n]));
            }
        });
        Terminal { process, master, screen }
    }

    /// Waits until the text has been shown.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        until(&format!("the terminal shows {text:?}"), || self.screen.lock().expect("the screen").contains(text));
    }

    #[track_caller]
    pub fn keys(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("keys reach the terminal");
    }

    /// Waits for the end of the program.
    #[track_caller]
    pub fn wait(mut self) -> ExitStatus {
        eventually("the program on the terminal ends", || self.process.try_wait().expect("its state"))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- screen of the terminal {}\n{:?}", self.master.as_raw_fd(), self.screen.lock().ok());
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
