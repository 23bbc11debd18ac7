//! The plugin's short way: from the kernel to the agent and back without the C library.
//!
//! A runtime starts the plugin twice or more for each container, and most of what that takes is not the plugin's work.
//! Before `main`, the C library asks the processor for its features with some fifty CPUID instructions, each of which
//! is a way out of a virtual machine and back; then the page tables of a large program are filled and emptied again.
//! On a virtual machine an empty program with the C library takes three times as long as one without.
//!
//! So the program begins here, at [`slash32_entry`] (`build.rs` tells the linker), and not in the C library. If the
//! environment has an ADD, DEL or CHECK, its variables and standard input go as they are to the agent's plugin socket
//! ([`SOCKET`]), and the agent's answer goes as it is to standard output. Nothing is parsed here. In every other case
//! (no agent, a run directory of one's own, another IPAM plugin, a command for people) the program goes on as if
//! nothing had been: `_start`, `main`, and the plugin's long way, which finds on standard input what was there.
//!
//! Until then the program has no C library: no memory from the heap, nothing thread-local, no function that is
//! resolved at run time (`memcpy`, `strlen`). The compiler makes calls of those from loops over bytes, hence the
//! volatile reads.
//!
//! # The request
//!
//! Eight 32-bit numbers in the machine's order: [`MAGIC`] and the lengths of what follows, `CNI_COMMAND`,
//! `CNI_CONTAINERID`, `CNI_NETNS`, `CNI_IFNAME`, `CNI_ARGS`, `CNI_PATH` and standard input.
//!
//! # The answer
//!
//! One byte ([`SUCCESS`], [`FAILURE`], [`LONG_WAY`]), and what belongs on standard output, until the end of the stream.
#![cfg_attr(
    all(target_arch = "x86_64", target_os = "linux"),
    expect(unsafe_code, reason = "system calls without the C library")
)]

use std::{
    sync::atomic::{AtomicBool, AtomicU8, Ordering},
    time::Duration,
};

/// What a request begins with.
pub const MAGIC: u32 = 0x7333_3201;
/// How many strings a request has.
pub const PARTS: usize = 7;
/// The bytes before the strings.
pub const HEADER: usize = 4 * (PARTS + 1);
/// The most of standard input that takes the short way, in bytes.
pub const MAX_INPUT: usize = 64 << 10;
/// The plugin socket of the agent with the usual run directory.
pub const SOCKET: &str = "/run/slash32/plugin.sock";
/// The answer is a result.
pub const SUCCESS: u8 = b'0';
/// The answer is an error.
pub const FAILURE: u8 = b'1';
/// The agent has done nothing that may not be asked for again: the plugin is to go its long way.
pub const LONG_WAY: u8 = b'?';

/// How long the plugin waits for standard input to end.
pub const STDIN_WAIT: Duration = Duration::from_secs(10);
/// How long the plugin waits for the agent; for DEL half of it, as it can do without.
pub const AGENT_WAIT: Duration = Duration::from_secs(15);

/// How the short way ended, if it did not end the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was not taken, or led nowhere without a trace.
    None,
    /// Standard input did not end in time.
    InputStalled,
    /// The agent has the request and has not answered it.
    AgentSilent,
}

static OUTCOME: AtomicU8 = AtomicU8::new(0);
static OUTPUT_CLOSED: AtomicBool = AtomicBool::new(false);

/// How the short way ended.
pub fn outcome() -> Outcome {
    match OUTCOME.load(Ordering::Relaxed) {
        1 => Outcome::InputStalled,
        2 => Outcome::AgentSilent,
        _ => Outcome::None,
    }
}

/// Whether standard output was closed when the program began. Later nobody can tell, as the standard library puts /dev/null
/// in its place.
pub fn output_closed() -> bool {
    OUTPUT_CLOSED.load(Ordering::Relaxed)
}

/// Keeps this file in the program; returns at once.
pub fn keep() {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    std::hint::black_box(short::slash32_entry as unsafe extern "C" fn());
}

/// The strings of a request; none while it is not complete, an error if it is none.
#[expect(clippy::result_unit_err, reason = "whoever sends no request is told nothing")]
pub fn parse(bytes: &[u8]) -> Result<Option<[&[u8]; PARTS]>, ()> {
    let number = |at: usize| {
        let word = bytes.get(at * 4..at * 4 + 4)?;
        Some(u32::from_ne_bytes(word.try_into().ok()?))
    };
    if number(0).is_some_and(|magic| magic != MAGIC) {
        return Err(());
    }
    let mut rest = bytes.get(HEADER..).unwrap_or_default();
    let mut parts = [&[][..]; PARTS];
    for (at, part) in parts.iter_mut().enumerate() {
        let Some(len) = number(at + 1) else { return Ok(None) };
        let len = len as usize;
        if len > MAX_INPUT {
            return Err(());
        }
        let Some((this, next)) = rest.split_at_checked(len) else { return Ok(None) };
        (*part, rest) = (this, next);
    }
    Ok(Some(parts))
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod short {
    use std::{arch::asm, cell::UnsafeCell, ptr::addr_of, sync::atomic::Ordering};

    use super::{
        AGENT_WAIT, FAILURE, HEADER, MAGIC, MAX_INPUT, OUTCOME, OUTPUT_CLOSED, PARTS, SOCKET, STDIN_WAIT,
        SUCCESS,
    };

    /// Errors of linux/errno.h, as the kernel returns them.
    const EINTR: isize = -4;
    const EAGAIN: isize = -11;
    const POLLIN: u64 = 1;
    /// For people, where there is nobody else to tell.
    const UNWRITTEN: &[u8] = b"slash32: cannot write the answer to standard output\n";

    /// Memory that only the first thread uses, before there is another.
    struct Room(UnsafeCell<[u8; MAX_INPUT]>);
    // SAFETY: used by `short_way` alone, which runs once, before `_start` and so before any thread is made.
    unsafe impl Sync for Room {}
    static INPUT: Room = Room(UnsafeCell::new([0; MAX_INPUT]));
    static ANSWER: Room = Room(UnsafeCell::new([0; MAX_INPUT]));

    /// A `sockaddr_un` (family `AF_UNIX`), made at compile time.
    static ADDRESS: [u8; 2 + SOCKET.len() + 1] = {
        let mut address = [0; 2 + SOCKET.len() + 1];
        address[0] = 1;
        let mut at = 0;
        while at < SOCKET.len() {
            address[2 + at] = SOCKET.as_bytes()[at];
            at += 1;
        }
        address
    };

    /// Where the program starts. The kernel leaves the arguments and the environment on the stack, and the dynamic
    /// loader a function in rdx; the C library's start wants both as they were.
    // SAFETY: no other symbol has this name.
    #[unsafe(no_mangle)]
    #[unsafe(naked)]
    pub(super) unsafe extern "C" fn slash32_entry() {
        std::arch::naked_asm!(
            "mov rdi, rsp",
            "push rdx",
            "sub rsp, 8",
            "call {short_way}",
            "add rsp, 8",
            "pop rdx",
            "jmp _start",
            short_way = sym short_way,
        )
    }

    /// A string of the environment.
    #[derive(Clone, Copy)]
    struct Text {
        at: *const u8,
        len: usize,
    }

    /// Ends the process when the agent has answered, and returns otherwise.
    ///
    /// `stack` is what the kernel gave: the number of arguments, the arguments, a null, the environment, a null.
    unsafe extern "C" fn short_way(stack: *const usize) {
        // SAFETY: the layout of the stack is the kernel's promise (System V ABI, "Initial Stack and Register State");
        // buffers are of the sizes given, and see `Room`.
        unsafe {
            let empty = Text { at: addr_of!(ADDRESS).cast(), len: 0 };
            let (mut command, mut id, mut netns) = (empty, empty, empty);
            let (mut ifname, mut args, mut path) = (empty, empty, empty);
            // fcntl(1, F_GETFD). Else the next descriptor would be the one that the answer goes to.
            let mut long = call(72, 1, 1, 0) < 0;
            OUTPUT_CLOSED.store(long, Ordering::Relaxed);
            let mut slot = stack.add(2 + *stack).cast::<*const u8>();
            while !(*slot).is_null() {
                let text = *slot;
                if at(text) == b'C' {
                    let _ = take(text, b"CNI_COMMAND=", &mut command)
                        || take(text, b"CNI_CONTAINERID=", &mut id)
                        || take(text, b"CNI_NETNS=", &mut netns)
                        || take(text, b"CNI_IFNAME=", &mut ifname)
                        || take(text, b"CNI_ARGS=", &mut args)
                        || take(text, b"CNI_PATH=", &mut path);
                } else if starts_with(text, b"SLASH32_RUN_DIR=") || starts_with(text, b"SLASH32_IPAM_OF=") {
                    long = true;
                }
                slot = slot.add(1);
            }
            let delete = starts_with(command.at, b"DEL") && command.len == 3;
            let short = delete
                || (starts_with(command.at, b"ADD") && command.len == 3)
                || (starts_with(command.at, b"CHECK") && command.len == 5);
            let small = id.len < 4096 && netns.len < 4096 && ifname.len < 4096;
            if long || !short || !small || args.len >= MAX_INPUT || path.len >= MAX_INPUT {
                return;
            }

            let input = INPUT.0.get().cast::<u8>();
            let mut got = 0;
            loop {
                if got == MAX_INPUT {
                    return give_back(input, got, true);
                }
                if !readable(0, STDIN_WAIT.as_millis() as u64) {
                    OUTCOME.store(1, Ordering::Relaxed);
                    return give_back(input, got, false);
                }
                match read(0, input.add(got), MAX_INPUT - got) {
                    0 => break,
                    EINTR => {}
                    n if n < 0 => return give_back(input, got, false),
                    n => got += n as usize,
                }
            }
            if elsewhere(input, got) {
                return give_back(input, got, false);
            }

            // socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK): an agent that hangs lets nobody connect once its
            // backlog is full (unix(7)); the long way waits for it.
            let socket = call(41, 1, 1 | 0o2_000_000 | 0o4000, 0);
            if socket < 0 {
                return give_back(input, got, false);
            }
            let socket = socket as usize;
            if call(42, socket, addr_of!(ADDRESS) as usize, ADDRESS.len()) != 0 {
                call(3, socket, 0, 0);
                return give_back(input, got, false);
            }
            let header: [u32; PARTS + 1] = [
                MAGIC,
                command.len as u32,
                id.len as u32,
                netns.len as u32,
                ifname.len as u32,
                args.len as u32,
                path.len as u32,
                got as u32,
            ];
            let parts: [[usize; 2]; PARTS + 1] = [
                [addr_of!(header) as usize, HEADER],
                [command.at as usize, command.len],
                [id.at as usize, id.len],
                [netns.at as usize, netns.len],
                [ifname.at as usize, ifname.len],
                [args.at as usize, args.len],
                [path.at as usize, path.len],
                [input as usize, got],
            ];
            let all = HEADER + command.len + id.len + netns.len + ifname.len + args.len + path.len + got;
            // writev; an agent that has died meanwhile must not kill us with SIGPIPE: sendmsg with MSG_NOSIGNAL.
            let message: [usize; 7] = [0, 0, addr_of!(parts) as usize, PARTS + 1, 0, 0, 0];
            if call(46, socket, addr_of!(message) as usize, 0x4000) != all as isize {
                call(3, socket, 0, 0);
                return give_back(input, got, false);
            }

            let wait = AGENT_WAIT.as_millis() as u64;
            let wait = if delete { wait / 2 } else { wait };
            let answer = ANSWER.0.get().cast::<u8>();
            let mut status = 0;
            // rt_sigaction(SIGPIPE, { SIG_IGN, … }): whoever reads no more is told of by the exit code. main does so anyway.
            let ignore: [usize; 4] = [1, 0, 0, 0];
            call4(13, 13, ignore.as_ptr() as usize, 0, 8);
            let mut written = true;
            loop {
                let n = if readable(socket, wait) { read(socket, answer, MAX_INPUT) } else { -1 };
                if n == EINTR || n == EAGAIN {
                    continue;
                }
                if status == 0 {
                    if n <= 0 {
                        // It may have done something: not to be asked again.
                        OUTCOME.store(2, Ordering::Relaxed);
                    }
                    if n > 0 {
                        status = at(answer);
                    }
                    if status != SUCCESS && status != FAILURE {
                        call(3, socket, 0, 0);
                        return give_back(input, got, false);
                    }
                    written &= write(1, answer.add(1), n as usize - 1);
                } else if n > 0 {
                    written &= write(1, answer, n as usize);
                } else if written {
                    exit(usize::from(status == FAILURE));
                } else {
                    write(2, UNWRITTEN.as_ptr(), UNWRITTEN.len());
                    exit(1);
                }
            }
        }
    }

    /// Puts what was read back onto standard input, as a file in memory; with `more`, also what follows.
    unsafe fn give_back(input: *mut u8, got: usize, more: bool) {
        if got == 0 {
            return;
        }
        // SAFETY: `input` has `MAX_INPUT` bytes, of which `got` are read.
        unsafe {
            let file = call(319, c"stdin".as_ptr() as usize, 1, 0); // memfd_create(…, MFD_CLOEXEC)
            if file < 0 {
                return;
            }
            let file = file as usize;
            write(file, input, got);
            while more && readable(0, STDIN_WAIT.as_millis() as u64) {
                match read(0, input, MAX_INPUT) {
                    EINTR => {}
                    n if n <= 0 => break,
                    n => {
                        write(file, input, n as usize);
                    }
                }
            }
            call(8, file, 0, 0); // lseek(…, 0, SEEK_SET)
            call(33, file, 0, 0); // dup2(…, 0)
            call(3, file, 0, 0); // close
        }
    }

    unsafe fn at(text: *const u8) -> u8 {
        // SAFETY: the caller's.
        unsafe { text.read_volatile() }
    }

    /// Whether a string that ends with a zero begins with this.
    unsafe fn starts_with(text: *const u8, word: &[u8]) -> bool {
        // SAFETY: reading ends at the first difference, so at the final zero at the latest.
        unsafe { equal(text, word) }
    }

    /// The value of a variable, if `text` is that one.
    unsafe fn take(text: *const u8, name: &[u8], into: &mut Text) -> bool {
        // SAFETY: strings of the environment end with a zero.
        unsafe {
            if !starts_with(text, name) {
                return false;
            }
            let value = text.add(name.len());
            let mut len = 0;
            while at(value.add(len)) != 0 {
                len += 1;
            }
            // The first of several counts, as with getenv.
            if into.len == 0 {
                *into = Text { at: value, len };
            }
        }
        true
    }

    /// Whether the configuration may name another run directory than the usual: whatever it is, the long way knows.
    unsafe fn elsewhere(text: *const u8, len: usize) -> bool {
        const KEY: &[u8] = b"run_dir";
        const USUAL: &[u8] = b"\":\"/run/slash32\"";
        let mut i = 0;
        while i + KEY.len() <= len {
            // SAFETY: i + KEY.len() is at most `len`.
            if unsafe { at(text.add(i)) == KEY[0] && equal(text.add(i), KEY) } {
                let mut from = i + KEY.len();
                let mut j = 0;
                // Spaces and line breaks, which JSON allows on both sides of the colon, do not matter.
                while from < len && j < USUAL.len() {
                    // SAFETY: both are in bounds.
                    let (is, wanted) = unsafe { (at(text.add(from)), at(USUAL.as_ptr().add(j))) };
                    if is == wanted {
                        j += 1;
                    } else if is > b' ' || j == 0 {
                        break;
                    }
                    from += 1;
                }
                if j < USUAL.len() {
                    return true;
                }
            }
            i += 1;
        }
        false
    }

    #[cfg(test)]
    pub(super) fn is_elsewhere(text: &str) -> bool {
        // SAFETY: a whole string.
        unsafe { elsewhere(text.as_ptr(), text.len()) }
    }

    /// Whether bytes are these, as many as these are.
    unsafe fn equal(text: *const u8, word: &[u8]) -> bool {
        let mut i = 0;
        // SAFETY: the caller's.
        while i < word.len() && unsafe { at(text.add(i)) == at(word.as_ptr().add(i)) } {
            i += 1;
        }
        i == word.len()
    }

    /// poll(2) for one descriptor; true also at the end of the stream and after an error, which reading will tell.
    unsafe fn readable(fd: usize, milliseconds: u64) -> bool {
        loop {
            // struct pollfd: the descriptor, the events, what was found.
            let mut poll: u64 = fd as u64 | POLLIN << 32;
            // SAFETY: one structure of eight bytes.
            let n = unsafe { call(7, (&raw mut poll) as usize, 1, milliseconds as usize) };
            if n != EINTR {
                return n != 0;
            }
        }
    }

    unsafe fn read(fd: usize, into: *mut u8, len: usize) -> isize {
        // SAFETY: the caller's.
        unsafe { call(0, fd, into as usize, len) }
    }

    /// Writes everything, or what the other end takes; whether that was all.
    unsafe fn write(fd: usize, from: *const u8, len: usize) -> bool {
        let mut done = 0;
        while done < len {
            // SAFETY: the caller's.
            match unsafe { call(1, fd, from as usize + done, len - done) } {
                EINTR => {}
                n if n <= 0 => return false,
                n => done += n as usize,
            }
        }
        true
    }

    unsafe fn exit(code: usize) -> ! {
        loop {
            // SAFETY: exit_group does not return.
            unsafe { call(231, code, 0, 0) };
        }
    }

    /// A system call with three arguments.
    unsafe fn call(number: usize, a: usize, b: usize, c: usize) -> isize {
        // SAFETY: the caller's.
        unsafe { call4(number, a, b, c, 0) }
    }

    /// A system call with four arguments (x86-64: the number in rax, arguments in rdi, rsi, rdx, r10).
    unsafe fn call4(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
        let result: isize;
        // SAFETY: the kernel changes rax, rcx, r11 and what the arguments point to, which is the caller's to know.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") number => result,
                in("rdi") a,
                in("rsi") b,
                in("rdx") c,
                in("r10") d,
                lateout("rcx") _,
                lateout("r11") _,
                options(nostack),
            );
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_directories() {
        for (text, is_elsewhere) in [
            ("{}", false),
            (r#"{"run_dir":"/run/slash32"}"#, false),
            ("{\"run_dir\" :\n\t \"/run/slash32\", \"x\": 1}", false),
            (r#"{"run_dir":"/run/slash32/x"}"#, true),
            (r#"{"run_dir":"/run/slash3"}"#, true),
            (r#"{"run_dir":"/run/slash32","run_dir":"/x"}"#, true),
            (r#"{"run_dir":"\u002frun/slash32"}"#, true),
            (r#"{"run_dir":"/run/ slash32"}"#, false),
            (r#"{"run_dir""#, true),
            ("run_dir", true),
        ] {
            assert_eq!(short::is_elsewhere(text), is_elsewhere, "{text}");
        }
    }

    fn request(parts: [&[u8]; PARTS]) -> Vec<u8> {
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend(parts.iter().flat_map(|part| (part.len() as u32).to_ne_bytes()));
        bytes.extend(parts.concat());
        bytes
    }

    #[test]
    fn requests_are_complete_incomplete_or_none() {
        let parts: [&[u8]; PARTS] = [b"ADD", b"c1", b"/run/netns/x", b"eth0", b"", b"/opt/cni/bin", b"{}"];
        let bytes = request(parts);
        assert_eq!(parse(&bytes), Ok(Some(parts)));
        for end in 0..bytes.len() {
            assert_eq!(parse(&bytes[..end]), Ok(None), "{end}");
        }
        assert_eq!(parse(b"GET / HTTP/1.1\r\n"), Err(()));
        let mut long = bytes;
        long[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(parse(&long), Err(()));
    }
}
