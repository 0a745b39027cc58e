#include "team.h"

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

#if defined(__unix__)
#include <pthread.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {
constexpr int SPINS = 1 << 11;          // of some ten nanoseconds each, before a thread sleeps or gives way
constexpr int64_t MOST_THREADS = 1024;
constexpr uint64_t CLOSED = 0xFFFFFFFF;  // a piece that no job has

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

// What is to be done. `taken` holds the number of the job and the piece that is taken next, so that a thread which
// comes late cannot take a piece of a job that it has not read.
struct Team {
  std::atomic<uint64_t> taken{0};  // job << 32 | piece
  std::atomic<int64_t> pieces{0}, done{0};
  std::atomic<Piece> body{nullptr};
  std::atomic<const void*> data{nullptr};
  std::atomic<int64_t> wanted{0};  // threads beside the caller
  std::atomic<int> asleep{0};
  std::mutex lock;
  std::condition_variable wake;
  std::mutex caller;
  int64_t threads = 0;  // that were made

  bool take();
  void look_out(int64_t number);
  void sleep(int64_t number, uint64_t job);
  void make(int64_t count);
  void open(int64_t others, int64_t count, Piece does, const void* with);
};

// Does one piece; false where there is none.
bool Team::take() {
  uint64_t now = taken.load(std::memory_order_acquire);
  for (;;) {
    const int64_t piece = int64_t(now & CLOSED);
    const Piece does = body.load(std::memory_order_relaxed);
    const void* with = data.load(std::memory_order_relaxed);
    if (piece >= pieces.load(std::memory_order_relaxed)) return false;
    if (!taken.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
    does(with, piece);
    done.fetch_add(1, std::memory_order_release);
    return true;
  }
}

void Team::sleep(int64_t number, uint64_t job) {
  std::unique_lock<std::mutex> held(lock);
  asleep.fetch_add(1);
  wake.wait(held, [&] { return taken.load() >> 32 != job && number < wanted.load(); });
  asleep.fetch_sub(1);
}

void Team::look_out(int64_t number) {
  for (uint64_t job = 0;;) {
    for (int spin = 0; spin < SPINS; ++spin) {
      if (taken.load(std::memory_order_acquire) >> 32 == job || number >= wanted.load(std::memory_order_relaxed)) {
        pause();
        continue;
      }
      job = taken.load(std::memory_order_acquire) >> 32;
      while (take()) {
      }
      spin = 0;
    }
    sleep(number, job);
  }
}

// Fewer where the system gives no more.
void Team::make(int64_t count) {
  try {
    for (; threads < count; ++threads) std::thread(&Team::look_out, this, threads).detach();
  } catch (const std::exception&) {
  }
}

// Puts out the next job. The last one is closed before a word of it changes: nobody takes a piece of neither.
void Team::open(int64_t others, int64_t count, Piece does, const void* with) {
  const uint64_t job = (taken.load(std::memory_order_relaxed) >> 32) + 1;
  taken.exchange((job - 1) << 32 | CLOSED, std::memory_order_acq_rel);
  done.store(0, std::memory_order_relaxed);
  body.store(does, std::memory_order_relaxed);
  data.store(with, std::memory_order_relaxed);
  wanted.store(others, std::memory_order_relaxed);
  pieces.store(count, std::memory_order_relaxed);
  taken.store(job << 32);
  if (!asleep.load()) return;
  std::lock_guard<std::mutex> held(lock);
  wake.notify_all();
}

// Never ended: its threads look at it until the process is gone.
std::atomic<Team*> the_team{nullptr};

void new_team() { the_team = new Team; }  // in a child too, where the threads of the old one are not

Team& team() {
  static std::once_flag once;
  std::call_once(once, [] {
    new_team();
#if defined(__unix__)
    pthread_atfork(nullptr, nullptr, new_team);
#endif
  });
  return *the_team;
}

thread_local int depth = 0;
}  // namespace

InTeam::InTeam() { ++depth; }
InTeam::~InTeam() { --depth; }
bool in_team() { return depth > 0; }

void team_run(int64_t threads, int64_t pieces, Piece body, const void* data) {
  Team& all = team();
  const int64_t others = (threads < MOST_THREADS ? threads : MOST_THREADS) - 1;
  if (others < 1 || pieces < 2 || !all.caller.try_lock()) {
    for (int64_t piece = 0; piece < pieces; ++piece) body(data, piece);
    return;
  }
  all.make(others);
  all.open(others, pieces, body, data);
  while (all.take()) {
  }
  for (int spin = 0; all.done.load(std::memory_order_acquire) < pieces; ++spin)
    spin < SPINS ? pause() : std::this_thread::yield();
  all.caller.unlock();
}
