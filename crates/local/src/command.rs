//! Runs one tool to its end, within a deadline.
//!
//! Survives: tools that print without end (only the last 64 KiB are kept), that hang (the whole process group is
//! killed), that leave a background process holding their output open. Error messages carry the program's name,
//! how it ended and its last words, never its arguments, which may hold secrets.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How much of each stream is kept.
const KEPT_BYTES: usize = 64 * 1024;
/// How much of one line of standard error is kept: a statement that failed may be as long as the schema.
const KEPT_OF_A_LINE: usize = 1024;
/// How many of the last lines an error message shows.
const SHOWN_LINES: usize = 8;
/// How long after the program's end its output may still come, if something in the background holds it open.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);

/// What a program that ended well has said.
#[derive(Clone, Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// The last 64 KiB of its standard output.
    pub stdout: String,
    /// The last 64 KiB of its standard error, of each line the first KiB.
    pub stderr: String,
}

/// Why a program did not end well.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It could not be started.
    #[error("cannot run `{program}`")]
    Spawn {
        /// The program's path.
        program: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It ended, but not with success.
    #[error("`{program}` failed ({}){}", output.status, last_words(output))]
    Failed {
        /// The program's file name.
        program: String,
        /// Everything it said.
        output: Box<Output>,
    },
    /// It was killed at the deadline.
    #[error("`{program}` was killed after {} s without an end{last_words}", deadline.as_secs_f64())]
    TimedOut {
        /// The program's file name.
        program: String,
        /// How long it had.
        deadline: Duration,
        /// The last lines it had written, after a colon; empty if there were none.
        last_words: String,
    },
}

/// Runs `command` to its end and returns what it said.
///
/// The program gets a process group of its own, which is killed at the deadline or when this future is dropped.
///
/// # Errors
/// [`CommandError`]: not started, ended without success, or killed at the deadline.
pub async fn run(command: Command, deadline: Duration) -> Result<Output, CommandError> {
    run_with_lines(command, deadline, |_| ()).await
}

/// Like [`run`], with `input` on its standard input; one that does not read it is not waited for.
///
/// # Errors
/// As for [`run`].
pub async fn run_with_input(mut command: Command, input: Vec<u8>, deadline: Duration) -> Result<Output, CommandError> {
    command.stdin(Stdio::piped());
    run_to_the_end(command, Some(input), deadline, |_| ()).await
}

/// Like [`run`], and calls `each_line` with every line of both streams as it comes.
///
/// A carriage return ends a line too: tools redraw their progress with it.
///
/// # Errors
/// As for [`run`].
pub async fn run_with_lines(
    command: Command,
    deadline: Duration,
    each_line: impl FnMut(&str) + Send,
) -> Result<Output, CommandError> {
    run_to_the_end(command, None, deadline, each_line).await
}

async fn run_to_the_end(
    mut command: Command,
    input: Option<Vec<u8>>,
    deadline: Duration,
    mut each_line: impl FnMut(&str) + Send,
) -> Result<Output, CommandError> {
    let end = Instant::now() + deadline;
    let path = std::path::PathBuf::from(command.as_std().get_program());
    let program = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
    let mut child = command
        .spawn()
        .map_err(|source| CommandError::Spawn { program: path.to_string_lossy().into_owned(), source })?;
    let mut group = Group(child.id());
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        // ends by itself: when all is read, or when nobody reads any more
        tokio::spawn(async move { stdin.write_all(&input).await });
    }
    let (sender, mut chunks) = mpsc::channel(16);
    forward(child.stdout.take(), Stream::Out, sender.clone());
    forward(child.stderr.take(), Stream::Err, sender);

    let (mut out, mut err) = (Lines::of_at_most(usize::MAX), Lines::of_at_most(KEPT_OF_A_LINE));
    let mut status = None;
    let mut until = end;
    loop {
        tokio::select! {
            // Output first, so that nothing said before the end is missed.
            biased;
            chunk = chunks.recv() => match chunk {
                Some((Stream::Out, bytes)) => out.push(&bytes, &mut each_line),
                Some((Stream::Err, bytes)) => err.push(&bytes, &mut each_line),
                None if status.is_some() => break,
                // It closed its output but goes on: only its end is waited for now.
                None => match tokio::time::timeout_at(until, child.wait()).await {
                    Ok(ended) => {
                        group.0 = None;
                        status = Some(ended);
                        break;
                    }
                    Err(_) => break,
                },
            },
            ended = child.wait(), if status.is_none() => {
                group.0 = None;
                status = Some(ended);
                until = Instant::now() + OUTPUT_GRACE;
            }
            () = tokio::time::sleep_until(until) => break,
        }
    }
    let (stdout, stderr) = (out.finish(&mut each_line), err.finish(&mut each_line));
    match status {
        None => {
            group.kill();
            // Reaped here, so that no zombie stays behind; it cannot take long after SIGKILL.
            let _ = tokio::time::timeout(OUTPUT_GRACE, child.wait()).await;
            Err(CommandError::TimedOut { program, deadline, last_words: last_words_of(&stdout, &stderr) })
        }
        Some(Err(source)) => Err(CommandError::Spawn { program, source }),
        Some(Ok(status)) => {
            let output = Output { status, stdout, stderr };
            if status.success() { Ok(output) } else { Err(CommandError::Failed { program, output: Box::new(output) }) }
        }
    }
}

/// Kills a process group when dropped; emptied once the group's leader was reaped, as its number is then free.
struct Group(Option<u32>);

impl Group {
    fn kill(&mut self) {
        if let Some(leader) = self.0.take().and_then(|pid| i32::try_from(pid).ok()) {
            // Gone already is what was wanted.
            let _ = killpg(Pid::from_raw(leader), Signal::SIGKILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

#[derive(Clone, Copy)]
enum Stream {
    Out,
    Err,
}

fn forward<R>(reader: Option<R>, stream: Stream, sender: mpsc::Sender<(Stream, Vec<u8>)>)
where
    R: AsyncRead + Send + Unpin + 'static,
{
    let Some(mut reader) = reader else { return };
    // Ends by itself: at the end of the stream, or when nobody receives any more.
    tokio::spawn(async move {
        let mut buffer = vec![0; 8 * 1024];
        loop {
            tokio::select! {
                () = sender.closed() => return,
                read = reader.read(&mut buffer) => match read {
                    Ok(0) | Err(_) => return,
                    Ok(length) => {
                        if sender.send((stream, buffer[..length].to_vec())).await.is_err() {
                            return;
                        }
                    }
                },
            }
        }
    });
}

/// One stream: its last bytes, and the line that is not complete yet.
struct Lines {
    kept: Vec<u8>,
    partial: Vec<u8>,
    /// How much of a line is kept, and how long the last one is.
    at_most: usize,
    length: usize,
}

impl Lines {
    fn of_at_most(at_most: usize) -> Self {
        Self { kept: Vec::new(), partial: Vec::new(), at_most, length: 0 }
    }

    fn keep(&mut self, bytes: &[u8]) {
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, end) = line.split_at(line.len() - usize::from(line.ends_with(b"\n")));
            let room = self.at_most.saturating_sub(self.length).min(text.len());
            self.kept.extend_from_slice(&text[..room]);
            self.kept.extend_from_slice(end);
            self.length = if end.is_empty() { self.length + text.len() } else { 0 };
        }
    }

    fn push(&mut self, bytes: &[u8], each_line: &mut impl FnMut(&str)) {
        self.keep(bytes);
        if self.kept.len() > 2 * KEPT_BYTES {
            self.kept.drain(..self.kept.len() - KEPT_BYTES);
        }
        for byte in bytes {
            match byte {
                b'\n' | b'\r' => self.emit(each_line),
                _ => self.partial.push(*byte),
            }
            if self.partial.len() >= KEPT_BYTES {
                self.emit(each_line);
            }
        }
    }

    fn emit(&mut self, each_line: &mut impl FnMut(&str)) {
        if !self.partial.is_empty() {
            each_line(&String::from_utf8_lossy(&self.partial));
            self.partial.clear();
        }
    }

    fn finish(mut self, each_line: &mut impl FnMut(&str)) -> String {
        self.emit(each_line);
        let from = self.kept.len().saturating_sub(KEPT_BYTES);
        String::from_utf8_lossy(&self.kept[from..]).into_owned()
    }
}

fn last_words(output: &Output) -> String {
    last_words_of(&output.stdout, &output.stderr)
}

/// The last lines of stderr, or of stdout where stderr is silent (`pg_upgrade` complains there); before them the first that
/// speaks of an error, from which the others may only follow.
fn last_words_of(stdout: &str, stderr: &str) -> String {
    let said = if stderr.trim().is_empty() { stdout } else { stderr };
    let lines: Vec<&str> = said.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let (before, last) = lines.split_at(lines.len().saturating_sub(SHOWN_LINES));
    let first = before.iter().find(|line| line.contains("ERROR:") || line.contains("error:"));
    match last {
        [] => String::new(),
        last => format!(": {}", first.into_iter().chain(last).copied().collect::<Vec<_>>().join("\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process;

    const LONG: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(script);
        command
    }

    #[tokio::test]
    async fn a_failing_program_is_reported_by_name_status_and_last_words_without_its_arguments() {
        let error = run(shell("echo out; echo 'no such thing' >&2; exit 3 # hunter2"), LONG).await.unwrap_err();
        assert_eq!(error.to_string(), "`sh` failed (exit status: 3): no such thing");
    }

    #[tokio::test]
    async fn the_first_error_is_told_however_long_and_many_the_lines_after_it_are() {
        let long = "i=0; while [ $i -lt 30000 ]; do printf 'public.table_%s, ' $i; i=$((i+1)); done";
        let script = format!("exec >&2; echo 'dump: error: ERROR:  out of memory'; {long}; echo; seq 1 9; exit 1");
        let error = run(shell(&script), LONG).await.unwrap_err().to_string();
        assert_eq!(error, "`sh` failed (exit status: 1): dump: error: ERROR:  out of memory\n2\n3\n4\n5\n6\n7\n8\n9");
        let error = run(shell(&format!("exec >&2; {long}; exit 1")), LONG).await.unwrap_err().to_string();
        assert!(error.len() < KEPT_OF_A_LINE + 100 && error.contains("public.table_1, "), "{error}");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named() {
        let error = run(Command::new("/nowhere/initdb"), LONG).await.unwrap_err();
        assert_eq!(error.to_string(), "cannot run `/nowhere/initdb`");
    }

    #[tokio::test]
    async fn a_program_reads_its_input_to_the_end_or_not_at_all() {
        let input = vec![b'x'; 1 << 20];
        let output = run_with_input(shell("wc -c"), input.clone(), LONG).await.unwrap();
        assert_eq!(output.stdout.trim(), input.len().to_string());
        assert_eq!(run_with_input(shell("echo done"), input, LONG).await.unwrap().stdout, "done\n");
    }

    #[tokio::test]
    async fn only_the_end_of_a_long_output_is_kept() {
        let script = "i=0; while [ $i -lt 20000 ]; do echo line-$i; i=$((i+1)); done";
        let output = run(shell(script), LONG).await.unwrap();
        assert!(output.stdout.len() <= KEPT_BYTES);
        assert!(output.stdout.ends_with("line-19999\n"));
    }

    #[tokio::test]
    async fn at_the_deadline_the_whole_process_group_is_killed() {
        let mut children = Vec::new();
        let error = run_with_lines(shell("sleep 600 & echo $!; echo $$; wait"), Duration::from_millis(500), |line| {
            children.push(line.parse::<u32>().unwrap());
        })
        .await
        .unwrap_err();
        assert!(matches!(error, CommandError::TimedOut { .. }), "{error}");
        assert_eq!(children.len(), 2);
        for pid in children {
            assert!(process::gone(pid, LONG).await, "{pid} still lives");
        }
    }

    #[tokio::test]
    async fn dropping_the_future_kills_the_whole_process_group() {
        let (sender, mut pids) = mpsc::unbounded_channel();
        let task = tokio::spawn(run_with_lines(shell("sleep 600 & echo $!; wait"), LONG, move |line| {
            sender.send(line.parse::<u32>().unwrap()).unwrap();
        }));
        let pid = pids.recv().await.unwrap();
        task.abort();
        assert!(process::gone(pid, LONG).await, "{pid} still lives");
    }

    #[tokio::test]
    async fn a_background_process_that_holds_the_output_open_does_not_hold_us() {
        let begun = Instant::now();
        let output = run(shell("(trap '' HUP; sleep 5) & echo started"), LONG).await.unwrap();
        assert_eq!(output.stdout, "started\n");
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn a_program_that_closes_its_output_is_still_waited_for() {
        let error = run(shell("exec >&- 2>&-; sleep 0.2; exit 7"), LONG).await.unwrap_err();
        assert_eq!(error.to_string(), "`sh` failed (exit status: 7)");
    }

    #[tokio::test]
    async fn lines_come_one_by_one_from_both_streams_and_a_carriage_return_ends_one() {
        let mut lines = Vec::new();
        run_with_lines(shell(r"printf '10%%\r20%%\r\n'; printf 'last' >&2"), LONG, |line| lines.push(line.to_string()))
            .await
            .unwrap();
        lines.sort();
        assert_eq!(lines, ["10%", "20%", "last"]);
    }
}
