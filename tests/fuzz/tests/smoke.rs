//! Each target on its seeds and on varied inputs: no panic, no hang, no flood of memory.
//!
//! `USHER_FUZZ_ITERATIONS` says how many varied inputs each target takes, `USHER_FUZZ_SEED` from which number they are
//! made, and `USHER_FUZZ_INPUT` names a file to take instead of all that. `USHER_FUZZ_CORPUS` names a folder: then
//! nothing is run, and the seeds are written there for libFuzzer to begin with.

use std::{
    env, fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use peak_alloc::PeakAlloc;
use rand::{Rng as _, RngCore as _, SeedableRng as _, rngs::StdRng};
use usher_fuzz::{
    TARGETS, Target,
    mutate::{Choices, mutate},
};

/// How long one input may take, on a machine that has other things to do.
const INPUT_TIME_MAX: Duration = Duration::from_secs(20);
/// How many bytes one input may have allocated at a time, besides what was there before.
const INPUT_BYTES_MAX: usize = 192 << 20;
/// The most bytes of an input that is made up.
const RANDOM_BYTES_MAX: usize = 256;
/// How often the watch looks whether an input takes too long.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// One target at a time: memory is counted for the whole process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The input at hand and since when, for the watch.
type AtHand = Arc<Mutex<Option<(Instant, Vec<u8>)>>>;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}

/// Runs a target on all its inputs.
fn smoke(name: &str) {
    let _one = locked(&ONE_AT_A_TIME);
    let target = *TARGETS.iter().find(|target| target.name == name).expect("the tests are named after the targets");
    let at_hand = AtHand::default();
    let (done, finished) = mpsc::channel();
    let worker = {
        let at_hand = at_hand.clone();
        thread::spawn(move || {
            // A panic drops `done`, and the watch takes it from the thread.
            run_all(&target, &at_hand);
            done.send(()).expect("the watch waits");
        })
    };
    loop {
        match finished.recv_timeout(WATCH_INTERVAL) {
            Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        if let Some((since, input)) = &*locked(&at_hand)
            && since.elapsed() > INPUT_TIME_MAX
        {
            panic!("{name} takes longer than {INPUT_TIME_MAX:?} on {}", keep(name, input).display());
        }
    }
    // Also after success: what the thread frees at its end would be missing from the next target's count.
    if let Err(panic) = worker.join() {
        std::panic::resume_unwind(panic);
    }
}

fn run_all(target: &Target, at_hand: &AtHand) {
    if let Some(path) = env::var_os("USHER_FUZZ_INPUT") {
        return run_one(target, fs::read(&path).expect("the input can be read"), at_hand);
    }
    let seeds = (target.seeds)();
    if let Some(corpus) = env::var_os("USHER_FUZZ_CORPUS") {
        return write_corpus(&Path::new(&corpus).join(target.name), &seeds);
    }
    for seed in &seeds {
        run_one(target, seed.clone(), at_hand);
    }
    let iterations = number("USHER_FUZZ_ITERATIONS").unwrap_or(target.smoke as u64);
    let mut random = StdRng::seed_from_u64(number("USHER_FUZZ_SEED").unwrap_or_default());
    for _ in 0..iterations {
        run_one(target, varied(&seeds, &mut random), at_hand);
    }
}

/// A changed seed, with more decisions behind it or without; or nothing but chance.
fn varied(seeds: &[Vec<u8>], random: &mut StdRng) -> Vec<u8> {
    let mut chance = vec![0; random.random_range(1..RANDOM_BYTES_MAX)];
    random.fill_bytes(&mut chance);
    let seed = &seeds[random.random_range(0..seeds.len())];
    match random.random_range(0..4) {
        0 => chance,
        1 | 2 => {
            let kept = random.random_range(0..=seed.len());
            [&seed[..kept], &chance].concat()
        }
        _ => mutate(seed, seeds, &mut Choices::new(&chance)),
    }
}

fn run_one(target: &Target, input: Vec<u8>, at_hand: &AtHand) {
    *locked(at_hand) = Some((Instant::now(), input.clone()));
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let ran = catch_unwind(AssertUnwindSafe(|| (target.run)(&input)));
    let bytes = ALLOCATOR.peak_usage().saturating_sub(before);
    if ran.is_err() {
        panic!("{} fails on {}", target.name, keep(target.name, &input).display());
    }
    assert!(
        bytes <= INPUT_BYTES_MAX,
        "{} allocates {bytes} bytes on {}",
        target.name,
        keep(target.name, &input).display()
    );
    *locked(at_hand) = None;
}

fn write_corpus(folder: &Path, seeds: &[Vec<u8>]) {
    fs::create_dir_all(folder).expect("the corpus folder can be made");
    for (number, seed) in seeds.iter().enumerate() {
        fs::write(folder.join(format!("seed-{number}")), seed).expect("a seed can be written");
    }
}

/// Writes an input down, to be run again.
fn keep(name: &str, input: &[u8]) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{name}-{}.bin", input.len()));
    fs::write(&path, input).expect("the input can be written down");
    path
}

macro_rules! smoke {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                smoke(stringify!($name));
            }
        )*

        #[test]
        fn every_target_has_its_test_and_its_fuzz_binary() {
            let tests = [$(stringify!($name)),*];
            assert_eq!(tests.map(String::from).to_vec(), TARGETS.map(|target| target.name.to_owned()).to_vec());
            let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("cargo-fuzz/Cargo.toml"));
            let manifest = manifest.unwrap();
            for name in tests {
                assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} has no binary in cargo-fuzz/");
            }
        }
    };
}

smoke! {
    queue_bodies logs snapshots states key_packages welcomes contents group_messages commits identity_updates
}

/// Runs something wrong, as a target.
fn run_wrong(run: fn(&[u8])) {
    let _one = locked(&ONE_AT_A_TIME);
    run_one(&Target { name: "wrong", run, seeds: Vec::new, smoke: 0 }, b"input".to_vec(), &AtHand::default());
}

#[test]
#[should_panic(expected = "wrong fails on ")]
fn a_panic_is_a_failure() {
    run_wrong(|_| panic!("ordered"));
}

#[test]
#[should_panic(expected = "bytes on ")]
fn a_flood_of_memory_is_a_failure() {
    // Much more than allowed: other tests' threads end beside this one and free a little.
    run_wrong(|_| drop(std::hint::black_box(vec![1_u8; 2 * INPUT_BYTES_MAX])));
}
