//! Fault points: named places between effects where a test can kill the process, hold it, or drop the run.
//!
//! `fault_point!("switchover.after_pause")` expands to nothing without the feature `faults`. With it, the environment
//! variable `PGLEAP_FAULT` chooses what happens, once for the whole process:
//!
//! | value | at the point |
//! | --- | --- |
//! | `kill:<name>` | SIGKILL to this process at that point |
//! | `kill-each:<file>` | SIGKILL at the first point whose name is not a line of the file, after adding it: a chain of resumes dies once at every point. A line `*.suffix` stands for every name that ends so |
//! | `trace:<file>` | adds each name to the file, once |
//! | `hold:<name>:<file>` | makes the file on arriving there, and goes on when it is gone (at most 60 s) |
//!
//! Inside a test's own process, [`Script`] does the same to one future.

/// Marks a place where a test can break in; see [`mod@fault`](crate::fault). For async code; the name is any string, and
/// is not evaluated without the feature.
#[cfg(feature = "faults")]
#[macro_export]
macro_rules! fault_point {
    ($name:expr) => {
        $crate::fault::hit($name).await
    };
}

/// Marks a place where a test can break in. Without the feature `faults` it does nothing and costs nothing.
#[cfg(not(feature = "faults"))]
#[macro_export]
macro_rules! fault_point {
    ($name:expr) => {
        if false {
            let _ = $name;
        }
    };
}

#[cfg(feature = "faults")]
pub use enabled::{Script, hit};

#[cfg(feature = "faults")]
mod enabled {
    use std::{
        collections::HashSet,
        fs::{self, OpenOptions},
        future::{Future, pending},
        io::{self, Write},
        path::{Path, PathBuf},
        sync::{Arc, Mutex, OnceLock, PoisonError},
        time::Duration,
    };

    use tokio::{sync::Notify, task_local, time::Instant};

    const HOLD_AT_MOST: Duration = Duration::from_secs(60);
    const HOLD_POLL: Duration = Duration::from_millis(5);

    task_local! {
        static SCRIPT: Arc<Inner>;
    }

    /// Watches the fault points of one future, and can end it at one of them as a kill would, or hold it there.
    #[derive(Clone, Default)]
    pub struct Script {
        inner: Arc<Inner>,
    }

    #[derive(Default)]
    struct Inner {
        fatal: Fatal,
        /// Where the future waits, the first time it comes by.
        hold: Option<String>,
        arrivals: Mutex<Vec<String>>,
        reached: Notify,
        released: Notify,
    }

    /// Where the future goes no further.
    #[derive(Default)]
    enum Fatal {
        #[default]
        Nowhere,
        /// At this arrival, counted from 0 over all points.
        Arrival(usize),
        /// At the first point that is not one of these.
        New(HashSet<String>),
    }

    impl Script {
        /// Returns a script that only lists the points.
        pub fn trace() -> Self {
            Self::default()
        }

        /// Returns a script that ends its future at the arrival of this number, from 0.
        pub fn kill_at(arrival: usize) -> Self {
            Self::ending(Fatal::Arrival(arrival))
        }

        /// Returns a script that ends its future at the first point that is not in `seen`.
        pub fn kill_at_new(seen: HashSet<String>) -> Self {
            Self::ending(Fatal::New(seen))
        }

        /// Returns a script that holds its future at the first arrival at this point, until [`Script::release`].
        pub fn hold_at(point: impl Into<String>) -> Self {
            Self { inner: Arc::new(Inner { hold: Some(point.into()), ..Inner::default() }) }
        }

        /// Waits until the future is held.
        pub async fn held(&self) {
            self.inner.reached.notified().await;
        }

        /// Lets a held future go on.
        pub fn release(&self) {
            self.inner.released.notify_one();
        }

        fn ending(fatal: Fatal) -> Self {
            Self { inner: Arc::new(Inner { fatal, ..Inner::default() }) }
        }

        /// Returns the names of the points in the order they were reached.
        pub fn arrivals(&self) -> Vec<String> {
            lock(&self.inner.arrivals).clone()
        }

        /// Runs the future under the script. `None`: it was dropped at the chosen point.
        pub async fn run<F: Future>(&self, future: F) -> Option<F::Output> {
            let ended = async {
                match self.inner.hold {
                    Some(_) => pending().await,
                    None => self.inner.reached.notified().await,
                }
            };
            tokio::select! {
                biased;
                output = SCRIPT.scope(self.inner.clone(), future) => Some(output),
                () = ended => None,
            }
        }
    }

    impl Inner {
        async fn arrive(&self, name: &str) {
            let (arrival, first) = {
                let mut arrivals = lock(&self.arrivals);
                let first = !arrivals.iter().any(|before| before == name);
                arrivals.push(name.to_owned());
                (arrivals.len() - 1, first)
            };
            if first && self.hold.as_deref() == Some(name) {
                self.reached.notify_one();
                self.released.notified().await;
            }
            let fatal = match &self.fatal {
                Fatal::Nowhere => false,
                Fatal::Arrival(chosen) => *chosen == arrival,
                Fatal::New(seen) => !seen.contains(name),
            };
            if fatal {
                self.reached.notify_one();
                pending::<()>().await;
            }
        }
    }

    /// Does at the point `name` what the test asked for. Called by [`fault_point!`](crate::fault_point).
    pub async fn hit(name: impl AsRef<str>) {
        let name = name.as_ref();
        if let Ok(script) = SCRIPT.try_with(Arc::clone) {
            script.arrive(name).await;
        }
        match Action::chosen() {
            Some(Action::Kill(fatal)) if fatal == name => die(),
            Some(Action::KillEach(names)) if add_line(names, name) => die(),
            Some(Action::Trace(names)) => drop(add_line(names, name)),
            Some(Action::Hold(point, file)) if point == name => hold(file).await,
            _ => {}
        }
    }

    enum Action {
        Kill(String),
        KillEach(PathBuf),
        Trace(PathBuf),
        Hold(String, PathBuf),
    }

    impl Action {
        fn chosen() -> Option<&'static Self> {
            static CHOSEN: OnceLock<Option<Action>> = OnceLock::new();
            let read = || {
                let value = std::env::var("PGLEAP_FAULT").ok()?;
                Some(
                    Self::parse(&value).unwrap_or_else(|| broken(&format!("PGLEAP_FAULT=`{value}` is not understood"))),
                )
            };
            CHOSEN.get_or_init(read).as_ref()
        }

        fn parse(value: &str) -> Option<Self> {
            match value.split_once(':')? {
                (_, "") => None,
                ("kill", name) => Some(Self::Kill(name.into())),
                ("kill-each", file) => Some(Self::KillEach(file.into())),
                ("trace", file) => Some(Self::Trace(file.into())),
                ("hold", rest) => rest.split_once(':').map(|(name, file)| Self::Hold(name.into(), file.into())),
                _ => None,
            }
        }
    }

    fn die() -> ! {
        // SIGKILL is delivered before the call returns; abort is for the compiler.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::SIGKILL);
        std::process::abort()
    }

    /// A test whose faults silently do not happen proves nothing.
    fn broken(why: &str) -> ! {
        eprintln!("fault points: {why}");
        std::process::abort()
    }

    /// Adds a line to the file unless it has it; returns whether it was added.
    fn add_line(file: &Path, name: &str) -> bool {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _guard = lock(&ONE_AT_A_TIME);
        let add = || -> io::Result<bool> {
            let names = match fs::read_to_string(file) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
                read => read?,
            };
            let stands_for = |line: &str| line.strip_prefix('*').is_some_and(|suffix| name.ends_with(suffix));
            if names.lines().any(|line| line == name || stands_for(line)) {
                return Ok(false);
            }
            let mut file = OpenOptions::new().append(true).create(true).open(file)?;
            file.write_all(format!("{name}\n").as_bytes())?;
            file.sync_all()?;
            Ok(true)
        };
        add().unwrap_or_else(|error| broken(&format!("{}: {error}", file.display())))
    }

    async fn hold(file: &Path) {
        static HELD: Mutex<Option<HashSet<PathBuf>>> = Mutex::new(None);
        // Once: a retry that comes by again is not what the test waits for.
        if !lock(&HELD).get_or_insert_default().insert(file.to_owned()) {
            return;
        }
        if let Err(error) = fs::write(file, "") {
            broken(&format!("{}: {error}", file.display()));
        }
        let deadline = Instant::now() + HOLD_AT_MOST;
        while file.exists() && Instant::now() < deadline {
            tokio::time::sleep(HOLD_POLL).await;
        }
    }

    fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn actions_are_read_and_nonsense_is_refused() {
            assert!(matches!(Action::parse("kill:a.b"), Some(Action::Kill(n)) if n == "a.b"));
            assert!(matches!(Action::parse("kill-each:/f"), Some(Action::KillEach(f)) if f == Path::new("/f")));
            assert!(matches!(Action::parse("trace:/f"), Some(Action::Trace(f)) if f == Path::new("/f")));
            assert!(
                matches!(Action::parse("hold:a.b:/f"), Some(Action::Hold(n, f)) if n == "a.b" && f == Path::new("/f"))
            );
            for nonsense in ["", "kill", "kill:", "hold:a.b", "maim:a"] {
                assert!(Action::parse(nonsense).is_none(), "{nonsense}");
            }
        }

        #[tokio::test]
        async fn a_scripted_future_is_dropped_exactly_at_its_point() {
            let walk = |steps: Arc<Mutex<Vec<u8>>>| async move {
                for (n, point) in [(1, "one"), (2, "two"), (3, "three")] {
                    lock(&steps).push(n);
                    crate::fault_point!(point);
                }
            };
            let steps = Arc::new(Mutex::new(Vec::new()));
            let script = Script::kill_at(1);
            assert_eq!(script.run(walk(steps.clone())).await, None);
            assert_eq!(*lock(&steps), [1, 2]);
            assert_eq!(script.arrivals(), ["one", "two"]);

            let script = Script::trace();
            assert_eq!(script.run(walk(steps)).await, Some(()));
            assert_eq!(script.arrivals(), ["one", "two", "three"]);
        }

        #[tokio::test]
        async fn a_held_future_waits_at_its_point_once_and_goes_on_when_released() {
            let passed = Mutex::new(0);
            let walk = async {
                for _ in 0..2 {
                    crate::fault_point!("here");
                    *lock(&passed) += 1;
                }
            };
            let script = Script::hold_at("here");
            let release = async {
                script.held().await;
                assert_eq!(*lock(&passed), 0);
                script.release();
            };
            let (output, ()) = tokio::join!(script.run(walk), release);
            assert_eq!((output, *lock(&passed)), (Some(()), 2));
        }
    }
}
