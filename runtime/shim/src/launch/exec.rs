//! The last step: finding the program and becoming it.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use shim::plan::Launch;

use super::{Doing, Failure};
use crate::sys::process;

/// Where a program is looked for when the environment says nothing, as other runtimes do.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Becomes the program, or says why not.
pub(super) fn run(launch: &Launch, executable: Option<BorrowedFd<'_>>) -> Result<Infallible, Failure> {
    process::close_above_stdio_on_exec().doing(|| "closing descriptors".into())?;
    let environment = pointers(&launch.env);
    if let Some(executable) = executable {
        return Err(run_file(executable, &environment));
    }
    let Some(program) = launch.args.first().filter(|program| !program.is_empty()) else {
        return Err(Failure::plain("there is no program to start".into(), libc::ENOENT));
    };
    let arguments = pointers(&launch.args);
    let mut worst = libc::ENOENT;
    for candidate in candidates(program, &launch.env) {
        // SAFETY: path, arguments and environment are NUL-terminated texts in null-terminated lists, all live.
        unsafe { libc::execve(candidate.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
        match io::Error::last_os_error().raw_os_error().unwrap_or_default() {
            // It is there, so what is missing is the interpreter it names.
            libc::ENOENT if exists(&candidate) => return Err(no_interpreter(program)),
            libc::ENOENT | libc::ENOTDIR => {}
            // As in a shell: a later directory may have one that can be run.
            libc::EACCES => worst = libc::EACCES,
            errno => return Err(explain(program, errno)),
        }
    }
    Err(explain(program, worst))
}

fn run_file(executable: BorrowedFd<'_>, environment: &[*const libc::c_char]) -> Failure {
    let arguments = [c"pause".as_ptr(), ptr::null()];
    // SAFETY: as above; the path is empty because the file is named by its descriptor.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            executable.as_raw_fd(),
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    Failure::new("starting the pause".into(), io::Error::last_os_error().raw_os_error().unwrap_or_default())
}

fn candidates(program: &CStr, environment: &[CString]) -> Vec<CString> {
    if program.to_bytes().contains(&b'/') {
        return vec![program.to_owned()];
    }
    let path = environment.iter().rev().find_map(|variable| variable.to_bytes().strip_prefix(b"PATH="));
    let directories = path.unwrap_or(DEFAULT_PATH).split(|byte| *byte == b':');
    let join = |directory: &[u8]| match directory {
        b"" => [b"./", program.to_bytes()].concat(),
        directory => [directory, b"/", program.to_bytes()].concat(),
    };
    directories.filter_map(|directory| CString::new(join(directory)).ok()).collect()
}

/// The words other runtimes use: people search for them.
fn explain(program: &CStr, errno: i32) -> Failure {
    let name = program.to_string_lossy();
    match errno {
        libc::ENOENT if !name.contains('/') => {
            Failure::plain(format!("exec: \"{name}\": executable file not found in $PATH"), errno)
        }
        libc::ENOENT => Failure::plain(format!("exec: \"{name}\": no such file or directory"), errno),
        libc::EACCES => Failure::plain(format!("exec: \"{name}\": permission denied"), errno),
        libc::ENOEXEC => {
            Failure::plain(format!("exec: \"{name}\": exec format error (built for another machine?)"), errno)
        }
        errno => Failure::new(format!("exec: \"{name}\""), errno),
    }
}

fn no_interpreter(program: &CStr) -> Failure {
    let name = program.to_string_lossy();
    let reason = format!("exec: \"{name}\": the interpreter or loader it names: no such file or directory");
    Failure::plain(reason, libc::ENOENT)
}

fn exists(path: &CStr) -> bool {
    // SAFETY: path is NUL-terminated.
    unsafe { libc::access(path.as_ptr(), libc::F_OK) == 0 }
}

fn pointers(texts: &[CString]) -> Vec<*const libc::c_char> {
    texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
}
